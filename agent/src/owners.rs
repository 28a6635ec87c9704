//! Who has which resource: one owner each, a bundle or `direct`; several bundles only where each says that it shares.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use towline_protocol::{Name, ResourceId};

type Owned = BTreeMap<ResourceId, BTreeMap<Name, bool>>;
/// A resource that a bundle wants, and whether it shares it.
type Wanted = (ResourceId, bool);
/// What a bundle had of what it claimed, and whether it shared it.
pub(crate) type Before = Vec<(ResourceId, Option<bool>)>;

/// Resources of bundles, from the moment that a bundle with them was accepted. Cheap to clone; all clones are one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Owners(Arc<Mutex<Owned>>);

impl Owners {
    /// Makes `bundle` an owner of `wanted` (and of what else it has already); the flag says that it shares. Says how it had
    /// them before, for [`Owners::restore`].
    ///
    /// # Errors
    /// The first that another bundle has, and which: nothing was claimed.
    pub(crate) fn claim(&self, bundle: &Name, wanted: &[Wanted]) -> Result<Before, (ResourceId, Name)> {
        let mut owned = self.lock();
        free(&owned, bundle, wanted)?;
        let claim = |(resource, shared): &Wanted| {
            let before = owned.entry(resource.clone()).or_default().insert(bundle.clone(), *shared);
            (resource.clone(), before)
        };
        Ok(wanted.iter().map(claim).collect())
    }

    /// Whether `bundle` could claim `wanted`.
    ///
    /// # Errors
    /// As [`Owners::claim`].
    pub(crate) fn check(&self, bundle: &Name, wanted: &[Wanted]) -> Result<(), (ResourceId, Name)> {
        free(&self.lock(), bundle, wanted)
    }

    /// Takes a claim back.
    pub(crate) fn restore(&self, bundle: &Name, before: Before) {
        let mut owned = self.lock();
        for (resource, before) in before {
            let owners = owned.entry(resource).or_default();
            match before {
                Some(shared) => owners.insert(bundle.clone(), shared),
                None => owners.remove(bundle),
            };
        }
        owned.retain(|_, owners| !owners.is_empty());
    }

    /// Makes `bundle` the owner of what `keep` accepts, and of nothing else.
    pub(crate) fn retain(&self, bundle: &Name, keep: impl Fn(&ResourceId) -> bool) {
        self.lock().retain(|resource, owners| {
            if !keep(resource) {
                owners.remove(bundle);
            }
            !owners.is_empty()
        });
    }

    /// A bundle that has `resource`.
    pub(crate) fn owner(&self, resource: &str) -> Option<Name> {
        let resource: ResourceId = resource.parse().ok()?;
        self.lock().get(&resource)?.keys().next().cloned()
    }

    fn lock(&self) -> MutexGuard<'_, Owned> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn free(owned: &Owned, bundle: &Name, wanted: &[Wanted]) -> Result<(), (ResourceId, Name)> {
    for (resource, shared) in wanted {
        let others = owned.get(resource).into_iter().flatten().filter(|(other, _)| *other != bundle);
        for (other, shares) in others {
            if !(*shared && *shares) {
                return Err((resource.clone(), other.clone()));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn z_s2_what_another_bundle_has_is_a_conflict_unless_both_share() {
        let owners = Owners::default();
        let (a, b): (Name, Name) = ("a".parse().unwrap(), "b".parse().unwrap());
        let resource = |name: &str| format!("default/Directory/{name}").parse::<ResourceId>().unwrap();
        let (own, common) = (resource("own"), resource("common"));
        owners.claim(&a, &[(own.clone(), false), (common.clone(), true)]).unwrap();
        owners.claim(&a, &[(own.clone(), false)]).unwrap();
        assert_eq!(owners.claim(&b, &[(own.clone(), true)]), Err((own.clone(), a.clone())));
        assert_eq!(owners.claim(&b, &[(common.clone(), false)]), Err((common.clone(), a.clone())));
        owners.claim(&b, &[(common.clone(), true)]).unwrap();
        // Another one was removed: still a conflict.
        owners.retain(&a, |resource| *resource == own);
        assert_eq!(owners.claim(&b, &[(own.clone(), false)]), Err((own.clone(), a.clone())));
        owners.retain(&a, |_| false);
        owners.claim(&b, &[(own.clone(), false)]).unwrap();
        assert_eq!((owners.owner(own.as_str()), owners.owner(common.as_str())), (Some(b.clone()), Some(b)));
    }

    #[test]
    fn a_claim_that_is_taken_back_leaves_what_was() {
        let owners = Owners::default();
        let (a, b): (Name, Name) = ("a".parse().unwrap(), "b".parse().unwrap());
        let common: ResourceId = "default/Directory/common".parse().unwrap();
        owners.claim(&a, &[(common.clone(), true)]).unwrap();
        let before = owners.claim(&a, &[(common.clone(), false)]).unwrap();
        owners.check(&b, &[(common.clone(), true)]).unwrap_err();
        owners.restore(&a, before);
        owners.check(&b, &[(common.clone(), true)]).unwrap();
        let before = owners.claim(&b, &[(common.clone(), true)]).unwrap();
        owners.restore(&b, before);
        owners.claim(&a, &[(common, false)]).unwrap();
    }
}
