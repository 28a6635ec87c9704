use std::fs;

use towline_protocol::{
    CallError, Code,
    bundle::{ResultState, WorkloadResult},
};

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

#[tokio::test]
async fn what_is_committed_is_there_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let (id, one) = (store.id(), resource("a: 1\r\n\0"));
    let failed = Outcome(Err(CallError::new(Code::Cluster, "no")));
    store
        .commit(vec![Change::Put("a".to_owned(), Arc::clone(&one))], Some((key("r1"), failed.clone())), 5)
        .await
        .unwrap();
    store
        .commit(vec![Change::Put("b".to_owned(), resource("b")), Change::Remove("b".to_owned())], None, 6)
        .await
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

#[tokio::test]
async fn outcomes_are_forgotten_after_two_days() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let day = 24 * 60 * 60 * 1000;
    let done = Outcome(Ok(None));
    store.commit(vec![], Some((key("old"), done.clone())), day).await.unwrap();
    store.commit(vec![], Some((key("mid"), done.clone())), 2 * day).await.unwrap();
    store.commit(vec![], Some((key("new"), done.clone())), 3 * day + 1).await.unwrap();
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
fn what_cannot_be_used_is_refused() {
    let dir = tempfile::tempdir().unwrap();
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

#[tokio::test]
async fn a_leap_of_the_clock_forgets_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let done = Outcome(Ok(None));
    let decades = 56 * 365 * 24 * 60 * 60 * 1000;
    let calls = [("at-boot", 1000), ("synced", decades), ("back", 2000)];
    for (request, at) in calls {
        store.commit(vec![], Some((key(request), done.clone())), at).await.unwrap();
    }
    assert!(calls.iter().all(|(request, _)| store.outcome(request).unwrap().is_some()));
}

/// What agents of the first layout left, as the agent of commit 163b387 wrote it.
fn first_layout() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("agent.redb"), include_bytes!("../../tests/fixtures/store-v1.redb")).unwrap();
    dir
}

#[tokio::test]
async fn z_s8_a_store_of_the_first_layout_is_migrated_once() {
    let dir = first_layout();
    let store = Store::open(dir.path()).unwrap();
    let (id, resources) = (store.id(), store.resources().unwrap());
    let names: Vec<&str> = resources.keys().map(String::as_str).collect();
    assert_eq!(names, ["shop/App/cron", "shop/App/db", "shop/App/web"]);
    assert_eq!(resources["shop/App/web"].facts.generation, "fedcba9876543210");
    assert!(resources["shop/App/db"].definition.ends_with(b"drift: report}\n"));
    assert!(store.outcome("web").unwrap().unwrap().1.0.is_err());
    let records = store.read(|transaction| records::after(transaction, DIRECT, 0, 10)).unwrap();
    let told: Vec<String> = records
        .iter()
        .map(|record| format!("{} {}", record.workload.as_ref().unwrap(), record.state))
        .collect();
    assert_eq!(told, ["App/cron init", "App/db ok", "App/web error"]);
    drop(store);
    let store = Store::open(dir.path()).unwrap();
    assert_eq!((store.id(), store.resources().unwrap()), (id, resources));
    assert_eq!(store.read(|transaction| records::after(transaction, DIRECT, 0, 10)).unwrap(), records);
}

#[test]
fn a_newer_layout_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    drop(Store::open(dir.path()).unwrap());
    let database = redb::Database::create(dir.path().join("agent.redb")).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(schema::META).unwrap().insert("schema", "99").unwrap();
    transaction.commit().unwrap();
    drop(database);
    let error = Store::open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("has layout 99") && error.contains("run the agent that made it"), "{error}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3, "nothing was set aside");
}

#[tokio::test]
async fn a_damaged_store_is_set_aside_whole() {
    for damage in ["nonsense", "torn page"] {
        let dir = first_layout();
        let path = dir.path().join("agent.redb");
        drop(Store::open(dir.path()).unwrap());
        let mut bytes = fs::read(&path).unwrap();
        match damage {
            "nonsense" => bytes = b"nonsense".to_vec(),
            _ => bytes[8192..].iter_mut().step_by(64).for_each(|byte| *byte ^= 0xff),
        }
        fs::write(&path, &bytes).unwrap();
        let store = Store::open(dir.path()).unwrap();
        let aside = store.set_aside().unwrap().to_owned();
        assert!(
            aside.file_name().unwrap().to_string_lossy().starts_with("agent.redb.damaged-20"),
            "{aside:?}"
        );
        assert_eq!(fs::read(&aside).unwrap().len(), bytes.len(), "{damage}: it is whole");
        assert!(store.resources().unwrap().is_empty(), "{damage}: nothing is half read");
        drop(store);
        assert_eq!(Store::open(dir.path()).unwrap().set_aside(), None);
    }
}

