//! Every subject and every pattern, printed and parsed here and nowhere else.
//!
//! ```text
//! tl.c.<i>.<epoch>.<method>       hub → agent   a call
//! tl.k.<i>.<epoch>.<attempt>      hub → agent   credit, cancel, further chunks of a large call
//! tl.k.<i>.<epoch>.session        hub → agent   kick, go
//! tl.r.<i>.<replica>.<attempt>    agent → hub   reply frames
//! tl.e.<i>.<kind>                 agent → hub   heartbeat
//! tl.q.<i>.<verb>                 agent → hub   claim, ready, stand-down, goodbye
//! tl.i.<i>.<boot>.<n>             hub → agent   answers to tl.q and tl.e
//! tl.b.all                        hub → agents  broadcast
//! ```
//! `<i>` is `<tenant>.<name>`. An agent may subscribe `tl.c.<i>.>`, `tl.k.<i>.>`, `tl.i.<i>.>` and `tl.b.>`, and publish
//! `tl.r.<i>.>`, `tl.e.<i>.>` and `tl.q.<i>.>`: the bus server itself then guarantees that what arrives on `tl.r.a.…`
//! came from `a`.

use std::fmt::Write as _;
use std::str::FromStr;

use thiserror::Error;

use crate::call::Method;
use crate::id::{AttemptId, BootId, Epoch, InstanceId, Name, ReplicaId};

/// Why a subject is none of ours.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{subject}` is not a subject of this protocol: {reason}")]
pub struct ParseSubjectError {
    /// The subject, shortened to 200 characters.
    pub subject: String,
    /// What is wrong with it.
    pub reason: String,
}

/// A method's name as it stands in a subject: `[a-z_]{1,32}`. It may be one that this build does not know; such a call is
/// refused with an answer, never with silence.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MethodName(String);

impl MethodName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<Method> for MethodName {
    fn from(method: Method) -> Self {
        Self(method.name().to_owned())
    }
}

impl FromStr for MethodName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let good =
            (1..=32).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        if good { Ok(Self(text.to_owned())) } else { Err("a method is 1 to 32 of a–z and `_`") }
    }
}

/// What an agent asks of the hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verb {
    /// For an epoch.
    Claim,
    /// To be activated.
    Ready,
    /// To note that it stood down after a kick.
    StandDown,
    /// To note that it leaves of its own will.
    Goodbye,
}

impl Verb {
    const ALL: [(Self, &'static str); 4] = [
        (Self::Claim, "claim"),
        (Self::Ready, "ready"),
        (Self::StandDown, "stand-down"),
        (Self::Goodbye, "goodbye"),
    ];

    fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(verb, _)| *verb == self).map_or("", |(_, word)| word)
    }
}

/// A subject.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the fields are the tokens that the module's table names")]
pub enum Subject {
    /// A call to the session of this epoch.
    Call { instance: InstanceId, epoch: Epoch, method: MethodName },
    /// Credit, cancel or further chunks for one attempt.
    Control { instance: InstanceId, epoch: Epoch, attempt: AttemptId },
    /// Kick and go.
    Session { instance: InstanceId, epoch: Epoch },
    /// A frame of the answer to one attempt.
    Reply { instance: InstanceId, replica: ReplicaId, attempt: AttemptId },
    /// A heartbeat.
    Heartbeat { instance: InstanceId },
    /// A question to the hub.
    Ask { instance: InstanceId, verb: Verb },
    /// The hub's answer to question `number` of this boot.
    Answer { instance: InstanceId, boot: BootId, number: u32 },
    /// To all agents.
    Broadcast,
}

/// What a side subscribes to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the fields are the tokens that the module's table names")]
pub enum Pattern {
    /// Every call to one session.
    Calls { instance: InstanceId, epoch: Epoch },
    /// Every control frame and order to one session.
    Controls { instance: InstanceId, epoch: Epoch },
    /// Every answer to one boot of an agent.
    Answers { instance: InstanceId, boot: BootId },
    /// Every reply to one hub replica.
    Replies { replica: ReplicaId },
    /// Every heartbeat of every instance.
    Heartbeats,
    /// Every question of every instance.
    Asks,
    /// What goes to all agents.
    Broadcasts,
}

/// The first token of every subject: `tl`, unless a shared NATS account needs another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root(Name);

impl Default for Root {
    fn default() -> Self {
        Self(Name::from_str("tl").expect("`tl` is a name"))
    }
}

