//! The process runtime behind the trait that all runtimes share.

use std::{path::Path, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use towline_bus::clock::Moment;

use super::{ProcessRuntime, RuntimeError, UnitSpec, UnitStatus, Watcher};
use crate::{
    manifest::{AppSpec, HostChoice, Resources},
    mark::Mark,
    runtime::{Astray, Exec, ExecSpec, FileAccess, FileStat, LogLines, LogQuery, Runtime, RuntimeKind},
};

#[async_trait]
impl Runtime for ProcessRuntime {
    fn kind(&self) -> RuntimeKind {
        RuntimeKind::Process
    }

    fn mark(&self) -> &Mark {
        Self::mark(self)
    }

    fn changes(&self) -> Watcher {
        Self::changes(self)
    }

    fn limits(&self, resources: &Resources) -> Result<Option<String>, Vec<(String, String)>> {
        let limits = Self::limits(self);
        let refused = limits.complaints(resources);
        if refused.is_empty() {
            return Ok(limits.told(resources));
        }
        Err(refused.into_iter().map(|complaint| (complaint.path, complaint.text)).collect())
    }

    fn admits(&self, _spec: &AppSpec) -> Result<(), Vec<(String, String)>> {
        // There is this host alone, and a field that names another was refused when it was read.
        Ok(())
    }

    async fn start(&self, spec: &UnitSpec) -> Result<UnitStatus, RuntimeError> {
        Self::start(self, spec).await
    }

    async fn start_again(&self, unit: &str) -> Result<UnitStatus, RuntimeError> {
        Self::start_again(self, unit).await
    }

    async fn stop(&self, unit: &str) -> Result<(), RuntimeError> {
        Self::stop(self, unit).await
    }

    async fn delete(&self, unit: &str) -> Result<(), RuntimeError> {
        Self::delete(self, unit).await
    }

    fn list(&self) -> Vec<UnitStatus> {
        Self::list(self)
    }

    fn units_of(&self, app: &str) -> Vec<UnitStatus> {
        Self::units_of(self, app)
    }

    async fn observe_since(
        &self,
        app: &str,
        _choice: Option<&HostChoice>,
        _since: Moment,
    ) -> Result<Vec<UnitStatus>, RuntimeError> {
        // Shims tell each change at once, so what is known is what is.
        Ok(Self::units_of(self, app))
    }

    async fn look_around(&self) {}

    fn trouble(&self, _app: &str, _choice: Option<&HostChoice>) -> Option<String> {
        None
    }

    async fn look_at_files(&self, spec: &UnitSpec) -> Result<Vec<Astray>, RuntimeError> {
        Self::look_at_files(self, spec).await
    }

    async fn restore_files(&self, spec: &UnitSpec) -> Result<Vec<Astray>, RuntimeError> {
        Self::restore_files(self, spec).await
    }

    async fn falls_within(&self, unit: &str, patience: Duration) -> bool {
        Self::falls_within(self, unit, patience).await
    }

    fn logs(&self, query: LogQuery) -> LogLines {
        Self::logs(self, query)
    }

    async fn exec(&self, unit: &str, spec: ExecSpec) -> Result<Exec, RuntimeError> {
        Self::exec(self, unit, spec).await
    }

    async fn read(&self, unit: &str, path: &Path) -> Result<Bytes, RuntimeError> {
        Self::read(self, unit, path).await
    }

    async fn copy(
        &self,
        unit: &str,
        path: &Path,
        content: Bytes,
        access: &FileAccess,
    ) -> Result<(), RuntimeError> {
        Self::copy(self, unit, path, content, access).await
    }

    async fn stat(&self, unit: &str, path: &Path) -> Result<FileStat, RuntimeError> {
        Self::stat(self, unit, path).await
    }

    async fn stop_all(&self) -> Result<(), RuntimeError> {
        Self::stop_all(self).await
    }

    async fn delete_all(&self) -> Result<(), RuntimeError> {
        Self::delete_all(self).await
    }

    async fn close(&self) {
        Self::close(self).await;
    }
}
