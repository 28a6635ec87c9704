//! Hooks of apps in containers. Those around a unit that runs are run in it (`preStop`, `postStart`); those before its start and
//! after its end, when it cannot run anything, beside it (`hooks/helper.rs`).
//!
//! ```text
//! created ─► preStart ─► it runs ─► postStart ─► started ─► preStop ─► stop ─► postStop ─► ended
//!    called web-1.starting                  │       called web-1           │       called web-1.ended
//! ```
//!
//! What an agent that died has left undone is told by the container's name (`hooks/course.rs`), and is done again from the
//! beginning of that hook by whoever starts, stops or removes the unit next. Restarts are the engine's own, and run no hook.

mod course;
mod helper;
mod log;

use bollard::{Docker, query_parameters::RenameContainerOptions};
use jiff::Timestamp;
use tokio::time::timeout;

pub(super) use self::{
    course::{Course, Phase},
    log::{Cutter, HookLog, LINES_MAX},
};
use super::{
    engine::Refusal,
    host::{DockerHost, Seen},
};
use crate::{
    failpoints::failpoint,
    runtime::{ExecEvent, ExecSpec, RuntimeError},
    shim::{Ended, HOOK_MAX, LogLine, LogStream, Role},
};

/// Why a hook did not do its work.
#[derive(Debug)]
enum Failure {
    /// It failed, or it cannot be run; what is said of it.
    Hook(String),
    /// It is not known what became of it, or another agent acts.
    Runtime(RuntimeError),
}

impl From<RuntimeError> for Failure {
    fn from(error: RuntimeError) -> Self {
        match error {
            RuntimeError::Unknown { .. } | RuntimeError::Fenced { .. } => Self::Runtime(error),
            error => Self::Hook(format!("cannot be run: {error}")),
        }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NotFound(why) | Refusal::Said { message: why, .. } => {
                Self::Hook(format!("cannot be run: {why}"))
            }
            refusal => Self::Runtime(refusal.of("cannot run a hook")),
        }
    }
}

impl Failure {
    /// As the error of a start.
    fn of(self, role: Role) -> RuntimeError {
        match self {
            Self::Hook(why) => RuntimeError::NotStarted { reason: format!("hook {role} {why}") },
            Self::Runtime(error) => error,
        }
    }
}

/// How a hook has done, by its exit code and its last words.
fn verdict(code: i64, words: &str) -> Result<(), Failure> {
    if code == 0 {
        return Ok(());
    }
    let ended = Ended::Exited(code.try_into().unwrap_or(-1));
    Err(Failure::Hook(format!("{ended}{words}")))
}

fn late(words: &str) -> Failure {
    Failure::Hook(format!("was killed after {}{words}", humantime::format_duration(HOOK_MAX)))
}

/// A start that this agent is at.
struct UnderWay<'a> {
    host: &'a DockerHost,
    container: &'a str,
}

impl<'a> UnderWay<'a> {
    fn begin(host: &'a DockerHost, container: &'a str) -> Self {
        host.starting().insert(container.to_owned());
        Self { host, container }
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.host.starting().remove(self.container);
        // It was shown as starting; the next look is to see how it stands.
        let mut known = self.host.known();
        known
            .units
            .values_mut()
            .filter(|seen| seen.container == self.container)
            .for_each(|seen| seen.mark.clear());
    }
}

impl DockerHost {
    /// Starts a container with the hooks around that; one that runs stays as it is, but for what an agent that died has left
    /// undone.
    ///
    /// # Errors
    /// Why it does not run, or which hook failed; it does not run then.
    pub(super) async fn start_with_hooks(&self, container: &str) -> Result<(), RuntimeError> {
        let _under_way = UnderWay::begin(self, container);
        let mut seen = self.fresh(container).await?;
        if seen.course.is_idle {
            self.tidy_up(&mut seen).await?;
            let prepared = self.run_hook(&seen, Role::PreStart).await;
            prepared.map_err(|failure| failure.of(Role::PreStart))?;
            let phase = Phase::before_start(&seen.course.hooks);
            self.enter(&mut seen, phase).await?;
            self.start_container(container).await?;
        } else if !seen.course.owes_post_start() {
            return Ok(());
        }
        if seen.course.hooks.post_start.is_empty() {
            return Ok(());
        }
        match self.run_hook(&seen, Role::PostStart).await {
            Ok(()) => self.enter(&mut seen, Phase::Up).await,
            Err(failure) => {
                if matches!(failure, Failure::Hook(_))
                    && let Err(second) = self.end(&mut seen).await
                {
                    tracing::warn!(container, error = %second, "a container that did not start well cannot be stopped");
                }
                Err(failure.of(Role::PostStart))
            }
        }
    }

