//! Cases about hooks: when they run, what they have, and what their failure does.

use std::fs;

use super::{Stand, next};
use crate::shim::Status;

fn hook(name: &str, script: &str) -> String {
    let script = serde_json::to_string(script).expect("a text is JSON");
    format!("{name}: [/bin/sh, -c, {script}]")
}

fn hooks(list: &[String]) -> String {
    format!("  hooks: {{{}}}\n", list.join(", "))
}

/// What hooks and units wrote into the shared directory.
fn journal(stand: &Stand<'_>) -> Vec<String> {
    let text = fs::read_to_string(stand.place.shared().join("journal")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

pub(super) async fn hooks_run_once_around_each_life(stand: &mut Stand<'_>) {
    let journal_path = stand.place.shared().join("journal");
    let journal_path = journal_path.display();
    let note = |name: &str| hook(name, &format!("echo {name} >> {journal_path}"));
    // The unit writes a little later than it is started.
    let after = format!(
        "until [ \"$(tail -n 1 {journal_path})\" = run ]; do sleep 0.05; done; echo postStart >> {journal_path}"
    );
    let more = hooks(&[note("preStart"), hook("postStart", &after), note("preStop"), note("postStop")]);
    let unit = stand.start(&format!("echo run >> {journal_path}; exec sleep 1000"), &more).await;
    assert_eq!(unit.state.status, Status::Started, "{unit:?}");
    let mut expected = vec!["preStart", "run", "postStart"];
    assert_eq!(journal(stand), expected);
    for _ in 0..2 {
        let same = stand.runtime.start_again(&unit.unit).await.expect("what runs may be started");
        assert_eq!(
            (same.state.status, same.state.pid),
            (Status::Started, unit.state.pid),
            "and stays as it is"
        );
        assert_eq!(journal(stand), expected, "nor is a hook repeated");
        stand.runtime.close().await;
        stand.runtime = stand.place.open().await;
    }
    for _ in 0..2 {
        stand.runtime.stop(&unit.unit).await.expect("it stops");
        assert_eq!(journal(stand).split_off(3), ["preStop", "postStop"], "once");
    }
    stand.runtime.start_again(&unit.unit).await.expect("it starts again");
    expected.extend(["preStop", "postStop", "preStart", "run", "postStart"]);
    assert_eq!(journal(stand), expected);
    stand.runtime.delete(&unit.unit).await.expect("it goes");
    expected.extend(["preStop", "postStop"]);
    assert_eq!(journal(stand), expected);
}

pub(super) async fn a_hook_that_fails_at_the_start_is_the_starts_failure(stand: &mut Stand<'_>) {
    let note = |what: &str| format!("echo {what} >> {}", stand.place.shared().join("journal").display());
    for (name, expected) in [("preStart", &["tidied"; 0][..]), ("postStart", &["ran", "tidied"])] {
        // The one after the start waits for what it is to follow.
        let wait = if name == "postStart" {
            format!("until [ -e {} ]; do sleep 0.05; done; ", stand.place.shared().join("journal").display())
        } else {
            String::new()
        };
        let failing = hook(name, &format!("{wait}echo sorry; exit 3"));
        let more = hooks(&[failing, hook("postStop", &note("tidied"))]);
        let spec = stand.spec("web", &format!("{}; exec sleep 1000", note("ran")), &more);
        let error = stand.runtime.start(&spec).await.expect_err("its hook fails").to_string();
        assert!(error.contains(&format!("hook {name} exited with status 3: sorry")), "{error}");
        let left = stand.runtime.observe("default/App/web", None).await.expect("the runtime answers");
        assert_eq!(left, Vec::new(), "nothing is left of it");
        assert_eq!(journal(stand), expected, "what has run is tidied up after");
    }
}

pub(super) async fn a_hook_that_is_no_program_says_so(stand: &mut Stand<'_>) {
    for name in ["preStart", "postStart"] {
        let more = format!("  hooks: {{{name}: [/no/such/hook]}}\n");
        let error = stand.runtime.start(&stand.spec("web", "exec sleep 1000", &more)).await;
        let error = error.expect_err("there is no such program").to_string();
        assert!(error.contains(&format!("hook {name} ")) && error.contains("/no/such/hook"), "{error}");
        assert_eq!(stand.runtime.units_of("default/App/web"), Vec::new(), "nothing is left of it");
    }
}

pub(super) async fn a_hook_that_fails_at_the_end_is_remarked_and_changes_nothing(stand: &mut Stand<'_>) {
    let more = hooks(&[hook("preStop", "echo alas; exit 4"), hook("postStop", "echo alack; exit 5")]);
    let unit = stand.start("exec sleep 1000", &more).await.unit;
    stand.runtime.stop(&unit).await.expect("it stops all the same");
    let seen = stand.look(&unit).await.expect("a stopped unit is still there");
    assert_eq!((seen.state.status, seen.state.pid), (Status::Stopped, None));
    let expected = [
        "alas",
        "hook preStop exited with status 4: alas",
        "alack",
        "hook postStop exited with status 5: alack",
    ];
    assert_eq!(stand.texts(4).await, expected, "in the unit's log");
    stand.runtime.delete(&unit).await.expect("it goes");
}

pub(super) async fn hooks_have_what_their_unit_has(stand: &mut Stand<'_>) {
    let shared = stand.place.shared().display().to_string();
    let script = |who: &str| {
        format!(
            "echo {who} $GREETING $TOWLINE_UNIT $TOWLINE_APP $(id -u) $(cat conf/a) $(stat -c %a conf/a) $(cat {shared}/b)"
        )
    };
    fs::write(stand.place.shared().join("b"), "shared").expect("the shared directory can be written to");
    let more = format!(
        "  env: {{GREETING: h\u{e4}llo}}\n  files: [{{path: conf/a, content: declared, mode: \"0640\"}}]\n{}",
        hooks(&["preStart", "postStart", "preStop", "postStop"].map(|name| hook(name, &script(name))))
    );
    let unit = stand.start(&format!("{}; exec sleep 1000", script("unit")), &more).await.unit;
    stand.log(3).await;
    stand.runtime.stop(&unit).await.expect("it stops");
    let lines = <[String; 5]>::try_from(stand.texts(5).await).expect("five lines");
    let split = |line: &String| line.split_once(' ').map(|(who, what)| (who.to_owned(), what.to_owned()));
    let (who, what): (Vec<String>, Vec<String>) = lines.iter().filter_map(split).unzip();
    // The unit and the hook after its start write at the same time.
    let [first, .., last_but_one, last] = &who[..] else { unreachable!("there are five: {who:?}") };
    assert_eq!([first, last_but_one, last], ["preStart", "preStop", "postStop"], "{lines:?}");
    let [first, others @ ..] = &what[..] else { unreachable!("there are five: {what:?}") };
    assert!(first.starts_with(&format!("h\u{e4}llo {unit} default/App/web ")), "{lines:?}");
    assert!(first.ends_with(" declared 640 shared"), "{lines:?}");
    assert!(others.iter().all(|other| other == first), "all have the same: {lines:?}");
}

pub(super) async fn who_follows_the_log_hears_of_hooks(stand: &mut Stand<'_>) {
    let more = hooks(&[hook("preStart", "echo before"), hook("preStop", "echo goes")]);
    let unit = stand.start("echo runs; exec sleep 1000", &more).await.unit;
    let mut lines = stand.follow();
    let mut heard = Vec::new();
    while heard.len() < 2 {
        heard.push(next(&mut lines).await.line.text);
    }
    heard.sort();
    stand.runtime.stop(&unit).await.expect("it stops");
    heard.push(next(&mut lines).await.line.text);
    assert_eq!(heard, ["before", "runs", "goes"]);
}
