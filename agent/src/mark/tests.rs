//! The mark on a real disk, between agents that are threads of this process.

use std::{
    collections::BTreeSet,
    fs,
    sync::atomic::{AtomicU64, Ordering},
};

use super::*;

fn epoch(number: u64) -> Epoch {
    Epoch::new(number).unwrap()
}

fn instance() -> InstanceId {
    "acme/site".parse().unwrap()
}

/// An agent with a store of its own.
fn agent(dir: &Path, store: u128, served: Option<u64>) -> Mark {
    let store = StoreId::new(uuid::Uuid::from_u128(store));
    Mark::open(dir, &instance(), store, served.map(epoch)).unwrap()
}

async fn says(mark: &Mark) -> String {
    mark.may_act().await.unwrap_err().to_string()
}

async fn raise(mark: &Mark, number: u64) -> Result<(), RaiseError> {
    mark.prepare(epoch(number));
    let raising = mark.clone();
    let raised = tokio::task::spawn_blocking(move || raising.raise(epoch(number))).await.unwrap();
    mark.settle(epoch(number)).await;
    raised
}

#[tokio::test]
async fn the_newest_acts_and_whoever_was_passed_over_says_who_does() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (agent(dir.path(), 1, None), agent(dir.path(), 2, None));
    assert!(one.turn().await.is_ok() && two.turn().await.is_ok(), "nobody has ever acted");
    raise(&one, 5).await.unwrap();
    assert!(one.turn().await.is_ok());
    assert_eq!(says(&two).await, "another agent acts for this instance: epoch 5");
    raise(&two, 6).await.unwrap();
    assert!(two.turn().await.is_ok());
    let error = one.turn().await.unwrap_err().to_string();
    assert_eq!(error, "another agent acts for this instance: epoch 6");
    let refused = one.permit().await.unwrap_err();
    assert_eq!((refused.code, refused.effect), (Code::Fenced, towline_protocol::Effect::None));
    assert_eq!(raise(&one, 5).await, Err(RaiseError::Above(epoch(6))), "it is never lowered");
    assert!(says(&one).await.ends_with("epoch 6") && two.may_act().await.is_ok());
    raise(&one, 7).await.unwrap();
    assert!(one.may_act().await.is_ok() && says(&two).await.ends_with("epoch 7"));
}

#[tokio::test]
async fn without_a_hub_it_acts_under_what_its_store_served_if_nobody_has_since() {
    let dir = tempfile::tempdir().unwrap();
    raise(&agent(dir.path(), 1, None), 5).await.unwrap();
    assert!(agent(dir.path(), 1, Some(5)).turn().await.is_ok(), "the mark shows it");
    assert!(agent(dir.path(), 1, Some(4)).turn().await.is_err(), "somebody has acted since");
    assert!(agent(dir.path(), 2, None).turn().await.is_err(), "nor has it ever acted");
    // Told to go, and killed before it raised the mark.
    assert!(agent(dir.path(), 2, Some(6)).turn().await.is_ok());
    assert!(agent(dir.path(), 1, Some(5)).turn().await.is_err(), "so it raised the mark");
    let another = tempfile::tempdir().unwrap();
    assert!(agent(another.path(), 1, Some(5)).turn().await.is_ok(), "there is no mark");
}

#[tokio::test]
async fn a_raise_waits_for_what_is_under_way_and_lets_nobody_older_begin() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (agent(dir.path(), 1, None), agent(dir.path(), 2, None));
    raise(&one, 5).await.unwrap();
    let under_way = one.turn().await.unwrap();
    let raising = two.clone();
    let raised = tokio::task::spawn_blocking(move || raising.raise(epoch(6)));
    while one.may_act().await.is_ok() {
        tokio::time::sleep(LOOK).await;
    }
    assert!(one.turn().await.is_err() && two.turn().await.is_err(), "neither begins anything");
    assert!(!raised.is_finished());
    drop(under_way);
    raised.await.unwrap().unwrap();
    assert!(two.turn().await.is_ok());
}

#[tokio::test]
async fn a_raise_by_who_acts_already_cuts_off_nothing_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let one = agent(dir.path(), 1, None);
    raise(&one, 5).await.unwrap();
    let _under_way = one.turn().await.unwrap();
    raise(&one, 6).await.unwrap();
    assert!(one.turn().await.is_ok());
}

#[tokio::test]
async fn nothing_is_begun_while_it_prepares() {
    let dir = tempfile::tempdir().unwrap();
    let one = agent(dir.path(), 1, None);
    raise(&one, 5).await.unwrap();
    one.prepare(epoch(6));
    assert!(!one.acted() && says(&one).await.contains("about to act under epoch 6"));
    one.settle(epoch(5)).await;
    assert!(!one.acted(), "that was about an older one");
    let (waiting, waited) = (one.clone(), one.clone());
    let waits = tokio_util::task::TaskTracker::new().spawn(async move { waiting.acts().await });
    let raised = tokio::task::spawn_blocking(move || waited.raise(epoch(6))).await.unwrap();
    assert_eq!(raised, Ok(()));
    assert!(!waits.is_finished());
    one.settle(epoch(6)).await;
    waits.await.unwrap();
    assert_eq!(one.permit().await, Ok(()));
}

#[tokio::test]
async fn with_a_mark_that_cannot_be_read_nobody_acts() {
    let dir = tempfile::tempdir().unwrap();
    let one = agent(dir.path(), 1, None);
    raise(&one, 5).await.unwrap();
    let file = dir.path().join("acme.site");
    let sound = fs::read(&file).unwrap();
    fs::write(&file, "{").unwrap();
    let said = says(&one).await;
    assert!(said.contains(file.to_str().unwrap()) && said.contains("stop every agent"), "{said}");
    assert!(one.turn().await.is_err());
    assert!(matches!(raise(&one, 6).await, Err(RaiseError::Failed(said)) if said.contains("cannot be read")));
    assert!(Mark::check(dir.path(), &instance()).is_err());
    assert_eq!(fs::read(&file).unwrap(), b"{", "what is not understood is not overwritten");
    assert!(agent(dir.path(), 1, Some(5)).turn().await.is_err());
    fs::write(&file, sound).unwrap();
    assert!(one.may_act().await.is_ok(), "as soon as it is mended");
}

#[test]
fn a_mark_never_falls_whoever_raises_it() {
    let dir = tempfile::tempdir().unwrap();
    let raised = Mutex::new(BTreeSet::new());
    let seen = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for number in 0..8_u64 {
            let (dir, raised, seen) = (dir.path(), &raised, &seen);
            scope.spawn(move || {
                let mark = agent(dir, u128::from(number), None);
                for round in 0..12 {
                    let asked = round * 8 + (number * 5 + round * 3) % 8 + 1;
                    let before = seen.load(Ordering::SeqCst);
                    match mark.raise(epoch(asked)) {
                        Ok(()) => {
                            raised.lock().unwrap().insert(asked);
                            seen.fetch_max(asked, Ordering::SeqCst);
                        }
                        Err(RaiseError::Above(above)) => assert!(above.get() > asked),
                        Err(RaiseError::Failed(why)) => panic!("{why}"),
                    }
                    let shown = mark.inner.place.read().unwrap().unwrap().epoch.get();
                    assert!(shown >= before && shown >= asked.min(shown), "{shown} after {before}");
                }
            });
        }
    });
    let mark = agent(dir.path(), 0, None);
    let shown = mark.inner.place.read().unwrap().unwrap();
    assert_eq!(Some(&shown.epoch.get()), raised.lock().unwrap().last());
    assert_eq!(shown.before, [], "nobody is in the middle of anything");
}
