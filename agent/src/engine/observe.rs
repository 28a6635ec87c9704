//! What is seen of workloads, by the definitions that were carried out.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::{StreamExt as _, future::OptionFuture, stream};
use towline_protocol::{CallError, Name, WorkloadId, bundle::Change};

use super::{
    Engine,
    manager::{Seen, Work},
};
use crate::store::rows::{self, WorkloadRow};

/// Workloads that are looked at by one call of [`Engine::observe`], for whoever has more: so many definitions are held at
/// once, and what is told of the first is no older than a look at the others.
pub(super) const TOGETHER: usize = 256;

/// Looks under way at the same time: what waits for a disk waits together.
const AT_ONCE: usize = 16;

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
        let look = |(row, definition): (&WorkloadRow, Option<Bytes>)| {
            let manager = self.inner.registry.find(row.id.kind()).ok()?;
            let work = work(bundle, row, definition.filter(|_| row.holds.is_some())?);
            let held_up = self.held_up(row.id.kind());
            Some(async move {
                match held_up {
                    Some(error) => Seen::unknown(error.message),
                    None => manager.observe(work).await,
                }
            })
        };
        let looks: Vec<OptionFuture<_>> =
            rows.iter().zip(definitions).map(look).map(OptionFuture::from).collect();
        Ok(stream::iter(looks).buffered(AT_ONCE).collect().await)
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
