//! Streams: logs and events. A stream that is followed is opened again after a cut, and goes on where it was.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::de::DeserializeOwned;
use towline_bus::clock::{self, Moment};
use towline_hub::api::types::{Event, Gap, LogLineInfo, Problem};

use super::{Session, is_passing};
use crate::args::{EventsArgs, LogsArgs};
use crate::client::{ClientError, Request, SseEvent};
use crate::failure::Failure;
use crate::show::{event_line, log_line};
use crate::time::Since;

/// The first wait before a stream is opened again; it doubles up to the second.
const AGAIN_AFTER: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

/// How long a followed stream is sought before we say that it is lost.
const SOUGHT_FOR: Duration = Duration::from_secs(60);

pub(super) async fn logs(session: &Session, args: LogsArgs) -> Result<(), Failure> {
    let LogsArgs { instance, app, follow, since, tail, unit } = args;
    let first = Request::get(Request::path_of(&instance, "/logs"))
        .with("app", app.as_str())
        .with_some("unit", unit)
        .with_some("follow", follow.then_some("true"))
        .streaming();
    let mut seen = Seen::default();
    let mut outage = Outage::new(follow);
    loop {
        // After a cut, everything since the last line that was shown; what was shown is left out.
        let request = match seen.resume_from() {
            Some(since) => first.clone().with("since", since.to_param()),
            None => {
                let since = since.map(Since::to_param);
                first.clone().with_some("since", since).with_some("tail", tail.map(|tail| tail.to_string()))
            }
        };
        let lost = match session.client.open(&request).await {
            Ok(mut stream) => {
                outage.opened();
                loop {
                    match stream.next().await {
                        Ok(Some(event)) => match event.name.as_str() {
                            "line" => {
                                outage.is_over();
                                let line: LogLineInfo = read(&event)?;
                                if seen.is_new(&line) {
                                    let tame = session.screen.is_terminal();
                                    session.screen.item(&line, |line| log_line(line, tame))?;
                                }
                            }
                            "end" => return Ok(()),
                            "error" => break refused(session, read(&event)?)?,
                            // A word of a newer hub.
                            _ => {}
                        },
                        Ok(None) => break Failure::error("the stream of logs was cut"),
                        Err(error) => break passing(session, error)?,
                    }
                }
            }
            Err(error) => passing(session, error)?,
        };
        outage.wait(session, lost).await?;
        seen.begin_stream();
    }
}

pub(super) async fn events(session: &Session, args: EventsArgs) -> Result<(), Failure> {
    let EventsArgs { follow, since, instance, kind } = args;
    let mut request = Request::get("/v1/events")
        .with_some("instance", instance.map(|instance| instance.to_string()))
        .with_some("since", since.map(Since::to_param))
        .with("follow", follow.to_string())
        .streaming();
    request = kind.into_iter().fold(request, |request, kind| request.with("kind", kind));
    let mut outage = Outage::new(follow);
    loop {
        let lost = match session.client.open(&request).await {
            Ok(mut stream) => {
                outage.opened();
                loop {
                    match stream.next().await {
                        Ok(Some(event)) => {
                            outage.is_over();
                            if event.name == "error" {
                                break refused(session, read(&event)?)?;
                            }
                            show_event(session, &event)?;
                            request.resume_after(event.id);
                        }
                        Ok(None) if !follow => return Ok(()),
                        Ok(None) => break Failure::error("the stream of events was cut"),
                        Err(error) => break passing(session, error)?,
                    }
                }
            }
            Err(error) => passing(session, error)?,
        };
        outage.wait(session, lost).await?;
    }
}

fn show_event(session: &Session, event: &SseEvent) -> Result<(), Failure> {
    if event.name == "gap" {
        let gap: Gap = read(event)?;
        session.screen.note(&format!("some events after {} are not kept any more", gap.after));
        return Ok(());
    }
    session.screen.item(&read::<Event>(event)?, event_line)
}

pub(super) fn read<T: DeserializeOwned>(event: &SseEvent) -> Result<T, Failure> {
    let wrong = |error| Failure::error(format!("the hub sent an event that cannot be read: {error}"));
    serde_json::from_str(&event.data).map_err(wrong)
}

/// The failure, to be told if the outage lasts; or at once if it is no outage.
pub(super) fn passing(session: &Session, error: ClientError) -> Result<Failure, Failure> {
    match error {
        ClientError::Refused { problem, .. } => refused(session, *problem),
        error if error.is_passing() => Ok(error.into()),
        error => Err(error.into()),
    }
}

pub(super) fn refused(session: &Session, problem: Problem) -> Result<Failure, Failure> {
    let passes = is_passing(&problem, session.is_bounded);
    let failure = Failure::from_problem(problem);
    if passes { Ok(failure) } else { Err(failure) }
}

/// How long a stream has been away.
#[derive(Debug)]
pub(super) struct Outage {
    follow: bool,
    /// Whether it was there at all: what never worked is an error at once.
    worked: bool,
    /// When the stream was opened that is read now, or was cut just now.
    opened: Option<Moment>,
    since: Option<Moment>,
    next_wait: Duration,
}

impl Outage {
    pub(super) fn new(follow: bool) -> Self {
        Self { follow, worked: false, opened: None, since: None, next_wait: AGAIN_AFTER.0 }
    }

