//! The commands against hubs that misbehave: cut connections, strange answers, silence.
#![expect(clippy::unwrap_used, reason = "a test says what it expects by panicking")]
#![expect(clippy::disallowed_methods, reason = "a test waits, and knows how long it has waited")]
#![expect(dead_code, reason = "this half of the tests needs less of what they share")]

mod support;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::thread::JoinHandle;

use support::{Home, app};

/// Answers one connection with each text, closing it after, and tells what was asked.
fn hub(answers: Vec<String>) -> (String, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let serve = move || {
        let mut asked = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head).unwrap() > 0 {}
            let length = header(&head, "content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
            reader.read_exact(&mut vec![0; length]).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
            asked.push(head);
        }
        asked
    };
    (url, std::thread::spawn(serve))
}

fn header(head: &str, name: &str) -> Option<String> {
    let lines = head.lines().filter_map(|line| line.split_once(": "));
    lines.into_iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
}

fn answer(status: &str, kind: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    )
}

fn problem(status: &str, code: &str, effect: &str) -> String {
    let body = format!(
        r#"{{"type": "urn:towline:problem:{code}", "title": "", "status": 0, "code": "{code}", "effect": "{effect}",
            "detail": "it went wrong", "help": "mend it", "a field of a newer hub": 1}}"#
    );
    answer(status, "application/problem+json", &body)
}

/// A stream that is cut without an end.
fn cut_stream(events: &str) -> String {
    let length = events.len() + 1_000;
    format!("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: {length}\r\n\r\n{events}")
}

fn event(sequence: u64) -> String {
    let data = format!(
        r#"{{"sequence": {sequence}, "instance": "default/a", "epoch": 1, "kind": "connected",
            "at": "2026-11-21T02:00:00Z", "detail": "event {sequence}"}}"#
    );
    format!("event: connected\nid: {sequence}\ndata: {}\n\n", data.replace('\n', ""))
}

#[test]
fn a_change_whose_connection_is_cut_is_an_unknown_outcome_with_its_key() {
    let home = Home::new();
    let file = home.file("web.yaml", &app("web", "command: [x]"));
    let (url, asked) = hub(vec![String::new(), problem("504 Gateway Timeout", "unknown_outcome", "unknown")]);
    let args = ["apply", "shop", "-f", file.to_str().unwrap(), "--hub", &url];
    let cut = home.run(&args).expect(4);
    let told = home.run(&args).expect(4);
    let asked = asked.join().unwrap();
    for (ended, head) in [&cut, &told].into_iter().zip(&asked) {
        let key = header(head, "idempotency-key").unwrap();
        assert!(ended.stderr.contains(&format!("--key {key}")), "{}", ended.stderr);
        assert!(ended.stderr.contains("towline services default/shop"), "{}", ended.stderr);
    }
    assert!(cut.stderr.contains("was cut"), "{}", cut.stderr);
    assert_ne!(header(&asked[0], "idempotency-key"), header(&asked[1], "idempotency-key"));
}

