//! What is seen of workloads, by the definitions that were carried out.

use std::{collections::BTreeMap, panic::AssertUnwindSafe};

use bytes::Bytes;
use futures::{FutureExt as _, future::join_all};
use towline_protocol::{CallError, Name, WorkloadId, bundle::Change};

use super::{
    Engine,
    manager::{Seen, Work},
};
use crate::store::rows::{self, WorkloadRow};

/// Workloads that are looked at by one call of [`Engine::observe`], for whoever has more: so many definitions are held at
/// once, and what is told of the first is no older than a look at the others.
pub(super) const TOGETHER: usize = 256;

impl Engine {
    /// What is seen now of workloads of `bundle`, in their order; none of what was never carried out, or of an unknown kind.
    pub(super) async fn observe(
        &self,
        bundle: &Name,
        rows: &[WorkloadRow],
    ) -> Result<Vec<Option<Seen>>, CallError> {
        let ids: Vec<WorkloadId> = rows.iter().map(|row| row.id.clone()).collect();
        let name = bundle.clone();
        let definitions = self
            .look(move |transaction| {
                let held = rows::Held::open(transaction)?;
                ids.iter().map(|id| held.definition(&name, id)).collect::<Result<Vec<_>, _>>()
            })
            .await?;
        let mut asked: BTreeMap<&str, (Vec<usize>, Vec<Work>)> = BTreeMap::new();
        for (place, (row, definition)) in rows.iter().zip(definitions).enumerate() {
            let Some(definition) = definition.filter(|_| row.holds.is_some()) else { continue };
            let (places, works) = asked.entry(row.id.kind()).or_default();
            places.push(place);
            works.push(work(bundle, row, definition));
        }
        let looks = asked.into_iter().map(async |(kind, (places, works))| {
            places.into_iter().zip(self.observe_all(kind, works).await).collect::<Vec<_>>()
        });
        let mut seen = vec![None; rows.len()];
        for (place, found) in join_all(looks).await.into_iter().flatten() {
            if let Some(slot) = seen.get_mut(place) {
                *slot = found;
            }
        }
        Ok(seen)
    }

    /// What is seen of workloads of one kind, in their order.
    async fn observe_all(&self, kind: &str, works: Vec<Work>) -> Vec<Option<Seen>> {
        let count = works.len();
        let Ok(manager) = self.inner.registry.find(kind) else { return vec![None; count] };
        if let Some(error) = self.held_up(kind) {
            return vec![Some(Seen::unknown(error.message)); count];
        }
        let looks = AssertUnwindSafe(manager.observe(works)).catch_unwind().await.unwrap_or_default();
        let mut seen: Vec<Option<Seen>> = looks.into_iter().map(Some).collect();
        // A manager that answers less than it is asked, or panics, says nothing of the rest.
        seen.resize(count, None);
        seen
    }
}

impl Engine {
    /// Names the units that there are of what changes in `bundle`: for whoever reads a plan.
    pub(super) async fn name_units(&self, bundle: &Name, changes: &mut [Change]) -> Result<(), CallError> {
        let rows: BTreeMap<WorkloadId, WorkloadRow> =
            self.state().bundles.get(bundle).map(|bundle| bundle.workloads.clone()).unwrap_or_default();
        for changes in changes.chunks_mut(TOGETHER) {
            let asked: Vec<WorkloadRow> =
                changes.iter().filter_map(|change| rows.get(&change.workload).cloned()).collect();
            let seen = self.observe(bundle, &asked).await?;
            for (row, seen) in asked.iter().zip(seen) {
                let units = seen.into_iter().flat_map(|seen| seen.units).map(|unit| unit.id);
                let changed = changes.iter_mut().filter(|change| change.workload == row.id);
                let units: Vec<String> = units.collect();
                changed.for_each(|change| change.units.clone_from(&units));
            }
        }
        Ok(())
    }
}

/// A workload as it was carried out, for its manager.
pub(super) fn work(bundle: &Name, row: &WorkloadRow, definition: Bytes) -> Work {
    Work {
        bundle: bundle.clone(),
        id: row.id.clone(),
        resource: row.resource.clone(),
        definition,
        data: row.data.clone(),
        adopt: false,
    }
}
