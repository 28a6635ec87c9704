//! What a call costs each process in time of the CPU: a figure that others on the machine disturb less than rates.

use towline_tests::chain::instance;
use towline_tests::nats::NatsServer;

use super::calls::{AWAITED, bus, pings};
use super::children::spawn;
use super::raw::Raw;
use super::report::{Bar, report};

const AT_ONCE: usize = 256;

/// Ticks in `/proc/<pid>/stat` are hundredths of a second on every Linux.
const MICROS_PER_TICK: f64 = 10_000.0;

pub(crate) async fn run(server: &NatsServer) {
    let bus = bus(server).await;
    let agent = spawn(&["agents", &server.url(), "call", "1", "0"]);
    bus.await_presence(&instance("call-0"), AWAITED).await.unwrap();
    let remote = bus.connect(&instance("call-0"));
    let raw = Raw::start(server).await;
    let hub = std::process::id();

    let before = [hub, raw.responder.0.id(), server.pid()].map(cpu_micros);
    let (_, samples) = raw.requests(AT_ONCE).await;
    tell(
        "raw",
        &["requester", "responder", "nats"],
        [hub, raw.responder.0.id(), server.pid()],
        before,
        &samples,
    );

    let before = [hub, agent.0.id(), server.pid()].map(cpu_micros);
    let (_, samples) = pings(&remote, AT_ONCE).await;
    tell("call", &["hub", "agent", "nats"], [hub, agent.0.id(), server.pid()], before, &samples);
    bus.stop().await;
}

fn tell<T>(what: &str, names: &[&str; 3], pids: [u32; 3], before: [f64; 3], samples: &[T]) {
    for ((name, pid), before) in names.iter().zip(pids).zip(before) {
        let each = (cpu_micros(pid) - before) / samples.len() as f64;
        report(&format!("{what}_cpu_{name}_{AT_ONCE}"), each, "us", Bar::None);
    }
}

/// Time of the CPU that a process has used, in microseconds.
fn cpu_micros(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // After the name, which may hold anything: state is field 3, user and system time are fields 14 and 15.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) * MICROS_PER_TICK
}