    /// Stops a container with the hooks around that, whose failure changes nothing.
    ///
    /// # Errors
    /// That it cannot be stopped, or that it is not known how it stands.
    pub(super) async fn stop_with_hooks(&self, seen: &Seen) -> Result<(), RuntimeError> {
        if seen.course.hooks.is_empty() {
            return self.stop_container(seen).await;
        }
        let mut seen = match self.fresh(&seen.container).await {
            // What has gone stays so.
            Err(RuntimeError::NotFound { .. }) => return Ok(()),
            fresh => fresh?,
        };
        if seen.course.runs
            && let Err(failure) = self.run_hook(&seen, Role::PreStop).await
        {
            self.remark(&seen, Role::PreStop, failure)?;
        }
        self.end(&mut seen).await
    }

    async fn end(&self, seen: &mut Seen) -> Result<(), RuntimeError> {
        self.stop_container(seen).await?;
        *seen = match self.fresh(&seen.container).await {
            Err(RuntimeError::NotFound { .. }) => return Ok(()),
            fresh => fresh?,
        };
        self.tidy_up(seen).await
    }

    /// Runs the hook after an end, if it is due.
    async fn tidy_up(&self, seen: &mut Seen) -> Result<(), RuntimeError> {
        if !seen.course.owes_post_stop() {
            return Ok(());
        }
        if let Err(failure) = self.run_hook(seen, Role::PostStop).await {
            self.remark(seen, Role::PostStop, failure)?;
        }
        self.enter(seen, Phase::Ended).await
    }

    /// Runs a hook to its end; nothing if none is declared.
    async fn run_hook(&self, seen: &Seen, role: Role) -> Result<(), Failure> {
        let argv = role.among(&seen.course.hooks);
        // In a box: few apps have hooks, and all have starts.
        match role {
            _ if argv.is_empty() => Ok(()),
            Role::PostStart | Role::PreStop => Box::pin(self.run_within(seen, argv)).await,
            _ => Box::pin(self.run_beside(seen, argv)).await,
        }
    }

    /// Runs a hook in a container that runs.
    async fn run_within(&self, seen: &Seen, argv: &[String]) -> Result<(), Failure> {
        let unit = &seen.status.unit;
        let mark = format!("hook-{unit}");
        if seen.course.runs {
            // An agent that died may have left one at work.
            self.kill_marked(&seen.container, &mark).await;
        }
        let mut exec = self.exec_marked(seen, ExecSpec::new(argv.to_vec()), &mark).await?;
        let mut cutter = Cutter::default();
        let ended = timeout(HOOK_MAX, async {
            while let Some(event) = exec.next().await {
                match event {
                    Ok(ExecEvent::Output(stream, bytes)) => self.note(unit, cutter.push(stream, &bytes)),
                    Ok(ExecEvent::Ended(code)) => return Ok(code),
                    Err(error) => return Err(Failure::from(error)),
                }
            }
            Ok(-1)
        });
        let ended = ended.await;
        self.note(unit, cutter.finish());
        match ended {
            Ok(code) => verdict(code?.into(), &cutter.last_words()),
            Err(_) => {
                // And with it what it started.
                drop(exec);
                self.kill_marked(&seen.container, &mark).await;
                Err(late(&cutter.last_words()))
            }
        }
    }

    /// Calls a container as it is called in `phase`.
    async fn enter(&self, seen: &mut Seen, phase: Phase) -> Result<(), RuntimeError> {
        if seen.course.phase == phase {
            return Ok(());
        }
        let options = RenameContainerOptions { name: phase.name(&seen.status.unit) };
        let question = async |client: Docker| client.rename_container(&seen.container, options).await;
        self.change(question).await.map_err(|refusal| refusal.of("cannot rename a container"))?;
        failpoint!("unit.renamed");
        seen.course.phase = phase;
        Ok(())
    }

    /// How a container stands now.
    pub(super) async fn fresh(&self, container: &str) -> Result<Seen, RuntimeError> {
        let found = self.inspect(container).await?.map(|status| status.unit);
        found.map_or_else(
            || Err(RuntimeError::NotFound { unit: container.to_owned() }),
            |unit| self.find(&unit),
        )
    }

    /// Tells in the unit's log of a failure that changes nothing.
    ///
    /// # Errors
    /// What is none of the hook's.
    fn remark(&self, seen: &Seen, role: Role, failure: Failure) -> Result<(), RuntimeError> {
        match failure {
            Failure::Hook(why) => {
                let (time, text) = (Timestamp::now(), format!("hook {role} {why}"));
                let line = LogLine { time, stream: LogStream::Stderr, text, partial: false };
                self.note(&seen.status.unit, vec![line]);
                Ok(())
            }
            Failure::Runtime(error) => Err(error),
        }
    }

    fn note(&self, unit: &str, lines: Vec<LogLine>) {
        lines.into_iter().for_each(|line| self.inner.hook_log.push(unit, line));
    }

    /// Whether this agent is at its start.
    pub(super) fn is_starting(&self, container: &str) -> bool {
        self.starting().contains(container)
    }

    fn starting(&self) -> std::sync::MutexGuard<'_, std::collections::BTreeSet<String>> {
        self.inner.starting.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
