//! Looking at the unit again and again while it runs.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::{
    spawn::Spawner,
    spec::{ShimHealth, ShimProbe},
};
use crate::health::{Get, Judge, Peer, Verdict, get, knock};

/// The looks at one run.
#[derive(Debug)]
pub(super) struct Checks {
    spawner: Spawner,
    health: ShimHealth,
    judge: Judge,
    begun: Instant,
}

impl Checks {
    /// For a run that has just begun.
    pub(super) fn new(spawner: &Spawner, health: &ShimHealth) -> Self {
        let (spawner, health) = (spawner.clone(), health.clone());
        Self { spawner, judge: Judge::new(health.rule), health, begun: Instant::now() }
    }

    /// What holds now.
    pub(super) fn verdict(&self) -> &Verdict {
        self.judge.verdict()
    }

    /// Looks until another verdict holds than before. Dropped, a look is broken off, and has not been.
    pub(super) async fn next(&mut self) -> &Verdict {
        loop {
            sleep_until(self.begun + self.judge.due()).await;
            let looked = self.look(self.judge.patience()).await;
            if self.judge.note(looked, self.begun.elapsed()) {
                return self.judge.verdict();
            }
        }
    }

    async fn look(&self, limit: Duration) -> Result<(), String> {
        match &self.health.probe {
            ShimProbe::Tcp { address, port } => {
                knock(*address, &Peer::Unit, limit).await.map_err(|why| format!("tcp :{port} {why}"))
            }
            ShimProbe::Http { address, port, path, status } => {
                let asked = get(*address, &Peer::Unit, Get { path, status: *status }, limit).await;
                asked.map_err(|why| format!("GET :{port}{path} {why}"))
            }
            ShimProbe::Exec { .. } => self.spawner.check(limit).await,
        }
    }
}
