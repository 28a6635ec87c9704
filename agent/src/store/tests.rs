use towline_protocol::{CallError, Code};

use super::*;

fn resource(text: &'static str) -> Arc<Resource> {
    let facts = Facts {
        digest: "d".to_owned(),
        generation: "g".to_owned(),
        applied_ms: 1,
        failure: None,
        pending: false,
    };
    Arc::new(Resource { definition: Bytes::from_static(text.as_bytes()), facts })
}

fn key(request: &str) -> OutcomeKey {
    OutcomeKey { request: request.to_owned(), question: "q".to_owned() }
}

#[test]
fn what_is_committed_is_there_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let (id, one) = (store.id(), resource("a: 1\r\n\0"));
    let failed = Outcome(Err(CallError::new(Code::Cluster, "no")));
    store.commit(&[Change::Put("a".to_owned(), Arc::clone(&one))], Some((&key("r1"), &failed)), 5).unwrap();
    store
        .commit(&[Change::Put("b".to_owned(), resource("b")), Change::Remove("b".to_owned())], None, 6)
        .unwrap();
    store.set_last_epoch(Epoch::new(7).unwrap()).unwrap();
    drop(store);
    let store = Store::open(dir.path()).unwrap();
    assert_eq!((store.id(), store.last_epoch()), (id, Some(Epoch::new(7).unwrap())));
    assert_eq!(store.resources().unwrap(), BTreeMap::from([("a".to_owned(), one)]));
    assert_eq!(store.outcome("r1").unwrap(), Some((key("r1"), failed)));
    assert_eq!(store.outcome("r2").unwrap(), None);
    assert_eq!(
        Identity::read(dir.path()).unwrap(),
        Some(Identity { store: id, last_epoch: Epoch::new(7).ok() })
    );
}

#[test]
fn outcomes_are_forgotten_after_two_days() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let day = 24 * 60 * 60 * 1000;
    let done = Outcome(Ok(()));
    store.commit(&[], Some((&key("old"), &done)), day).unwrap();
    store.commit(&[], Some((&key("mid"), &done)), 2 * day).unwrap();
    store.commit(&[], Some((&key("new"), &done)), 3 * day + 1).unwrap();
    let known = ["old", "mid", "new"].map(|request| store.outcome(request).unwrap().is_some());
    assert_eq!(known, [false, true, true]);
}

#[test]
fn a_second_agent_is_told_who_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let error = Store::open(dir.path()).unwrap_err().to_string();
    assert!(error.contains(&format!("running agent (pid {})", std::process::id())), "{error}");
    drop(store);
    Store::open(dir.path()).unwrap();
}

#[test]
fn what_is_no_database_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("agent.redb"), "nonsense").unwrap();
    let error = Store::open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("agent.redb"), "{error}");
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let error = Store::open(&file).unwrap_err().to_string();
    assert!(error.contains("cannot use the data directory"), "{error}");
}

#[test]
fn an_identity_that_a_loss_of_power_emptied_is_written_anew() {
    let dir = tempfile::tempdir().unwrap();
    let id = Store::open(dir.path()).unwrap().id();
    fs::write(dir.path().join("identity.json"), "").unwrap();
    let store = Store::open(dir.path()).unwrap();
    assert_eq!((store.id(), store.last_epoch()), (id, None));
    assert_eq!(Identity::read(dir.path()).unwrap().unwrap().store, id);
}

#[test]
fn a_leap_of_the_clock_forgets_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let done = Outcome(Ok(()));
    let decades = 56 * 365 * 24 * 60 * 60 * 1000;
    let calls = [("at-boot", 1000), ("synced", decades), ("back", 2000)];
    for (request, at) in calls {
        store.commit(&[], Some((&key(request), &done)), at).unwrap();
    }
    assert!(calls.iter().all(|(request, _)| store.outcome(request).unwrap().is_some()));
}
