use proptest::prelude::*;

use super::*;

const HEAD: &str = "apiVersion: towline/v1\nkind: App\nmetadata: {name: web}\n";

fn app(spec: &str) -> String {
    format!("{HEAD}spec:\n  command: [/bin/true]\n{spec}")
}

fn complaints(yaml: &str) -> Vec<String> {
    parse(RuntimeKind::Process, "a.yaml", yaml.as_bytes())
        .unwrap_err()
        .iter()
        .map(ToString::to_string)
        .collect()
}

fn one(yaml: &str) -> Manifest {
    parse(RuntimeKind::Process, "a.yaml", yaml.as_bytes()).unwrap_or_else(|error| panic!("{error}")).remove(0)
}

#[test]
fn defaults_are_those_of_surface() {
    let manifest = one(&app(""));
    assert_eq!(manifest.id, "default/App/web");
    let spec = manifest.spec;
    assert_eq!(
        (spec.units, spec.umask, spec.restart.condition, spec.restart.attempts),
        (1, 0o022, Condition::Always, 0)
    );
    assert_eq!((spec.restart.delay, spec.restart.max_delay), (Span::from_secs(1), Span::from_secs(60)));
    assert_eq!((spec.stop.signal, spec.stop.grace_period), (StopSignal::SigTerm, Span::from_secs(10)));
    assert_eq!((spec.logs.max_size, spec.logs.max_files), (ByteSize::new(10 << 20), 3));
    assert_eq!(
        (spec.strategy.kind, spec.strategy.max_unavailable, spec.strategy.max_surge),
        (StrategyType::Rolling, 0, 1)
    );
    assert_eq!(spec.drift, Drift::Repair);
}

#[test]
fn every_default_may_be_written_out() {
    let written = r#"  image: null
  args: []
  env: {}
  workingDir: null
  user: null
  umask: "022"
  units: 1
  host: null
  restart: {condition: always, delay: 1s, maxDelay: 1m, attempts: 0}
  stop: {signal: SIGTERM, gracePeriod: 10s}
  health: null
  ports: []
  files: []
  restartOnConfigChange: true
  mounts: []
  resources: {cpu: null, memory: null, swap: null, pids: null}
  logs: {maxSize: 10Mi, maxFiles: 3}
  hooks: {}
  dependsOn: []
  strategy: {type: rolling, maxUnavailable: 0, maxSurge: 1}
  drift: repair
  docker: {pullPolicy: IfNotPresent, networkMode: bridge, privileged: false, pidMode: null, ipcMode: null}
"#;
    assert_eq!(one(&app(written)).spec, one(&app("")).spec);
}

