//! The files of units that stay: looked at, and brought to what is declared, under units that run on.
//!
//! ```text
//! look ─► nothing astray: nothing is touched
//!     └─► label what is new elsewhere ─► write ─► remove what is not declared any more ─► note what was written
//! ```
//! What is removed is what a label says was written for the unit, whatever it holds by now; nothing else ever is.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc};

use super::{
    ProcessRuntime, UnitSpec,
    error::RuntimeError,
    files::{self, Placed},
    launch::{WORK, blocking},
    unit::{Unit, UnitFiles},
    users::{self, Account},
};
use crate::{
    runtime::{Astray, How},
    shim::RunAs,
};

impl ProcessRuntime {
    /// Looks which files of units of `spec`'s generation are not as declared.
    ///
    /// # Errors
    /// Which could not be looked at.
    pub(crate) async fn look_at_files(&self, spec: &UnitSpec) -> Result<Vec<Astray>, RuntimeError> {
        let has_files = |unit: &Arc<Unit>| unit.files() != UnitFiles::default();
        if spec.manifest.spec.files.is_empty() && !self.of_generation(spec).iter().any(has_files) {
            return Ok(Vec::new());
        }
        let (runtime, spec) = (self.clone(), spec.clone());
        blocking(move || {
            let look = Look::new(&spec)?;
            let found: Result<Vec<_>, _> =
                runtime.of_generation(&spec).iter().map(|unit| look.at(unit)).collect();
            Ok(found?.into_iter().flatten().map(|(astray, _)| astray).collect())
        })
        .await
    }

    /// Brings the files of units of `spec`'s generation to what it declares; says what was not so.
    ///
    /// # Errors
    /// Which could not be written or removed, and which were before it.
    pub(crate) async fn restore_files(&self, spec: &UnitSpec) -> Result<Vec<Astray>, RuntimeError> {
        if self.look_at_files(spec).await?.is_empty() {
            return Ok(Vec::new());
        }
        let turn = self.mark().turn().await?;
        // As when a unit is made: nobody else declares the same file between look and label.
        let creating = Arc::clone(&self.inner.creating).lock_owned().await;
        let (runtime, spec) = (self.clone(), spec.clone());
        blocking(move || {
            let (_turn, _creating) = (turn, creating);
            let look = Look::new(&spec)?;
            let mut restored = Vec::new();
            for unit in runtime.of_generation(&spec) {
                restored.extend(runtime.restore(&look, &unit)?);
            }
            Ok(restored)
        })
        .await
    }

    fn of_generation(&self, spec: &UnitSpec) -> Vec<Arc<Unit>> {
        let units = self.units();
        let same = |unit: &&Arc<Unit>| unit.record.generation == spec.generation;
        units.of_app(&spec.manifest.id).filter(same).cloned().collect()
    }

    fn restore(&self, look: &Look<'_>, unit: &Unit) -> Result<Vec<Astray>, RuntimeError> {
        let found = look.at(unit)?;
        if found.is_empty() {
            return Ok(Vec::new());
        }
        let others = self.others_files(unit);
        let mut files = unit.files();
        let wrong = found.iter().filter_map(|(_, placed)| placed.as_ref());
        let is_new = |file: &&Placed<'_>| !file.is_within(&unit.dir) && !files.elsewhere.contains(&file.path);
        let new: Vec<&Placed<'_>> = wrong.filter(is_new).collect();
        files::check(new.iter().copied(), &unit.record.app, &unit.dir, &others)?;
        files.elsewhere.extend(new.iter().map(|file| file.path.clone()));
        note(unit, &files)?;
        let done = self.write_and_remove(look, unit, &found, &mut files);
        // Also of what failed in the middle: the label says exactly what was written.
        note(unit, &files)?;
        done?;
        Ok(found.into_iter().map(|(astray, _)| astray).collect())
    }

    fn write_and_remove(
        &self,
        look: &Look<'_>,
        unit: &Unit,
        found: &[(Astray, Option<Placed<'_>>)],
        files: &mut UnitFiles,
    ) -> Result<(), RuntimeError> {
        let mut written: Vec<String> = Vec::new();
        for file in found.iter().filter_map(|(_, placed)| placed.as_ref()) {
            file.write(&unit.dir, look.run_as()).map_err(|error| after(error, &written))?;
            files.written.insert(file.path.clone(), file.digest());
            written.push(file.path.display().to_string());
        }
        let others = self.others_files(unit);
        for path in found.iter().filter(|(_, placed)| placed.is_none()).map(|(astray, _)| &astray.path) {
            if !others.contains_key(path) {
                files::remove_one(path, &unit.dir).map_err(|error| after(error, &written))?;
            }
            files.elsewhere.retain(|elsewhere| elsewhere != path);
            files.written.remove(path);
        }
        Ok(())
    }
}

fn note(unit: &Unit, files: &UnitFiles) -> Result<(), RuntimeError> {
    unit.note_files(files.clone())
        .map_err(|error| RuntimeError::io(format!("cannot note the files of {}", unit.id()), error))
}

/// The error, with what was done before it.
fn after(error: RuntimeError, written: &[String]) -> RuntimeError {
    match error {
        RuntimeError::Io { what, source } if !written.is_empty() => {
            RuntimeError::Io { what: format!("{what} (written before: {})", written.join(", ")), source }
        }
        other => other,
    }
}

/// The error, with the unit that it is about.
fn of_unit(error: RuntimeError, unit: &Unit) -> RuntimeError {
    match error {
        RuntimeError::Io { what, source } => {
            RuntimeError::Io { what: format!("{what} of {}", unit.id()), source }
        }
        other => other,
    }
}

/// What is looked for.
struct Look<'a> {
    spec: &'a UnitSpec,
    account: Option<Account>,
}

impl<'a> Look<'a> {
    fn new(spec: &'a UnitSpec) -> Result<Self, RuntimeError> {
        let account = spec.manifest.spec.user.as_deref().map(users::account).transpose()?;
        Ok(Self { spec, account })
    }

    fn run_as(&self) -> Option<&RunAs> {
        self.account.as_ref().map(|account| &account.run_as)
    }

    /// What is astray of `unit`, and as what it is to be written; as none, if it is to go.
    fn at(&self, unit: &Unit) -> Result<Vec<(Astray, Option<Placed<'a>>)>, RuntimeError> {
        let app = &self.spec.manifest.spec;
        let working_dir = app.working_dir.clone().unwrap_or_else(|| unit.dir.join(WORK));
        let placed = files::place(&app.files, &working_dir);
        let declared: BTreeSet<PathBuf> = placed.iter().map(|file| file.path.clone()).collect();
        let astray = |path: PathBuf, how| Astray { unit: unit.id().to_owned(), path, how };
        let mut found = Vec::new();
        for file in placed {
            let looked = file.look(&unit.dir, self.run_as()).map_err(|error| of_unit(error, unit))?;
            if let Some(how) = looked {
                found.push((astray(file.path.clone(), how), Some(file)));
            }
        }
        let UnitFiles { elsewhere, written } = unit.files();
        let known: BTreeSet<PathBuf> = elsewhere.into_iter().chain(written.into_keys()).collect();
        found.extend(known.difference(&declared).map(|path| (astray(path.clone(), How::Undeclared), None)));
        Ok(found)
    }
}
