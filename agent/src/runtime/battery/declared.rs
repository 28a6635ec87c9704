//! Files that apps declare: there before a unit starts, held to what is declared, and never told.

use tokio::time::Instant;

use super::{PATIENCE, PAUSE, Stand};
use crate::runtime::{Astray, How, UnitSpec};

pub(super) async fn files_are_there_before_it_starts(stand: &mut Stand<'_>) {
    let script =
        "cat conf/a.txt; echo; stat -c %a conf/a.txt conf/b.bin; wc -c < conf/b.bin; exec sleep 1000";
    let more =
        "  files: [{path: conf/a.txt, content: one}, {path: conf/b.bin, base64: AAEC/w==, mode: \"0640\"}]\n";
    stand.start(script, more).await;
    assert_eq!(stand.texts(4).await, ["one", "600", "640", "4"]);
}

/// Files of a unit that spoils its own: `a` holds something else, `b` has another mode, `c` is gone, `d` is a directory.
const SPOILT: &str = "for f in a b c d; do while ! [ -f conf/$f ]; do sleep 0.05; done; done; echo other > conf/a; \
                      chmod 644 conf/b; rm conf/c; rm conf/d; ln -s /etc conf/d; echo done; exec sleep 1000";

fn four_files(content: &str) -> String {
    let file = |name: &str| format!("{{path: conf/{name}, content: {content}-{name}}}");
    format!("  files: [{}]\n", ["a", "b", "c", "d"].map(file).join(", "))
}

/// What was found, by the last part of the path.
fn found(astray: &[Astray]) -> Vec<(String, How)> {
    let name = |astray: &Astray| {
        let name = astray.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        (name, astray.how)
    };
    let mut found: Vec<(String, How)> = astray.iter().map(name).collect();
    found.sort();
    found
}

pub(super) async fn files_that_differ_are_told_and_written_again(stand: &mut Stand<'_>) {
    let spec = stand.spec("web", SPOILT, &four_files("one"));
    let unit = stand.runtime.start(&spec).await.expect("it starts");
    stand.log(1).await;
    let expected = [("a", How::Content), ("b", How::Mode), ("c", How::Gone), ("d", How::NoFile)];
    let expected = expected.map(|(name, how)| (name.to_owned(), how));
    let looked = stand.runtime.look_at_files(&spec).await.expect("they can be looked at");
    assert_eq!(found(&looked), expected);
    assert!(looked.iter().all(|astray| astray.unit == unit.unit), "{looked:?}");
    let restored = stand.runtime.restore_files(&spec).await.expect("they can be written");
    assert_eq!(found(&restored), expected);
    assert_eq!(stand.runtime.look_at_files(&spec).await.expect("they can be looked at"), []);
    assert_eq!(stand.runtime.restore_files(&spec).await.expect("nothing is left to do"), []);
    let seen = stand.look(&unit.unit).await.map(|seen| seen.state.pid);
    assert_eq!(seen, Some(unit.state.pid), "it runs on");
    // Of another generation it has nothing to say.
    let other = UnitSpec { generation: "g2".to_owned(), ..spec };
    assert_eq!(stand.runtime.look_at_files(&other).await.expect("there are none"), []);
}

pub(super) async fn files_are_changed_under_a_unit_that_runs_on(stand: &mut Stand<'_>) {
    let script = "last=; while :; do now=\"$(cat conf/a 2>/dev/null) $(cat conf/e 2>/dev/null)\"; \
                  [ \"$now\" = \"$last\" ] || echo \"$now\"; last=$now; sleep 0.05; done";
    let unit = stand.start(script, "  files: [{path: conf/a, content: one}]\n").await;
    stand.log(1).await;
    let more = "  files: [{path: conf/a, content: two}, {path: conf/e, content: new}]\n";
    let spec = stand.spec("web", script, more);
    let restored = stand.runtime.restore_files(&spec).await.expect("they can be written");
    assert_eq!(found(&restored), [("a".to_owned(), How::Content), ("e".to_owned(), How::Gone)]);
    let begun = Instant::now();
    // It may see the one before the other.
    while stand.texts(2).await.last().map(String::as_str) != Some("two new") {
        assert!(begun.elapsed() < PATIENCE, "{:?}", stand.texts(1).await);
        tokio::time::sleep(PAUSE).await;
    }
    let seen = stand.look(&unit.unit).await.expect("it is there");
    assert_eq!((seen.state.pid, seen.state.restarts), (unit.state.pid, 0), "it runs on");
    // What has ended finds them when it is started again.
    stand.runtime.stop(&unit.unit).await.expect("it stops");
    let last = stand.spec("web", script, "  files: [{path: conf/a, content: three}]\n");
    stand.runtime.restore_files(&last).await.expect("also of what has ended");
    stand.runtime.start_again(&unit.unit).await.expect("it starts again");
    let begun = Instant::now();
    while !stand.texts(3).await.last().is_some_and(|text| text.starts_with("three")) {
        assert!(begun.elapsed() < PATIENCE, "{:?}", stand.texts(1).await);
        tokio::time::sleep(PAUSE).await;
    }
}

pub(super) async fn what_is_in_a_file_is_never_told(stand: &mut Stand<'_>) {
    let spec = stand.spec("web", "echo secret-one; exec sleep 1000", &four_files("hunter2"));
    stand.runtime.start(&spec).await.expect("it starts");
    let told = format!("{spec:?} {:?} {:?}", stand.runtime, stand.runtime.list());
    assert!(!told.contains("hunter2"), "{told}");
    let other = stand.spec("web", "", &four_files("hunter3").replace("conf/", "/no/such/directory/"));
    let told = match stand.runtime.restore_files(&other).await {
        Ok(restored) => format!("{restored:?}"),
        Err(error) => format!("{error} {error:?}"),
    };
    assert!(!told.contains("hunter"), "{told}");
}