#[test]
fn ports_and_files_are_read() {
    let manifest = one(&app(
        "  ports: [{name: http, port: 80}, {name: dns, port: 53, hostPort: 5353, protocol: udp, address: \"::1\"}]
  files: [{path: a/b, content: hi}, {path: /etc/x, base64: aGk=, mode: \"0644\", owner: root, group: \"0\"}]
",
    ));
    assert_eq!(manifest.spec.ports.len(), 2);
    assert_eq!(manifest.spec.ports[1].host_port, 5353);
    assert_eq!(manifest.spec.files[0].content, manifest.spec.files[1].content);
    assert_eq!((manifest.spec.files[0].mode, manifest.spec.files[1].mode), (0o600, 0o644));
    assert!(!format!("{:?}", manifest.spec).contains("hi"), "content must not show");
}

#[test]
fn each_complaint_names_file_document_path_found_and_allowed() {
    let table = [
        ("  colour: red\n", "a.yaml: document 1: spec.colour: found an unknown field, allowed are image, "),
        ("  units: two\n", "spec.units: found a text, allowed is a whole number from 0 to 1000"),
        ("  units: 1001\n", "spec.units: found the number 1001, allowed is a whole number from 0 to 1000"),
        ("  units: -1\n", "spec.units: found the number -1, allowed"),
        ("  units: 1.5\n", "spec.units: found the number 1.5, allowed"),
        ("  env: {A: 5}\n", "spec.env.A: found the number 5, allowed is a text (put it in quotes)"),
        (
            "  env: {A: yes, B: true}\n",
            "spec.env.B: found the boolean true, allowed is a text (put it in quotes)",
        ),
        ("  env: []\n", "spec.env: found a list, allowed is a map"),
        ("  env: {A: null}\n", "spec.env.A: found nothing, but it is required"),
        ("  env: {TOWLINE_X: a}\n", "spec.env.TOWLINE_X: found a reserved name"),
        ("  umask: 022\n", "spec.umask: found the number 22, allowed is a text (put it in quotes)"),
        ("  umask: \"999\"\n", "spec.umask: found \"999\", allowed are octal digits"),
        (
            "  ports: [{name: a, port: 1}, {name: b, port: 0}]\n",
            "spec.ports[1].port: found the number 0, allowed",
        ),
        ("  ports: [{name: a, port: 1}, {name: a, port: 2}]\n", "spec.ports[1].name: found \"a\" again"),
        ("  ports: [{name: A, port: 1}]\n", "spec.ports[0].name: `A` is not a name: 1 to 63 characters"),
        ("  ports: [{port: 1}]\n", "spec.ports[0].name: found nothing, but it is required"),
        (
            "  units: 2\n  ports: [{name: a, port: 1, hostPort: 80}]\n",
            "spec.ports[0].hostPort: found 80 with 2 units",
        ),
        ("  ports: [{name: a, port: 1, address: localhost}]\n", "spec.ports[0].address: found no IP address"),
        ("  restart: {delay: 5}\n", "spec.restart.delay: found the number 5, allowed is a text"),
        ("  restart: {delay: 5 parsecs}\n", "spec.restart.delay: found \"5 parsecs\", allowed is a duration"),
        (
            "  restart: {condition: sometimes}\n",
            "found \"sometimes\", allowed is one of always, on-failure, never",
        ),
        (
            "  restart: {delay: 2s, maxDelay: 1s}\n",
            "spec.restart.maxDelay: found 1s, allowed is at least delay",
        ),
        ("  restart: {delay: 0s}\n", "spec.restart.delay: found 0s, allowed is at least 10ms"),
        ("  logs: {maxSize: 1}\n", "spec.logs.maxSize: found the number 1, allowed is a text"),
        ("  logs: {maxSize: 1Ki}\n", "spec.logs.maxSize: found 1Ki, allowed is at least 64Ki"),
        ("  logs: {maxSize: 10MiB}\n", "spec.logs.maxSize: found \"10MiB\", allowed is a size"),
        ("  files: [{path: ../x, content: a}]\n", "spec.files[0].path: found ../x, allowed"),
        ("  files: [{path: x}]\n", "spec.files[0]: found neither content nor base64"),
        ("  files: [{path: x, base64: \"***\"}]\n", "spec.files[0].base64: found no base64"),
        ("  stop: {signal: TERM}\n", "spec.stop.signal: found \"TERM\", allowed is one of SIGTERM"),
        ("  image: nginx\n", "spec.image: found a value, but this field is unsupported"),
        (
            "  docker: {privileged: true}\n",
            "spec.docker.privileged: found a value, but this field is unsupported",
        ),
        ("  docker: {colour: red}\n", "spec.docker.colour: found an unknown field"),
        (
            "  dependsOn: [App/db]\n",
            "spec.dependsOn: found a value, but this field is unsupported outside a bundle",
        ),
        ("  workingDir: here\n", "spec.workingDir: found \"here\", allowed is an absolute path"),
        ("  user: \":\"\n", "spec.user: found \":\", allowed is user or user:group"),
    ];
    for (spec, expected) in table {
        let found = complaints(&app(spec)).join("\n");
        assert!(found.contains(expected), "{spec}\n{found}\nlacks {expected}");
    }
}

#[test]
fn all_complaints_of_all_documents_come_at_once() {
    let input = format!(
        "{}---\n# nothing here\n---\n{HEAD}spec: {{}}\n---\nfoo: [\n---\n{}",
        app("  units: x\n  colour: y\n"),
        app("  umask: \"9\"\n")
    );
    let found = complaints(&input);
    assert_eq!(found.iter().filter(|line| line.contains("document 1: ")).count(), 2, "{found:?}");
    assert_eq!(
        found.iter().filter(|line| line.contains("document 3: spec.command: ")).count(),
        1,
        "{found:?}"
    );
    assert!(
        found.iter().any(|line| line.contains("document 4: line 1") || line.contains("document 4: line 2")),
        "{found:?}"
    );
    assert!(found.iter().any(|line| line.contains("document 5: spec.umask: ")), "{found:?}");
}

/// Nothing, an empty document, no name, no image, fields of another runtime: all of it is told, not the first alone.
#[test]
fn f_v1_all_that_is_wrong_with_containers_is_collected() {
    let input = "apiVersion: towline/v1\nkind: App\nmetadata: {}\nspec: {umask: \"077\", units: 1001}\n\
                 ---\napiVersion: towline/v1\nkind: App\nmetadata: {name: web}\nspec:\n  restart: {delay: 2s}\n  \
                 mounts: [{source: a/b, target: c}]\n";
    let error = parse(RuntimeKind::Docker, "a.yaml", input.as_bytes()).unwrap_err();
    let found: Vec<String> = error.iter().map(ToString::to_string).collect();
    let told = |document: u32, path: &str| {
        let start = format!("document {document}: {path}: ");
        found.iter().filter(|line| line.contains(&start)).count()
    };
    let expected = [
        (1, "metadata.name"),
        (1, "spec.image"),
        (1, "spec.umask"),
        (1, "spec.units"),
        (2, "spec.image"),
        (2, "spec.restart.delay"),
        (2, "spec.mounts[0].source"),
        (2, "spec.mounts[0].target"),
    ];
    for (document, path) in expected {
        assert_eq!(told(document, path), 1, "{path} of document {document}: {found:?}");
    }
    for nothing in ["", "---\n", "# nothing\n"] {
        let read = parse(RuntimeKind::Docker, "a.yaml", nothing.as_bytes());
        assert_eq!(read.map(|apps| apps.len()).map_err(|error| error.to_string()), Ok(0));
    }
}

#[test]
fn a_secret_is_never_repeated() {
    for spec in [
        "  env: {TOKEN: [hunter2]}\n",
        "  files: [{path: x, content: hunter2, base64: hunter2}]\n",
        "  env: {hunter: 'hunter2\n",
    ] {
        let found = complaints(&app(spec)).join("\n");
        assert!(!found.contains("hunter2"), "{found}");
    }
}

#[test]
fn a_key_twice_is_refused() {
    let found = complaints(&app("  units: 1\n  units: 2\n")).join("\n");
    assert!(found.contains("duplicate") && found.contains("units"), "{found}");
}

#[test]
fn an_alias_bomb_is_refused() {
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
        bomb.push_str(&format!("a{level}: &a{level} [{aliases}]\n"));
    }
    assert!(parse(RuntimeKind::Process, "a.yaml", bomb.as_bytes()).is_err());
    let deep = "[".repeat(100_000);
    assert!(parse(RuntimeKind::Process, "a.yaml", deep.as_bytes()).is_err());
}

#[test]
fn hostile_bytes_are_refused() {
    for bytes in
        [&b"\xff\xfe\x00"[..], b"\0", b"- a\n- b\n", b"just text", b"apiVersion: {}\nkind: []\n", b"5"]
    {
        assert!(parse(RuntimeKind::Process, "a.yaml", bytes).is_err(), "{bytes:?}");
        assert!(identify("a.yaml", bytes).is_err(), "{bytes:?}");
    }
}

#[test]
fn another_kind_is_refused_by_the_runtime_and_passed_on_by_others() {
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: b}\ndata: {x: y}\n";
    assert!(complaints(yaml)[0].contains("apiVersion: found \"v1\", allowed is towline/v1"));
    let found = identify("a.yaml", yaml.as_bytes()).unwrap();
    assert_eq!(found, [("b/ConfigMap/a".to_owned(), Bytes::from_static(yaml.as_bytes()))]);
    let bundle = "apiVersion: towline/v1\nkind: Bundle\nmetadata: {name: shop}\n";
    assert!(complaints(bundle)[0].contains("kind: found \"Bundle\", allowed is App"));
}