    /// An outage of what is known to be there: its first cut is passed over, too.
    pub(super) fn of_what_works() -> Self {
        Self { worked: true, ..Self::new(true) }
    }

    /// The stream is there. It may have nothing to carry for hours.
    pub(super) fn opened(&mut self) {
        self.worked = true;
        self.opened = Some(clock::now());
    }

    pub(super) fn is_over(&mut self) {
        *self = Self { worked: true, ..Self::new(self.follow) };
    }

    /// Since when the stream is away, if this cut is not the first. One that was cut as soon as it was open was not there:
    /// it is sought less and less often, and given up in the end.
    fn note_cut(&mut self, now: Moment) -> Option<Moment> {
        if self.opened.take().is_some_and(|opened| now.since(opened) > AGAIN_AFTER.1) {
            self.is_over();
        }
        self.since
    }

    /// Waits before the next attempt.
    ///
    /// # Errors
    /// The reason of the outage, when it lasts too long or nobody wanted to follow.
    pub(super) async fn wait(&mut self, session: &Session, why: Failure) -> Result<(), Failure> {
        let now = clock::now();
        let since = self.note_cut(now);
        if !self.follow || !self.worked || since.is_some_and(|since| now.since(since) > SOUGHT_FOR) {
            return Err(why);
        }
        if self.since.is_none() {
            session.screen.note(&format!("{}; trying again", why.message()));
            self.since = Some(now);
        }
        tokio::time::sleep(self.next_wait).await;
        self.next_wait = (self.next_wait * 2).min(AGAIN_AFTER.1);
        Ok(())
    }
}

/// Lines of two units may arrive a little out of order; what came before is left out anyway.
const OVERLAP_NS: u64 = 2_000_000_000;

/// Which lines were shown, so that a stream that is opened again shows none twice.
#[derive(Debug, Default)]
struct Seen {
    units: BTreeMap<String, Shown>,
    last_unix_ns: Option<u64>,
}

/// The last line of a unit that was shown.
#[derive(Debug, Default)]
struct Shown {
    at_unix_ns: u64,
    /// How many lines bear that time.
    lines: u64,
    /// How many of them have come again in this stream.
    again: u64,
    /// This stream repeats older lines of the unit first.
    repeats: bool,
}

impl Seen {
    /// A stream begins, from [`Seen::resume_from`] on.
    fn begin_stream(&mut self) {
        for shown in self.units.values_mut() {
            (shown.again, shown.repeats) = (0, true);
        }
    }

    /// Whether the line was not shown yet. Lines of one unit come in order.
    fn is_new(&mut self, line: &LogLineInfo) -> bool {
        let at_unix_ns = line.at.unix_ns();
        self.last_unix_ns = self.last_unix_ns.max(Some(at_unix_ns));
        let shown = self.units.entry(line.unit.clone()).or_default();
        if shown.repeats {
            shown.again += u64::from(at_unix_ns == shown.at_unix_ns);
            if at_unix_ns < shown.at_unix_ns || (at_unix_ns == shown.at_unix_ns && shown.again <= shown.lines)
            {
                return false;
            }
            shown.repeats = false;
        }
        shown.lines = if at_unix_ns == shown.at_unix_ns { shown.lines + 1 } else { 1 };
        shown.at_unix_ns = at_unix_ns;
        true
    }

    /// From when on lines are wanted again; `None` before the first.
    fn resume_from(&self) -> Option<Since> {
        self.last_unix_ns.map(|ns| Since::from_unix_ms(ns.saturating_sub(OVERLAP_NS) / 1_000_000))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(seen: &mut Seen, lines: &[(&str, u64)]) -> Vec<bool> {
        let line = |(unit, at): &(&str, u64)| LogLineInfo {
            unit: (*unit).to_owned(),
            at: towline_hub::time::NanoTime::from_unix_ns(*at),
            source: towline_protocol::platform::LogSource::Stdout,
            text: String::new(),
            partial: false,
        };
        lines.iter().map(|item| seen.is_new(&line(item))).collect()
    }

    #[test]
    fn a_stream_that_lasted_ends_the_outage_without_a_line() {
        let (follow, now) = (true, clock::now());
        let mut outage = Outage { since: Some(now), next_wait: AGAIN_AFTER.1, ..Outage::new(follow) };
        outage.opened();
        assert_eq!(
            outage.note_cut(now + Duration::from_secs(1)),
            Some(now),
            "cut at once: the outage goes on"
        );
        outage.opened();
        assert_eq!(outage.note_cut(clock::now() + Duration::from_secs(6)), None);
        assert!(outage.worked && outage.next_wait == AGAIN_AFTER.0);
    }

    #[test]
    fn a_resumed_stream_shows_each_line_once() {
        let mut seen = Seen::default();
        assert_eq!(seen.resume_from(), None);
        // Lines written at once bear one time; a clock may go back.
        assert_eq!(shown(&mut seen, &[("a", 5), ("a", 4), ("a", 7), ("a", 7), ("b", 6)]), [true; 5]);
        seen.begin_stream();
        let again = [("a", 4), ("b", 6), ("a", 7), ("a", 7), ("a", 7), ("b", 8), ("c", 1), ("a", 8)];
        assert_eq!(shown(&mut seen, &again), [false, false, false, false, true, true, true, true]);
        seen.begin_stream();
        assert_eq!(shown(&mut seen, &[("a", 7), ("a", 8), ("a", 8)]), [false, false, true]);
    }
}
