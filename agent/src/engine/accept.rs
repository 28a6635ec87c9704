//! Whether a version of a bundle is taken. Pure.
//!
//! An agent takes any version above the last one that it *accepted*, begun or not; that versions follow each other without
//! a gap is checked where people put them.

use towline_protocol::{ContentDigest, JobId, WorkloadId, bundle::BundlePhase, limits::BUNDLE_VERSION_MAX};

/// What was accepted last.
#[derive(Debug, Clone)]
pub(crate) struct Last {
    pub(crate) phase: BundlePhase,
    pub(crate) version: u64,
    pub(crate) digest: ContentDigest,
    pub(crate) job: JobId,
    /// That job was taken back.
    pub(crate) void: bool,
}

/// What is asked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked {
    pub(crate) version: Option<u64>,
    pub(crate) digest: ContentDigest,
    pub(crate) force: bool,
}

/// What to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Take it as this version.
    Accept(u64),
    /// It is what was accepted last, by this job.
    Unchanged(u64, JobId),
}

/// Why a version is not taken. Nothing was stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AcceptError {
    #[error("version {version} is out of range: allowed is 1 to {BUNDLE_VERSION_MAX}")]
    Range { version: u64 },
    #[error(
        "version {version} was accepted with other content; put the changed content as a higher version, or force it"
    )]
    SameVersion { version: u64 },
    #[error("version {version} is below {accepted}, the last accepted one; put a higher one, or force it")]
    Older { version: u64, accepted: u64 },
    #[error(
        "{} was {} and is {} now: the type of a workload cannot change; remove it in one version and add it in the next, \
         or give it another name",
        before.name(), before.kind(), after.kind()
    )]
    TypeChanged { before: WorkloadId, after: WorkloadId },
    #[error(
        "{workload} differs, but a {} cannot be updated: remove it in one version and add it in the next, or give it \
         another name",
        workload.kind()
    )]
    CannotUpdate { workload: WorkloadId },
}

/// Decides about a put.
///
/// # Errors
/// A version that is not above the last accepted one, unless it is forced.
pub(crate) fn decide(last: Option<&Last>, asked: Asked) -> Result<Decision, AcceptError> {
    if let Some(version) = asked.version.filter(|version| !(1..=BUNDLE_VERSION_MAX).contains(version)) {
        return Err(AcceptError::Range { version });
    }
    let Some(last) = last else { return Ok(Decision::Accept(asked.version.unwrap_or(1))) };
    let accepted = last.version;
    let next = asked.version.unwrap_or(accepted + 1);
    // Of what is gone nothing is left to be older than.
    if last.phase == BundlePhase::Deleted {
        return Ok(Decision::Accept(next));
    }
    let same = last.digest == asked.digest;
    let holds = same && !last.void && last.phase != BundlePhase::Deleting;
    match asked.version {
        None if holds && asked.force => Ok(Decision::Accept(accepted)),
        None if holds => Ok(Decision::Unchanged(accepted, last.job)),
        Some(version) if version == accepted && holds && !asked.force => {
            Ok(Decision::Unchanged(accepted, last.job))
        }
        Some(version) if version == accepted && !same && !asked.force => {
            Err(AcceptError::SameVersion { version })
        }
        Some(version) if version < accepted && !asked.force => Err(AcceptError::Older { version, accepted }),
        _ if next > BUNDLE_VERSION_MAX => Err(AcceptError::Range { version: next }),
        _ => Ok(Decision::Accept(next)),
    }
}