impl From<Name> for Root {
    fn from(name: Name) -> Self {
        Self(name)
    }
}

/// Reads the subjects of one instance without parsing its name anew each time.
#[derive(Debug, Clone)]
pub struct InstanceSubjects {
    calls: String,
    replies: String,
}

impl InstanceSubjects {
    /// What a call's subject names; `None` for whatever is no call to this instance.
    #[must_use]
    pub fn call<'a>(&self, subject: &'a str) -> Option<(Epoch, &'a str)> {
        let (epoch, method) = subject.strip_prefix(&self.calls)?.split_once('.')?;
        method.parse::<MethodName>().ok()?;
        Some((epoch.parse().ok()?, method))
    }

    /// The attempt of a reply subject; `None` for whatever is no reply subject of this instance.
    #[must_use]
    pub fn reply(&self, subject: &str) -> Option<AttemptId> {
        let (replica, attempt) = subject.strip_prefix(&self.replies)?.split_once('.')?;
        // A fold, for a compiler makes it wide steps, unlike `all`: each call comes by here.
        let is_hex = |b: u8| b.is_ascii_digit() | (b'a'..=b'f').contains(&b);
        let is_replica = replica.len() == 32 && replica.bytes().fold(true, |all, b| all & is_hex(b));
        attempt.parse().ok().filter(|_| is_replica)
    }
}

impl Root {
    /// Prints a subject.
    #[must_use]
    pub fn subject(&self, subject: &Subject) -> String {
        match subject {
            Subject::Call { instance, epoch, method } => self.join("c", Some(instance), &[epoch, &method.0]),
            Subject::Control { instance, epoch, attempt } => {
                self.join("k", Some(instance), &[epoch, attempt])
            }
            Subject::Session { instance, epoch } => self.join("k", Some(instance), &[epoch, &"session"]),
            Subject::Reply { instance, replica, attempt } => {
                self.join("r", Some(instance), &[replica, attempt])
            }
            Subject::Heartbeat { instance } => self.join("e", Some(instance), &[&"heartbeat"]),
            Subject::Ask { instance, verb } => self.join("q", Some(instance), &[&verb.as_str()]),
            Subject::Answer { instance, boot, number } => self.join("i", Some(instance), &[boot, number]),
            Subject::Broadcast => self.join("b", None, &[&"all"]),
        }
    }

    /// The subject of a call, for whoever makes thousands of them a second: [`Root::subject`] without its detours.
    #[must_use]
    pub fn call(&self, instance: &InstanceId, epoch: Epoch, method: Method) -> String {
        self.quickly("c", instance, &epoch.get().to_string(), method.name())
    }

    /// The subject of a reply, as [`Root::call`].
    #[must_use]
    pub fn reply(&self, instance: &InstanceId, replica: ReplicaId, attempt: AttemptId) -> String {
        self.quickly("r", instance, replica.encode(&mut [0; 32]), &attempt.0.to_string())
    }

    fn quickly(&self, kind: &str, instance: &InstanceId, third: &str, fourth: &str) -> String {
        let parts = [self.0.as_str(), kind, instance.tenant.as_str(), instance.name.as_str(), third, fourth];
        parts.join(".")
    }

    /// Prints a pattern, in NATS' own wildcards.
    #[must_use]
    pub fn pattern(&self, pattern: &Pattern) -> String {
        match pattern {
            Pattern::Calls { instance, epoch } => self.join("c", Some(instance), &[epoch, &"*"]),
            Pattern::Controls { instance, epoch } => self.join("k", Some(instance), &[epoch, &"*"]),
            Pattern::Answers { instance, boot } => self.join("i", Some(instance), &[boot, &"*"]),
            Pattern::Replies { replica } => self.join("r", None, &[&"*", &"*", replica, &"*"]),
            Pattern::Heartbeats => self.join("e", None, &[&"*", &"*", &"heartbeat"]),
            Pattern::Asks => self.join("q", None, &[&"*", &"*", &"*"]),
            Pattern::Broadcasts => self.join("b", None, &[&">"]),
        }
    }

    /// The patterns that an agent of this instance may subscribe to, and no others.
    #[must_use]
    pub fn agent_may_subscribe(&self, instance: &InstanceId) -> Vec<String> {
        let mut all: Vec<_> =
            ["c", "k", "i"].iter().map(|kind| self.join(kind, Some(instance), &[&">"])).collect();
        all.push(self.join("b", None, &[&">"]));
        all
    }

