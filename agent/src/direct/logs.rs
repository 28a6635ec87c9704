//! Logs of a direct resource.

use jiff::Timestamp;
use towline_protocol::{
    CallError, Code,
    platform::{LogLine, LogSource, LogsRequest},
};

use super::Direct;
use crate::{
    runtime::{LogLines, LogQuery, UnitLogLine},
    shim::LogStream,
};

impl Direct {
    /// The log lines that `request` asks for; see [`crate::runtime::Runtime::logs`].
    ///
    /// # Errors
    /// [`Code::NotFound`] when there is no such app or unit.
    pub fn logs(&self, request: &LogsRequest) -> Result<LogLines, CallError> {
        let app = request.app.as_str();
        let units = self.inner.runtime.units_of(app);
        if units.is_empty() && self.entry(app).is_none() {
            return Err(CallError::new(Code::NotFound, format!("there is no app {app}")));
        }
        if let Some(unit) = &request.unit
            && !units.iter().any(|status| status.unit == *unit)
        {
            let known: Vec<String> = units.into_iter().map(|status| status.unit).collect();
            let text = format!("{app} has no unit {unit}; its units are: {}", known.join(", "));
            return Err(CallError::new(Code::NotFound, text));
        }
        Ok(self.inner.runtime.logs(LogQuery {
            app: app.to_owned(),
            unit: request.unit.clone(),
            follow: request.follow,
            // A time beyond all times asks for nothing yet.
            since: request.since_unix_ms.map(|ms| {
                i64::try_from(ms)
                    .ok()
                    .and_then(|ms| Timestamp::from_millisecond(ms).ok())
                    .unwrap_or(Timestamp::MAX)
            }),
            tail: request.tail.map(|tail| usize::try_from(tail).unwrap_or(usize::MAX)),
        }))
    }
}

/// A line as it travels.
pub(crate) fn on_the_wire(line: UnitLogLine) -> LogLine {
    LogLine {
        unit: line.unit,
        at_unix_ns: u64::try_from(line.line.time.as_nanosecond()).unwrap_or(0),
        source: match line.line.stream {
            LogStream::Stdout => LogSource::Stdout,
            LogStream::Stderr => LogSource::Stderr,
        },
        text: line.line.text,
        partial: line.line.partial,
    }
}
