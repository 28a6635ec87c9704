//! What becomes of jobs when another store served in between, and of work while another agent acts.

use towline_protocol::Epoch;

use super::*;

fn epoch(number: u64) -> Epoch {
    Epoch::new(number).unwrap()
}

impl Rig {
    async fn job(&self, put: &PutBundleResponse) -> Job {
        let request = GetJobRequest { job: put.job.unwrap(), after: 0, limit: None };
        self.engine.job(&request).await.unwrap().job
    }

    /// Begins an epoch, as soon as what is under way lets it.
    fn begins(&self, number: u64, since: Option<u64>) -> tokio::task::JoinHandle<bool> {
        let engine = self.engine.clone();
        let begins = async move { engine.begin_epoch(epoch(number), since.map(epoch)).await };
        tokio_util::task::TaskTracker::new().spawn(begins)
    }

    /// The agent ends after the operation that is under way, and another takes up what is left.
    async fn cut_short(self) -> Self {
        self.engine.inner.tasks.stopping().cancel();
        self.script.turns.add_permits(1);
        assert!(self.engine.inner.tasks.stop(Duration::from_secs(20)).await);
        // Where nothing was under way yet.
        self.script.turns.forget_permits(1);
        self.reopened("boot").await
    }

    /// A mark of another agent on the same host.
    fn another(&self) -> Mark {
        let store = towline_protocol::StoreId::new(uuid::Uuid::from_u128(2));
        Mark::open(&self.dir.path().join("marks"), &"acme/site".parse().unwrap(), store, None).unwrap()
    }
}

#[tokio::test]
async fn what_waited_is_superseded_and_what_was_begun_goes_on_without_its_job() {
    let rig = Rig::new().await;
    assert!(rig.engine.begin_epoch(epoch(5), None).await);
    rig.done("shop", &thing("a", "")).await;
    rig.script.turns.forget_permits(PLENTY);
    let begun = rig.put("shop", &[thing("a", "size: 2"), thing("b", "")].concat()).await.unwrap();
    rig.runs(&begun).await;
    let waiting = rig.put("shop", &thing("c", "")).await.unwrap();
    let begins = rig.begins(9, Some(7));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!begins.is_finished(), "an operation is under way");
    rig.script.turns.add_permits(PLENTY);
    assert!(begins.await.unwrap());
    for put in [&begun, &waiting] {
        let job = rig.ended(put).await;
        assert_eq!(job.state, JobState::Superseded);
        let said = job.message.unwrap();
        for part in ["another store", "epoch 7", "under epoch 5", "under epoch 9"] {
            assert!(said.contains(part), "`{part}` is not in: {said}");
        }
    }
    rig.until(|state| state.bundles.values().all(|bundle| bundle.row.applied == Some(2))).await;
    let there: Vec<String> = rig.states("shop").await.into_keys().collect();
    assert_eq!(there, ["a", "b"], "the second version holds whole; the third was never begun");
    assert!(rig.engine.state().jobs.is_empty());
    let again = rig.put("shop", &thing("c", "")).await.unwrap();
    assert!(again.outcome != PutOutcome::Unchanged && again.job != waiting.job, "{again:?}");
    assert_eq!(rig.ended(&again).await.state, JobState::Done);
}

#[tokio::test]
async fn it_happens_once_for_an_epoch_also_over_a_restart() {
    let rig = Rig::new().await;
    assert!(rig.engine.begin_epoch(epoch(5), None).await);
    assert!(rig.engine.begin_epoch(epoch(9), Some(epoch(7))).await);
    rig.script.turns.forget_permits(PLENTY);
    let put = rig.put("shop", &[thing("a", ""), thing("b", ""), thing("c", "")].concat()).await;
    let begun = put.unwrap();
    rig.runs(&begun).await;
    assert!(rig.engine.begin_epoch(epoch(9), Some(epoch(7))).await, "told again");
    let rig = rig.cut_short().await;
    assert!(rig.engine.begin_epoch(epoch(9), Some(epoch(7))).await);
    assert!(rig.engine.begin_epoch(epoch(11), Some(epoch(7))).await, "nobody since the last");
    assert_eq!(rig.job(&begun).await.state, JobState::Running);
    // Told, and killed before anything came of it: told again, for whatever epoch it is.
    let rig = rig.cut_short().await;
    let begins = rig.begins(14, Some(12));
    rig.script.turns.add_permits(PLENTY);
    assert!(begins.await.unwrap());
    assert_eq!(rig.ended(&begun).await.state, JobState::Superseded);
    rig.until(|state| state.bundles.values().all(|bundle| bundle.row.applied == Some(1))).await;
}

#[tokio::test]
async fn while_another_agent_acts_work_waits_and_does_not_fail() {
    let rig = Rig::new().await;
    let (mark, other) = (rig.engine.inner.mark.clone(), rig.another());
    other.raise(epoch(6)).unwrap();
    let put = rig.put("shop", &thing("a", "")).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!((rig.job(&put).await.state, rig.took()), (JobState::Pending, Vec::new()));
    assert!(mark.why_not().unwrap().ends_with("epoch 6"));
    mark.prepare(epoch(7));
    mark.raise(epoch(7)).unwrap();
    mark.settle(epoch(7)).await;
    assert_eq!(rig.ended(&put).await.state, JobState::Done);
    assert_eq!(rig.took(), ["add a"]);
    assert!(other.turn().await.is_err());
}