#[test]
fn an_id_twice_is_refused() {
    let input = format!("{}---\n{}", app(""), app("  units: 2\n"));
    assert!(
        complaints(&input)[0]
            .contains("document 2: metadata.name: found default/App/web again, which document 1")
    );
    assert!(identify("a.yaml", input.as_bytes()).is_err());
}

#[test]
fn documents_are_cut_and_kept_verbatim() {
    let table: [(&str, &[(usize, &str)]); 12] = [
        ("", &[]),
        ("---\n", &[]),
        ("# only a comment\n---\n# another\n", &[]),
        ("a: 1\n", &[(1, "a: 1\n")]),
        ("---\na: 1\n", &[(1, "a: 1\n")]),
        ("a: 1\n---\n", &[(1, "a: 1\n")]),
        ("a: 1\n---\n---\nb: 2\n---\n", &[(1, "a: 1\n"), (3, "b: 2\n")]),
        ("a: 1\r\n---\r\nb: 2\r\n", &[(1, "a: 1\r\n"), (2, "b: 2\r\n")]),
        ("\u{feff}a: 1\n---\n\u{feff}b: 2", &[(1, "a: 1\n"), (2, "b: 2")]),
        ("\u{feff}---\na: 1", &[(1, "a: 1")]),
        (
            "--- {a: 1}\n--- # note\nb: |\n  ---\n  x\n",
            &[(1, " {a: 1}\n"), (2, " # note\nb: |\n  ---\n  x\n")],
        ),
        ("%YAML 1.2\n---\na: ---x\n...\n", &[(1, "a: ---x\n...\n")]),
    ];
    for (input, expected) in table {
        let found: Vec<(usize, &str)> = split(input.as_bytes())
            .iter()
            .map(|d| (d.number, std::str::from_utf8(d.bytes).unwrap()))
            .collect();
        assert_eq!(found, expected, "{input:?}");
    }
}