#[tokio::test]
async fn a_full_disk_refuses_and_is_used_again_when_there_is_room() {
    let (dir, disk) = (tempfile::tempdir().unwrap(), faults::Faults::default());
    let store = Store::open_with(dir.path(), disk.opener()).unwrap();
    let put = |id: &str| vec![Change::Put(id.to_owned(), resource("a: 1"))];
    store.commit(put("before"), None, 1).await.unwrap();
    disk.set_full(true);
    for _ in 0..3 {
        let error = store.commit(put("lost"), Some((key("lost"), Outcome(Ok(None)))), 2).await.unwrap_err();
        let refusal = error.refusal();
        assert_eq!((refusal.code, refusal.effect), (Code::Cluster, towline_protocol::Effect::None));
        assert_eq!(store.failure(), Some(error));
    }
    disk.set_full(false);
    store.commit(put("after"), None, 3).await.unwrap();
    assert_eq!(store.failure(), None);
    let there: Vec<String> = store.resources().unwrap().into_keys().collect();
    assert_eq!(there, ["after", "before"]);
    assert_eq!(store.outcome("lost").unwrap(), None);
    drop(store);
    assert_eq!(Store::open(dir.path()).unwrap().resources().unwrap().len(), 2);
}

#[tokio::test]
async fn changes_that_wait_together_share_a_flush_and_too_many_are_refused() {
    let (dir, disk) = (tempfile::tempdir().unwrap(), faults::Faults::default());
    let store = Store::open_with(dir.path(), disk.opener()).unwrap();
    let before = disk.flushes();
    disk.set_stall(std::time::Duration::from_millis(20));
    let write =
        |number: usize| store.commit(vec![Change::Put(format!("r{number}"), resource("a: 1"))], None, 1);
    let answers = futures::future::join_all((0..3_000).map(write)).await;
    disk.set_stall(std::time::Duration::ZERO);
    let flushes = disk.flushes() - before;
    let refused = answers.iter().filter(|answer| answer.is_err()).count();
    assert!(flushes < 40, "{flushes} flushes");
    assert!((1..3_000).contains(&refused), "{refused} refused");
    let behind = answers.into_iter().find_map(Result::err).unwrap();
    assert_eq!(behind.refusal().code, Code::Busy);
    assert_eq!(store.resources().unwrap().len(), 3_000 - refused);
}

#[tokio::test]
async fn the_record_keeps_the_newest() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let changes = (0..1_500).map(|_| Change::Put("default/App/a".to_owned(), resource("a: 1"))).collect();
    store.commit(changes, None, 1).await.unwrap();
    let all = store.read(|transaction| records::after(transaction, DIRECT, 0, 5_000)).unwrap();
    let seqs: Vec<u64> = all.iter().map(|record| record.seq).collect();
    assert_eq!(seqs, (501..=1_500).collect::<Vec<u64>>());
}

#[test]
fn z_e12_a_sound_store_that_cannot_be_opened_now_is_not_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    drop(Store::open(dir.path()).unwrap());
    let errors: [fn() -> redb::DatabaseError; 3] = [
        || redb::DatabaseError::DatabaseAlreadyOpen,
        || redb::DatabaseError::UpgradeRequired(1),
        || redb::DatabaseError::RepairAborted,
    ];
    for error in errors {
        let opened = Store::open_with(dir.path(), Opener::new(move |_| Err(error())));
        assert!(matches!(opened, Err(OpenStoreError::Refused { .. })), "{opened:?}");
    }
    assert_eq!(Store::open(dir.path()).unwrap().set_aside(), None);
}

#[tokio::test]
async fn z_s4_what_makes_no_sense_is_refused_and_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let result = |state: ResultState, at_unix_ms| records::Entry {
        at_unix_ms,
        version: 1,
        workload: Some("App/web".parse().unwrap()),
        state,
        message: None,
        job: None,
    };
    let append = async |entry: records::Entry| {
        store.write(move |transaction| records::append(transaction, "shop", entry)).await
    };
    let unknown = append(result(ResultState::from_word("frobbed"), 1)).await.unwrap_err();
    assert_eq!(unknown, StoreError::Unsound(Unsound::State("frobbed".to_owned())));
    let never = append(result(ResultState::Ok, 0)).await.unwrap_err();
    assert_eq!(never, StoreError::Unsound(Unsound::NoTime("App/web".to_owned())));
    let (workload, resource): (WorkloadId, ResourceId) =
        ("App/web".parse().unwrap(), "default/File/web".parse().unwrap());
    let state = WorkloadResult { state: ResultState::Ok, message: None, since_unix_ms: 1, job: None };
    let row = rows::WorkloadRow::new(workload.clone(), resource.clone(), 1, state);
    let put = move |transaction: &WriteTransaction| {
        rows::put_workload(transaction, &"shop".parse().unwrap(), &row, None)
    };
    let other = store.write(put).await.unwrap_err();
    assert_eq!(other, StoreError::Unsound(Unsound::Kind { workload, resource }));
    assert!(other.to_string().contains("found workload App/web as resource default/File/web"), "{other}");
    // Nothing of it was stored, and what is sound still is.
    assert_eq!(append(result(ResultState::Ok, 1)).await, Ok(1));
    assert_eq!(store.read(|transaction| records::after(transaction, "shop", 0, 10)).unwrap().len(), 1);
}
