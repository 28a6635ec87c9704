//! Commands that run in units.

use std::time::Duration;

use bytes::Bytes;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};

use super::{PATIENCE, PAUSE, Stand};
use crate::{
    runtime::{Exec, ExecEvent, ExecOutput, ExecSpec, RuntimeError},
    shim::{LogStream, Status},
};

const SLEEPER: &str = "exec sleep 1000";

fn shell(script: &str) -> ExecSpec {
    ExecSpec::new(["/bin/sh", "-c", script])
}

async fn begin(stand: &Stand<'_>, unit: &str, spec: ExecSpec) -> Exec {
    timeout(PATIENCE, stand.runtime.exec(unit, spec)).await.expect("it begins").expect("the unit runs")
}

async fn run(stand: &Stand<'_>, unit: &str, spec: ExecSpec) -> ExecOutput {
    let exec = begin(stand, unit, spec).await;
    timeout(PATIENCE, exec.output(1 << 20)).await.expect("it ends").expect("how it ended is known")
}

async fn text(stand: &Stand<'_>, unit: &str, script: &str) -> String {
    let done = run(stand, unit, shell(script)).await;
    String::from_utf8(done.stdout).expect("what was written is text").trim().to_owned()
}

async fn next(exec: &mut Exec) -> ExecEvent {
    let event = timeout(PATIENCE, exec.next()).await.expect("something comes");
    event.expect("an end comes before nothing does").expect("the runtime answers")
}

/// Waits until a script in the unit says `expected`.
async fn until(stand: &Stand<'_>, unit: &str, script: &str, expected: &str) {
    let begun = Instant::now();
    loop {
        let said = text(stand, unit, script).await;
        if said == expected {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "`{script}` says {said:?}, not {expected:?}");
        sleep(PAUSE).await;
    }
}

pub(super) async fn what_a_command_writes_comes_in_order(stand: &mut Stand<'_>) {
    let unit = stand.start(SLEEPER, "").await.unit;
    let script =
        "i=0; while [ $i -lt 500 ]; do echo line $i; i=$((i+1)); done; echo bad >&2; printf '\\0\\377'";
    let done = run(stand, &unit, shell(script)).await;
    let lines: String = (0..500).map(|number| format!("line {number}\n")).collect();
    assert_eq!((done.code, done.is_cut), (0, false));
    assert_eq!(done.stdout, [lines.as_bytes(), b"\0\xff"].concat(), "every byte, in order");
    assert_eq!(done.stderr, b"bad\n");
    // What is written is told when it is written, not at the end.
    let mut exec = begin(stand, &unit, shell("echo first; sleep 1000")).await;
    assert_eq!(next(&mut exec).await, ExecEvent::Output(LogStream::Stdout, Bytes::from_static(b"first\n")));
}

pub(super) async fn how_a_command_ended_is_told(stand: &mut Stand<'_>) {
    let unit = stand.start(SLEEPER, "").await.unit;
    for (script, code) in [("exit 0", 0), ("exit 3", 3), ("exit 255", 255), ("kill -9 $$", 137)] {
        let mut exec = begin(stand, &unit, shell(script)).await;
        assert_eq!(next(&mut exec).await, ExecEvent::Ended(code), "{script}");
        assert!(exec.next().await.is_none(), "nothing follows the end");
    }
    let seen = stand.look(&unit).await.expect("it is there");
    assert_eq!(seen.state.status, Status::Started, "a command's end is not the unit's");
}

pub(super) async fn what_a_command_reads_ends(stand: &mut Stand<'_>) {
    let unit = stand.start(SLEEPER, "").await.unit;
    assert_eq!(run(stand, &unit, ExecSpec::new(["cat"])).await.stdout, b"", "without input it reads nothing");
    let (sender, receiver) = mpsc::channel(4);
    let spec = ExecSpec { stdin: Some(receiver), ..ExecSpec::new(["cat"]) };
    let mut exec = begin(stand, &unit, spec).await;
    sender.send(Bytes::from_static(b"one\n")).await.expect("it is read");
    assert_eq!(next(&mut exec).await, ExecEvent::Output(LogStream::Stdout, Bytes::from_static(b"one\n")));
    let much = Bytes::from(vec![0xf0; 300_000]);
    let sending = async move {
        sender.send(much).await.expect("it is read");
        drop(sender);
    };
    let (done, ()) = tokio::join!(exec.output(1 << 20), sending);
    let done = done.expect("how it ended is known");
    assert_eq!((done.code, done.stdout), (0, vec![0xf0; 300_000]), "all of it, and then its end");
    // One that reads nothing is not waited for.
    let (sender, receiver) = mpsc::channel(4);
    let spec = ExecSpec { stdin: Some(receiver), ..shell("exit 4") };
    sender.send(Bytes::from(vec![0; 300_000])).await.expect("there is room");
    assert_eq!(run(stand, &unit, spec).await.code, 4);
}