#[test]
fn crlf_and_a_final_marker_parse() {
    let input = format!("\u{feff}{}...\n---\n", app("")).replace('\n', "\r\n");
    let manifest = one(&input);
    assert!(input.as_bytes().windows(manifest.bytes.len()).any(|window| window == manifest.bytes));
}

proptest! {
    #[test]
    fn pieces_cover_every_byte(lines in proptest::collection::vec("(---|--- x|---x|\u{feff}---|[a-z: ]{0,6}|%Y|\\.\\.\\.|#c)(\r)?", 0..20), end in any::<bool>()) {
        let mut text = lines.join("\n");
        if end { text.push('\n'); }
        let mut at = 0;
        for piece in split::pieces(text.as_bytes()) {
            prop_assert_eq!(piece.range.start, at);
            at = piece.range.end;
        }
        prop_assert_eq!(at, text.len());
    }

    #[test]
    fn anything_at_all_is_split_and_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        split(&bytes);
        let _ = parse(RuntimeKind::Process, "x", &bytes);
        let _ = identify("x", &bytes);
    }

    #[test]
    fn a_size_survives_printing(bytes in any::<u64>(), shift in 0_u32..50) {
        let size = ByteSize::new(bytes >> shift << (shift / 2));
        prop_assert_eq!(size.to_string().parse::<ByteSize>().unwrap(), size);
    }

    #[test]
    fn a_span_survives_printing(nanos in 0..Span::MAX.as_nanos() as u64) {
        let span: Span = format!("{nanos}ns").parse().unwrap();
        prop_assert_eq!(span.to_string().parse::<Span>().unwrap(), span);
    }

}

