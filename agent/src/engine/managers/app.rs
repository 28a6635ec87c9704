//! `App`: units on the process runtime, brought about in the same way as those that `apply` brings here.

use async_trait::async_trait;
use serde_json::Value;
use towline_protocol::{ResourceId, platform::ServiceStatus};

use crate::{
    direct::{Direct, Failure, Owned},
    engine::{
        Room,
        manager::{Manager, Mend, Seen, Traits, Work},
        pipeline::{Step, Stop, Verdict},
    },
    manifest::{Complaint, read_app_of_bundle},
    runtime::RuntimeKind,
};

pub(super) const KIND: &str = "App";

/// Carries out `App`.
#[derive(Debug)]
pub(super) struct Apps {
    direct: Direct,
}

impl Apps {
    pub(super) fn new(direct: Direct) -> Self {
        Self { direct }
    }
}

pub(super) fn read_traits(runtime: RuntimeKind, document: &[u8]) -> Result<Traits, Vec<Complaint>> {
    let spec = read_app_of_bundle(runtime, document)?.spec;
    Ok(Traits { shared: false, needs: Room::of_units(&spec), turn: spec.longest_turn() })
}

fn owned(work: &Work) -> Owned {
    let generation = work.data.get("generation").and_then(Value::as_str).map(str::to_owned);
    Owned {
        bundle: work.bundle.clone(),
        id: work.resource.to_string(),
        definition: work.definition.clone(),
        generation,
        adopt: work.adopt,
    }
}

/// Its one step undoes what it did, or could not.
fn stopped(failure: Failure) -> Stop {
    let verdict = if failure.undone { Verdict::Failed } else { Verdict::Halfway };
    Stop { verdict, error: failure.error }
}

#[async_trait]
impl Manager for Apps {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn read(&self, document: &[u8]) -> Result<Traits, Vec<Complaint>> {
        let runtime = self.direct.runtime();
        let spec = read_app_of_bundle(runtime.kind(), document)?.spec;
        let refused = runtime.limits(&spec.resources).map(drop).and_then(|()| runtime.admits(&spec));
        if let Err(refused) = refused {
            return Err(refused.into_iter().map(|(path, text)| Complaint::new(path, text)).collect());
        }
        Ok(Traits { shared: false, needs: Room::of_units(&spec), turn: spec.longest_turn() })
    }

    fn takes_turns(&self) -> bool {
        true
    }

    fn provision(&self, work: Work) -> Vec<Step> {
        let direct = self.direct.clone();
        // What it does halfway it undoes itself: it alone knows which units it started.
        vec![Step::new("run").forward(move |given| async move {
            direct.bring_about(&owned(&work), &given.asker).await.map_err(stopped)
        })]
    }

    fn update(&self, work: Work, _before: Work) -> Vec<Step> {
        // The generation on record is that of the definition before. Where that one cannot be read any more, nothing says
        // that its units may stay.
        self.provision(Work { data: Value::Null, ..work })
    }

    fn deprovision(&self, work: Work) -> Vec<Step> {
        let direct = self.direct.clone();
        vec![Step::new("stop and remove").forward(move |_| async move {
            direct.take_down(&owned(&work)).await?;
            Ok(Value::Null)
        })]
    }

    fn pause(&self, work: Work) -> Option<Vec<Step>> {
        let direct = self.direct.clone();
        Some(vec![Step::new("stop").forward(move |_| async move {
            direct.pause(&owned(&work)).await?;
            Ok(Value::Null)
        })])
    }

    fn resume(&self, work: Work) -> Option<Vec<Step>> {
        Some(self.provision(work))
    }

    fn adopt(&self, work: &Work, paused: bool) {
        self.direct.find_again(&owned(work), paused);
    }

    async fn observe(&self, works: Vec<Work>) -> Vec<Seen> {
        works.iter().map(|work| self.look_at(&work.resource)).collect()
    }
}

impl Apps {
    /// How an app stands, from what its units told last: nothing is waited for.
    fn look_at(&self, resource: &ResourceId) -> Seen {
        let Some(service) = self.direct.service(resource) else {
            return Seen::unknown("nothing is known of it".to_owned());
        };
        // Mended by the same watch as what `apply` brought here.
        let mend = if self.direct.mends(service.id.as_str()) { Mend::Manager } else { Mend::Nobody };
        let of_files = service.metadata.get("drift").cloned();
        let drift = (service.status == ServiceStatus::Degraded).then(|| {
            let otherwise = || "its units are not as its definition says".to_owned();
            service.excuse.clone().or(of_files).unwrap_or_else(otherwise)
        });
        Seen { status: service.status, reason: service.excuse, units: service.units, drift, mend }
    }
}