#[test]
fn a_key_that_was_named_is_sent_again() {
    let home = Home::new();
    let file = home.file("web.yaml", &app("web", "command: [x]"));
    let (url, asked) = hub(vec![answer("200 OK", "application/json", r#"{"request_id": "again"}"#)]);
    let ended =
        home.run(&["apply", "shop", "-f", file.to_str().unwrap(), "--hub", &url, "--key", "again"]).expect(0);
    assert_eq!(ended.stdout, "applied  default/App/web\n");
    assert_eq!(header(&asked.join().unwrap()[0], "idempotency-key").as_deref(), Some("again"));
}

#[test]
fn what_only_reads_is_merely_unavailable() {
    let home = Home::new();
    let (url, _asked) = hub(vec![String::new()]);
    let ended = home.run(&["services", "shop", "--hub", &url]).expect(3);
    assert!(ended.stderr.contains("nothing was changed"), "{}", ended.stderr);
}

#[test]
fn what_is_no_hub_is_told_apart() {
    let home = Home::new();
    let page = || answer("404 Not Found", "text/html", "<h1>nginx</h1>");
    let (url, _asked) = hub(vec![page(), answer("200 OK", "text/html", "<h1>nginx</h1>")]);
    for _ in 0..2 {
        let ended = home.run(&["ping", "shop", "--hub", &url]).expect(1);
        assert!(ended.stderr.contains("is no Towline hub"), "{}", ended.stderr);
    }
}

#[test]
fn silence_ends_with_the_time_that_was_given() {
    let home = Home::new();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let ended = home.run(&["ping", "shop", "--hub", &url, "--timeout", "50ms"]).expect(9);
    assert!(ended.stderr.contains("did not answer within"), "{}", ended.stderr);
}

#[test]
fn followed_events_go_on_after_a_cut() {
    let home = Home::new();
    let answers = vec![
        cut_stream(&format!("{}{}", event(6), event(7))),
        // Quiet, and cut all the same; what has no id does not forget the last one.
        cut_stream(""),
        cut_stream(&format!("{}event: gap\ndata: {{\"after\": 8}}\n\n", event(8))),
        problem("403 Forbidden", "denied", "none"),
    ];
    let (url, asked) = hub(answers);
    let ended = home.run(&["events", "-f", "--hub", &url, "--output", "json"]).expect(5);
    let shown: Vec<u64> = ended
        .stdout
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["sequence"].as_u64().unwrap())
        .collect();
    assert_eq!(shown, [6, 7, 8]);
    let resumed: Vec<_> = asked.join().unwrap().iter().map(|head| header(head, "last-event-id")).collect();
    assert_eq!(resumed, [None, Some("7"), Some("7"), Some("8")].map(|id| id.map(str::to_owned)));
}

#[test]
fn what_is_quiet_is_followed_over_a_restart_of_the_hub() {
    let home = Home::new();
    let answers = vec![cut_stream(""), cut_stream("event: end\ndata: {}\n\n")];
    let (url, asked) = hub(answers);
    home.run(&["logs", "shop", "web", "-f", "--hub", &url]).expect(0);
    assert_eq!(asked.join().unwrap().len(), 2);
    let (url, asked) = hub(vec![cut_stream(""), problem("403 Forbidden", "denied", "none")]);
    home.run(&["events", "-f", "--hub", &url]).expect(5);
    assert_eq!(asked.join().unwrap().len(), 2);
}

#[test]
fn a_followed_stream_waits_for_a_session_that_was_lost_with_the_bus() {
    let home = Home::new();
    let answers = vec![
        cut_stream(""),
        problem("409 Conflict", "fenced", "none"),
        problem("429 Too Many Requests", "busy", "none"),
        cut_stream("event: end\ndata: {}\n\n"),
    ];
    let (url, asked) = hub(answers);
    home.run(&["logs", "shop", "web", "-f", "--hub", &url]).expect(0);
    assert_eq!(asked.join().unwrap().len(), 4);
}

#[test]
fn a_stream_that_has_lasted_its_time_ends_as_timed_out() {
    let home = Home::new();
    let data = problem("", "expired", "none");
    let data = data.split_once("\r\n\r\n").unwrap().1.replace('\n', "");
    let (url, asked) = hub(vec![cut_stream(&format!("event: error\ndata: {data}\n\n"))]);
    home.run(&["logs", "shop", "web", "-f", "--hub", &url, "--timeout", "5s"]).expect(9);
    assert_eq!(header(&asked.join().unwrap()[0], "towline-timeout").as_deref(), Some("5000ms"));
}

#[test]
fn a_variable_that_is_empty_is_not_set() {
    let home = Home::new();
    let mut command = home.command(&["completions", "bash"]);
    for name in ["HUB", "TOKEN_FILE", "OUTPUT", "TIMEOUT", "NO_PROGRESS"] {
        command.env(format!("TOWLINE_{name}"), "");
    }
    let ended = command.output().unwrap();
    assert!(ended.status.success(), "{ended:?}");
}

#[test]
fn a_hub_that_does_not_answer_at_first_is_no_outage_to_wait_for() {
    let home = Home::new();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    home.run(&["events", "-f", "--hub", &format!("http://{free}")]).expect(3);
}