#[test]
fn resources_are_read_and_change_nothing_where_there_are_none() {
    let read = |resources: &str| {
        parse(RuntimeKind::Process, "test", app(resources).as_bytes()).unwrap().remove(0).spec
    };
    let found = read("  resources: {cpu: 0.5, memory: 64Mi, swap: 1Gi, pids: 20}\n").resources;
    assert_eq!((found.cpu.map(Cpu::millis), found.memory.map(ByteSize::get)), (Some(500), Some(64 << 20)));
    assert_eq!((found.swap.map(ByteSize::get), found.pids), (Some(1 << 30), Some(20)));
    for (cpu, millis) in [("2", 2_000), ("\"1.25\"", 1_250), ("0.01", 10), ("1024", 1_024_000)] {
        let found = read(&format!("  resources: {{cpu: {cpu}}}\n")).resources.cpu.unwrap();
        assert_eq!((found.millis(), found.to_string().parse()), (millis, Ok(found)));
    }
    let text = serde_json::to_string(&read("")).unwrap();
    assert!(!text.contains("resources"), "it would be another generation: {text}");
}

#[test]
fn resources_that_make_no_sense_are_refused() {
    let table = [
        (
            "  resources: {cpu: 0.0001}\n",
            "spec.resources.cpu: found \"0.0001\", allowed is a number of processors from 0.01 to 1024",
        ),
        (
            "  resources: {cpu: many}\n",
            "spec.resources.cpu: found \"many\", allowed is a number of processors",
        ),
        ("  resources: {cpu: -1}\n", "spec.resources.cpu: found \"-1\", allowed is a number of processors"),
        ("  resources: {memory: 64}\n", "spec.resources.memory: found the number 64, allowed is a text"),
        ("  resources: {memory: 64k}\n", "spec.resources.memory: found 64000, allowed is at least 1Mi"),
        ("  resources: {swap: 64Mi}\n", "spec.resources.swap: found a value without memory beside it"),
        ("  resources: {pids: 0}\n", "spec.resources.pids: found the number 0, allowed is a whole number"),
        ("  resources: {gpu: 1}\n", "spec.resources.gpu: found an unknown field"),
    ];
    for (spec, expected) in table {
        let found = complaints(&app(spec)).join("\n");
        assert!(found.contains(expected), "{spec}\n{found}\nlacks {expected}");
    }
}

const PORTS: &str =
    "  ports: [{name: http, port: 80}, {name: https, port: 443}, {name: dns, port: 53, protocol: udp}]\n";

#[test]
fn checks_and_hooks_are_read() {
    let read = |more: &str| one(&app(&format!("{PORTS}{more}"))).spec;
    let health = read("  health: {tcp: {port: 443}}\n").health.unwrap();
    assert_eq!(health.probe, ProbeSpec::Tcp { port: "https".parse().unwrap() });
    assert_eq!((health.interval, health.timeout), (Span::from_secs(10), Span::from_secs(5)));
    assert_eq!((health.retries, health.start_period), (3, Span::from_secs(0)));
    let health = read("  health: {http: {port: http}, interval: 1s, retries: 5, startPeriod: 2m}\n").health;
    let health = health.unwrap();
    let (port, path) = ("http".parse().unwrap(), "/".to_owned());
    assert_eq!(health.probe, ProbeSpec::Http { port, path, status: 200 });
    assert_eq!(health.longest(), std::time::Duration::from_secs(120 + 5 * 6));
    let hooks = read("  hooks: {preStart: [a, b], postStop: [c]}\n").hooks;
    assert_eq!(
        (hooks.pre_start, hooks.post_stop),
        (vec!["a".to_owned(), "b".to_owned()], vec!["c".to_owned()])
    );
    assert_eq!((hooks.post_start, hooks.pre_stop), (Vec::new(), Vec::new()));
}