    /// The subjects that an agent of this instance may publish to, and no others.
    #[must_use]
    pub fn agent_may_publish(&self, instance: &InstanceId) -> Vec<String> {
        ["r", "e", "q"].iter().map(|kind| self.join(kind, Some(instance), &[&">"])).collect()
    }

    /// The subjects of one instance, for whoever reads thousands of them a second.
    #[must_use]
    pub fn of_instance(&self, instance: &InstanceId) -> InstanceSubjects {
        let prefix = |kind| self.join(kind, Some(instance), &[&""]);
        InstanceSubjects { calls: prefix("c"), replies: prefix("r") }
    }

    /// The attempt that a reply subject names. Whether it is the subject that the attempt was given, its caller knows, and
    /// compares.
    #[must_use]
    pub fn attempt_of(subject: &str) -> Option<AttemptId> {
        subject.rsplit('.').next()?.parse().ok()
    }

    fn join(&self, kind: &str, instance: Option<&InstanceId>, rest: &[&dyn std::fmt::Display]) -> String {
        let mut text = String::with_capacity(96);
        let written = (|| {
            write!(text, "{}.{kind}", self.0)?;
            if let Some(instance) = instance {
                write!(text, ".{}.{}", instance.tenant, instance.name)?;
            }
            rest.iter().try_for_each(|token| write!(text, ".{token}"))
        })();
        debug_assert!(written.is_ok(), "a String takes all that is written to it");
        text
    }

    /// Parses a subject.
    ///
    /// # Errors
    /// When it is none of ours; the error says which token is wrong.
    pub fn parse(&self, text: &str) -> Result<Subject, ParseSubjectError> {
        self.parse_tokens(text)
            .map_err(|reason| ParseSubjectError { subject: text.chars().take(200).collect(), reason })
    }

    fn parse_tokens(&self, text: &str) -> Result<Subject, String> {
        let mut tokens = text.split('.');
        let mut next = |what: &str| tokens.next().ok_or_else(|| format!("it ends before its {what}"));
        let root = next("root")?;
        if root != self.0.as_str() {
            return Err(format!("it does not begin with `{}`", self.0));
        }
        let kind = next("kind")?;
        if kind == "b" {
            let all = next("audience")?;
            return if all == "all" && tokens.next().is_none() {
                Ok(Subject::Broadcast)
            } else {
                Err("a broadcast goes to `all`".to_owned())
            };
        }
        let instance = InstanceId {
            tenant: next("tenant")?.parse().map_err(|error| format!("{error}"))?,
            name: next("instance")?.parse().map_err(|error| format!("{error}"))?,
        };
        let subject = parse_kind(kind, instance, &mut next)?;
        match tokens.next() {
            None => Ok(subject),
            Some(_) => Err("it has tokens after its end".to_owned()),
        }
    }
}

fn parse_kind<'a>(
    kind: &str,
    instance: InstanceId,
    next: &mut impl FnMut(&str) -> Result<&'a str, String>,
) -> Result<Subject, String> {
    fn read<T: FromStr<Err: std::fmt::Display>>(token: Result<&str, String>) -> Result<T, String> {
        token?.parse().map_err(|error| format!("{error}"))
    }
    match kind {
        "c" => Ok(Subject::Call { instance, epoch: read(next("epoch"))?, method: read(next("method"))? }),
        "k" => {
            let epoch = read(next("epoch"))?;
            match next("attempt")? {
                "session" => Ok(Subject::Session { instance, epoch }),
                attempt => Ok(Subject::Control { instance, epoch, attempt: read(Ok(attempt))? }),
            }
        }
        "r" => {
            Ok(Subject::Reply { instance, replica: read(next("replica"))?, attempt: read(next("attempt"))? })
        }
        "e" => match next("kind of event")? {
            "heartbeat" => Ok(Subject::Heartbeat { instance }),
            other => Err(format!("`{other}` is not a kind of event")),
        },
        "q" => {
            let word = next("verb")?;
            let verb = Verb::ALL.iter().find(|(_, known)| *known == word).map(|(verb, _)| *verb);
            verb.map(|verb| Subject::Ask { instance, verb }).ok_or_else(|| format!("`{word}` is not a verb"))
        }
        "i" => {
            let boot = read(next("boot"))?;
            let number: AttemptId = read(next("number"))?;
            let number = u32::try_from(number.0).map_err(|_| "the number is above 2^32".to_owned())?;
            Ok(Subject::Answer { instance, boot, number })
        }
        other => Err(format!("`{other}` is not a kind of subject")),
    }
}