pub(super) async fn a_command_runs_as_its_unit_does(stand: &mut Stand<'_>) {
    let more = "  env: {GREETING: h\u{e4}llo}\n  workingDir: /tmp\n  ports: [{name: http, port: 8080}]\n";
    let script = "echo $GREETING; echo $TOWLINE_UNIT; echo $TOWLINE_APP; echo $PORT_HTTP; id -u; pwd";
    let unit = stand.start(&format!("{script}; {SLEEPER}"), more).await.unit;
    let own = stand.texts(6).await;
    assert_eq!(text(stand, &unit, script).await.lines().collect::<Vec<_>>(), own);
}

pub(super) async fn a_program_that_there_is_not_says_so(stand: &mut Stand<'_>) {
    let unit = stand.start(SLEEPER, "").await.unit;
    for program in ["/no/such/program", "no-such-program", "/tmp"] {
        let done = run(stand, &unit, ExecSpec::new([program])).await;
        let said = String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned();
        assert!(matches!(done.code, 126 | 127), "{program}: {} {said}", done.code);
        assert!(said.contains(program), "{said}");
    }
}

pub(super) async fn only_what_runs_runs_commands(stand: &mut Stand<'_>) {
    let absent = stand.runtime.exec("web-0", shell("true")).await;
    assert!(matches!(absent, Err(RuntimeError::NotFound { .. })), "{absent:?}");
    let unit = stand.start(SLEEPER, "").await.unit;
    let mut exec = begin(stand, &unit, shell("echo on; sleep 1000")).await;
    assert!(matches!(next(&mut exec).await, ExecEvent::Output(..)));
    stand.runtime.stop(&unit).await.expect("it stops");
    assert_eq!(next(&mut exec).await, ExecEvent::Ended(137), "it ends with its unit");
    let stopped = stand.runtime.exec(&unit, shell("true")).await;
    assert!(
        matches!(&stopped, Err(RuntimeError::NotRunning { unit: named }) if *named == unit),
        "{stopped:?}"
    );
}

pub(super) async fn a_command_that_nobody_wants_ends_with_all_it_started(stand: &mut Stand<'_>) {
    let unit = stand.start(SLEEPER, "").await.unit;
    // A host shows what others run, too: nobody else sleeps so long.
    let random = unit.rsplit('-').next().and_then(|random| u32::from_str_radix(random, 16).ok());
    let seconds = 100_000 + random.expect("an id ends in eight digits") % 1_000_000;
    let count = format!(
        "n=0; for f in /proc/[0-9]*/cmdline; do tr '\\0' ' ' < $f 2>/dev/null | grep -q '^sleep {seconds}' && n=$((n+1)); done; echo $n"
    );
    // It ignores its signals, and so does what it started.
    let script = format!(
        "trap '' TERM HUP INT PIPE; sleep {seconds} & sh -c 'sleep {seconds}; true' & echo on; wait; wait"
    );
    let script = script.as_str();
    let mut exec = begin(stand, &unit, shell(script)).await;
    assert!(matches!(next(&mut exec).await, ExecEvent::Output(..)));
    until(stand, &unit, &count, "2").await;
    drop(exec);
    until(stand, &unit, &count, "0").await;
    let seen = stand.look(&unit).await.expect("it is there");
    assert_eq!(seen.state.status, Status::Started, "the unit itself runs on");
}

/// Megabytes that a command writes whose reader waits. More than all that may lie between the two: to an engine over TCP that
/// is what both kernels keep of a connection, of which one alone may take 32 MiB.
const MUCH: usize = 100;

pub(super) async fn a_command_that_writes_much_waits_for_its_reader(stand: &mut Stand<'_>) {
    let unit = stand.start(SLEEPER, "").await.unit;
    let file = format!("/tmp/written-{unit}");
    let script = format!(
        "i=0; while [ $i -lt {MUCH} ]; do head -c 1000000 /dev/zero; i=$((i+1)); echo $i > {file}; done"
    );
    let mut exec = begin(stand, &unit, shell(&script)).await;
    let mut event = next(&mut exec).await;
    // Nobody reads: it comes to a halt, before its end.
    let halted = halt(stand, &unit, &file).await;
    assert!(halted < MUCH, "all of it went to where nobody reads");
    let mut bytes = 0;
    while let ExecEvent::Output(_, piece) = event {
        assert!(piece.len() <= 16 << 10, "{} bytes in one piece", piece.len());
        bytes += piece.len();
        event = next(&mut exec).await;
    }
    assert_eq!(bytes, MUCH * 1_000_000);
    text(stand, &unit, &format!("rm {file}")).await;
}

/// Waits until the number in a unit's file has not changed for a second, and says which it is.
async fn halt(stand: &Stand<'_>, unit: &str, file: &str) -> usize {
    let (mut last, mut since) = (None, Instant::now());
    while last.is_none() || since.elapsed() < Duration::from_secs(1) {
        let read = stand.runtime.read(unit, file.as_ref()).await;
        let now = if matches!(read, Err(RuntimeError::NoSuchFile { .. })) {
            Some(0)
        } else {
            let content = read.expect("the runtime answers");
            std::str::from_utf8(&content).ok().and_then(|text| text.trim().parse().ok())
        };
        // None is a file that is just being written.
        if now.is_some() && now != last {
            (last, since) = (now, Instant::now());
        }
        sleep(PAUSE).await;
    }
    last.unwrap_or_default()
}