/// Checks an update as a whole, before anything of it is stored: `before` and `after` are the workloads, `changed` those
/// in both whose definition differs.
///
/// # Errors
/// A name that changes its type, or a change of what cannot be updated.
pub(crate) fn check_update(
    before: &[WorkloadId],
    after: &[WorkloadId],
    changed: &[WorkloadId],
    can_update: impl Fn(&str) -> bool,
) -> Result<(), AcceptError> {
    for gone in before.iter().filter(|id| !after.contains(id)) {
        // Unless both were there before: then the other one merely stays.
        let new = |id: &&WorkloadId| id.name() == gone.name() && !before.contains(id);
        if let Some(other) = after.iter().find(new) {
            return Err(AcceptError::TypeChanged { before: gone.clone(), after: other.clone() });
        }
    }
    match changed.iter().find(|id| !can_update(id.kind())) {
        Some(workload) => Err(AcceptError::CannotUpdate { workload: workload.clone() }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last(version: u64, content: &str) -> Last {
        Last {
            phase: BundlePhase::Active,
            version,
            digest: ContentDigest::of(content.as_bytes()),
            job: JobId::new(uuid::Uuid::from_u128(7)),
            void: false,
        }
    }

    fn asked(version: Option<u64>, content: &str) -> Asked {
        Asked { version, digest: ContentDigest::of(content.as_bytes()), force: false }
    }

    #[test]
    fn z_u1_a_version_is_taken_if_it_is_above_the_last_accepted() {
        let five = last(5, "a");
        for (version, expected) in [(6, 6), (9, 9), (BUNDLE_VERSION_MAX, BUNDLE_VERSION_MAX)] {
            assert_eq!(decide(Some(&five), asked(Some(version), "b")), Ok(Decision::Accept(expected)));
        }
        let error = decide(Some(&five), asked(Some(4), "b")).unwrap_err();
        assert_eq!(error, AcceptError::Older { version: 4, accepted: 5 });
        assert!(decide(Some(&five), asked(Some(4), "a")).is_err());
        let forced = Asked { force: true, ..asked(Some(4), "b") };
        assert_eq!(decide(Some(&five), forced), Ok(Decision::Accept(4)));
        for version in [0, BUNDLE_VERSION_MAX + 1] {
            assert_eq!(decide(None, asked(Some(version), "a")), Err(AcceptError::Range { version }));
        }
    }

    #[test]
    fn z_e1_without_a_version_it_is_the_next_and_only_if_it_differs() {
        let five = last(5, "a");
        assert_eq!(decide(None, asked(None, "a")), Ok(Decision::Accept(1)));
        assert_eq!(decide(Some(&five), asked(None, "b")), Ok(Decision::Accept(6)));
        assert_eq!(decide(Some(&five), asked(None, "a")), Ok(Decision::Unchanged(5, five.job)));
        let again = Asked { force: true, ..asked(None, "a") };
        assert_eq!(decide(Some(&five), again), Ok(Decision::Accept(5)));
        let void = Last { void: true, ..five.clone() };
        assert_eq!(decide(Some(&void), asked(None, "a")), Ok(Decision::Accept(6)));
        let deleting = Last { phase: BundlePhase::Deleting, ..five.clone() };
        assert_eq!(decide(Some(&deleting), asked(None, "a")), Ok(Decision::Accept(6)));
        let gone = Last { phase: BundlePhase::Deleted, ..five };
        assert_eq!(decide(Some(&gone), asked(None, "a")), Ok(Decision::Accept(6)));
        assert_eq!(decide(Some(&gone), asked(Some(1), "a")), Ok(Decision::Accept(1)));
    }

    #[test]
    fn z_u4_one_version_has_one_content() {
        let five = last(5, "a");
        assert_eq!(decide(Some(&five), asked(Some(5), "a")), Ok(Decision::Unchanged(5, five.job)));
        let error = decide(Some(&five), asked(Some(5), "b"));
        assert_eq!(error, Err(AcceptError::SameVersion { version: 5 }));
    }

    #[test]
    fn z_u3_an_update_is_checked_as_a_whole() {
        let ids = |ids: &[&str]| ids.iter().map(|id| id.parse().unwrap()).collect::<Vec<WorkloadId>>();
        let check = |before: &[&str], after: &[&str], changed: &[&str]| {
            check_update(&ids(before), &ids(after), &ids(changed), |kind| kind != "Directory")
        };
        assert_eq!(check(&["App/a", "File/b"], &["App/a", "App/c"], &["App/a"]), Ok(()));
        assert!(matches!(check(&["App/a"], &["File/a"], &[]), Err(AcceptError::TypeChanged { .. })));
        assert_eq!(check(&["App/a", "File/a"], &["File/a"], &[]), Ok(()));
        let error = check(&["Directory/d"], &["Directory/d"], &["Directory/d"]).unwrap_err().to_string();
        assert!(error.contains("a Directory cannot be updated"), "{error}");
    }
}
