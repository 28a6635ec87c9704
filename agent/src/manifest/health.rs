//! How it is found out whether a unit works.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use towline_protocol::Name;

use super::{
    app::{PortSpec, Protocol},
    fields::{Field, Fields},
    quantity::Span,
};

/// A look that is taken at a unit again and again, and what follows from it.
// Its text shapes a generation, and must stay as it is: containers that older agents started must, too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthSpec {
    /// What is looked at.
    #[serde(flatten)]
    pub probe: ProbeSpec,
    /// Between two looks.
    pub interval: Span,
    /// A look that takes longer has failed.
    pub timeout: Span,
    /// So many failures in a row, and it does not work.
    pub retries: u32,
    /// Failures in this time after a start do not count.
    pub start_period: Span,
}

/// What is looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProbeSpec {
    /// Whether a declared port takes connections.
    Tcp {
        /// Name of the port.
        port: Name,
    },
    /// Whether a declared port answers a GET with a status.
    Http {
        /// Name of the port.
        port: Name,
        /// Path and query, from the slash.
        path: String,
        /// The status that is expected.
        status: u16,
    },
    /// Whether a command, run in the unit, ends with 0.
    #[serde(untagged)]
    Exec {
        /// Its words.
        command: Vec<String>,
    },
}

impl HealthSpec {
    /// By then it is known whether a unit works that was just started, if looking at it goes as declared.
    #[must_use]
    pub fn longest(&self) -> Duration {
        let looks = (self.interval.get() + self.timeout.get()).saturating_mul(self.retries);
        self.start_period.get().saturating_add(looks)
    }
}

/// A shorter one would keep a host busy with looking.
const LEAST_INTERVAL: Duration = Duration::from_millis(100);

/// Nothing answers faster than that for certain.
const LEAST_TIMEOUT: Duration = Duration::from_millis(10);

/// Longest path of a GET, in bytes.
const PATH_BYTES_MAX: usize = 2048;

/// Reads `health` of an app with these `ports`. What cannot be read is complained about.
pub(super) fn read(field: &Field<'_>, ports: &[PortSpec]) -> Option<HealthSpec> {
    field.value()?;
    let mut fields = field.fields();
    let probe = probe(&mut fields, ports);
    let span = |field: Field<'_>, otherwise, least: Duration| {
        let span: Span = field.parsed().unwrap_or_else(|| Span::from_secs(otherwise));
        if span.get() < least {
            field.refuse(format!("found {span}, allowed is at least {}", humantime::format_duration(least)));
        }
        span
    };
    let interval = span(fields.get("interval"), 10, LEAST_INTERVAL);
    let timeout = span(fields.get("timeout"), 5, LEAST_TIMEOUT);
    let retries = fields.get("retries").number(1..=1_000_u32).unwrap_or(3);
    let start_period = span(fields.get("startPeriod"), 0, Duration::ZERO);
    fields.finish();
    Some(HealthSpec { probe: probe?, interval, timeout, retries, start_period })
}

fn probe(fields: &mut Fields<'_>, ports: &[PortSpec]) -> Option<ProbeSpec> {
    let (tcp, http, exec) = (fields.get("tcp"), fields.get("http"), fields.get("exec"));
    let tcp = tcp.value().is_some().then(|| read_tcp(tcp.fields(), ports));
    let http = http.value().is_some().then(|| read_http(http.fields(), ports));
    let exec = exec.value().is_some().then(|| read_exec(exec.fields()));
    let mut given = [tcp, http, exec].into_iter().flatten();
    match (given.next(), given.next()) {
        (Some(probe), None) => probe,
        (None, _) => {
            fields.refuse("found no check, allowed is one of tcp, http and exec");
            None
        }
        (Some(_), Some(_)) => {
            fields.refuse("found several checks, allowed is one of tcp, http and exec");
            None
        }
    }
}

fn read_tcp(mut fields: Fields<'_>, ports: &[PortSpec]) -> Option<ProbeSpec> {
    let port = port(&fields.get("port").required(), ports);
    fields.finish();
    Some(ProbeSpec::Tcp { port: port? })
}

fn read_http(mut fields: Fields<'_>, ports: &[PortSpec]) -> Option<ProbeSpec> {
    let port = port(&fields.get("port").required(), ports);
    let field = fields.get("path");
    let path = field.text().unwrap_or_else(|| "/".to_owned());
    let plain = path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
    if !path.starts_with('/') || !plain || path.len() > PATH_BYTES_MAX {
        field.refuse(format!(
            "found {:?}, allowed are a slash and what follows it in a URL, {PATH_BYTES_MAX} bytes at most",
            path.chars().take(80).collect::<String>()
        ));
    }
    let status = fields.get("status").number(100..=599_u16).unwrap_or(200);
    fields.finish();
    Some(ProbeSpec::Http { port: port?, path, status })
}

fn read_exec(mut fields: Fields<'_>) -> Option<ProbeSpec> {
    let field = fields.get("command");
    let command = field.texts();
    if command.first().is_none_or(String::is_empty) {
        field.refuse("found no program, allowed is a list such as [/bin/true]");
    }
    fields.finish();
    Some(ProbeSpec::Exec { command })
}

/// The declared port that is meant, by its number or its name.
fn port(field: &Field<'_>, ports: &[PortSpec]) -> Option<Name> {
    use super::yaml::Value;
    let of_tcp = || ports.iter().filter(|port| port.protocol == Protocol::Tcp);
    let found = match field.value()? {
        Value::Integer(number) => {
            of_tcp().find(|port| i128::from(port.port) == *number).ok_or_else(|| number.to_string())
        }
        _ => {
            let text = field.text()?;
            of_tcp().find(|port| port.name.as_str() == text).ok_or(text)
        }
    };
    match found {
        Ok(port) => Some(port.name.clone()),
        Err(found) => {
            let declared: Vec<String> =
                of_tcp().map(|port| format!("{} ({})", port.port, port.name)).collect();
            let allowed = match declared.is_empty() {
                true => "a tcp port that spec.ports declares, which is none".to_owned(),
                false => format!("one of the tcp ports that spec.ports declares: {}", declared.join(", ")),
            };
            let found: String = found.chars().take(80).collect();
            field.refuse(format!("found {found}, allowed is {allowed}"));
            None
        }
    }
}