#[test]
fn a_definition_without_checks_and_hooks_is_the_same_generation_as_before_there_were_any() {
    let text = |runtime, yaml: &str| {
        let spec = parse(runtime, "test", yaml.as_bytes()).unwrap().remove(0).spec;
        serde_json::to_string(&spec).unwrap()
    };
    let process = text(RuntimeKind::Process, &app(""));
    assert!(!process.contains("health") && !process.contains("hooks"), "{process}");
    let docker = text(RuntimeKind::Docker, &app("  image: a:1\n"));
    assert!(docker.contains(r#""mounts":[],"health":null,"pull_policy""#) && !docker.contains("hooks"));
    let health =
        one(&app("  health: {exec: {command: [/bin/true, x]}, startPeriod: 1m}\n")).spec.health.unwrap();
    assert_eq!(
        serde_json::to_string(&health).unwrap(),
        r#"{"command":["/bin/true","x"],"interval":"10s","timeout":"5s","retries":3,"start_period":"1m"}"#
    );
}

/// Everything that is wrong with checks and hooks is told, not only the first.
#[test]
fn f_v1_each_complaint_about_checks_and_hooks_is_told_at_once() {
    let found = complaints(&app(&format!(
        "{PORTS}  health: {{http: {{port: 81, path: page, status: 42}}, interval: 1ms, timeout: 0s, retries: 0, \
         startPeriod: soon, colour: red}}\n  hooks: {{preStart: [\"\"], postStart: true, preStop: [5], later: []}}\n"
    )));
    let expected = [
        "spec.health.http.port: found 81, allowed is one of the tcp ports that spec.ports declares: 80 (http), 443 (https)",
        "spec.health.http.path: found \"page\", allowed are a slash and what follows it in a URL",
        "spec.health.http.status: found the number 42, allowed is a whole number from 100 to 599",
        "spec.health.interval: found 1ms, allowed is at least 100ms",
        "spec.health.timeout: found 0s, allowed is at least 10ms",
        "spec.health.retries: found the number 0, allowed is a whole number from 1 to 1000",
        "spec.health.startPeriod: found \"soon\", allowed is a duration",
        "spec.health.colour: found an unknown field, allowed are tcp, http, exec, interval, timeout, retries, startPeriod",
        "spec.hooks.preStart: found no program",
        "spec.hooks.postStart: found the boolean true, allowed is a list",
        "spec.hooks.preStop[0]: found the number 5, allowed is a text",
        "spec.hooks.later: found an unknown field, allowed are preStart, postStart, preStop, postStop",
    ];
    for expected in expected {
        assert!(found.iter().any(|line| line.contains(expected)), "{found:#?}\nlacks {expected}");
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    let table = [
        ("  health: {}\n", "spec.health: found no check, allowed is one of tcp, http and exec"),
        ("  health: {interval: 1s}\n", "spec.health: found no check"),
        (
            "  ports: [{name: a, port: 1}]\n  health: {tcp: {port: 1}, exec: {command: [a]}}\n",
            "spec.health: found several checks",
        ),
        ("  health: {exec: {}}\n", "spec.health.exec.command: found no program"),
        ("  health: {exec: {command: [\"\"]}}\n", "spec.health.exec.command: found no program"),
        ("  health: {tcp: {}}\n", "spec.health.tcp.port: found nothing, but it is required"),
        (
            "  health: {tcp: {port: 80}}\n",
            "spec.health.tcp.port: found 80, allowed is a tcp port that spec.ports declares, which is none",
        ),
        ("  health: {tcp: {port: 80, path: /}}\n", "spec.health.tcp.path: found an unknown field"),
        ("  health: true\n", "spec.health: found the boolean true, allowed is a map"),
    ];
    for (spec, expected) in table {
        let found = complaints(&app(spec)).join("\n");
        assert!(found.contains(expected), "{spec}\n{found}\nlacks {expected}");
    }
    let dns = complaints(&app(&format!("{PORTS}  health: {{tcp: {{port: dns}}}}\n"))).join("\n");
    assert!(dns.contains("spec.health.tcp.port: found dns, allowed is one of the tcp ports"), "{dns}");
}
