//! Making, starting, stopping and removing containers.

use std::time::Duration;

use bollard::{
    Docker,
    models::ContainerCreateBody,
    query_parameters::{CreateContainerOptions, StartContainerOptions, StopContainerOptions},
};
use jiff::Timestamp;

use super::{
    engine::{QUICK, Refusal, removal},
    hooks::Phase,
    host::{DockerHost, Seen},
    labels::Label,
    request,
};
use crate::{
    failpoints::failpoint,
    manifest::ContainerSpec,
    runtime::{RuntimeError, UnitSpec, UnitStatus},
};

/// How long the engine may take beyond the grace period to kill what is left.
const SLACK: Duration = Duration::from_secs(30);

/// Between two looks whether a container that is being removed has gone.
const PAUSE: Duration = Duration::from_millis(50);

/// Names that are tried: another container may have one of eight random digits, but not several.
const NAMES: usize = 3;

impl DockerHost {
    /// Makes a container with its files, and starts it.
    ///
    /// # Errors
    /// Why it does not run. Nothing is left of it then, if the engine lets it be removed.
    pub(super) async fn create_and_start(&self, spec: &UnitSpec) -> Result<UnitStatus, RuntimeError> {
        let container = spec.manifest.spec.container.as_ref().ok_or_else(|| RuntimeError::NotStarted {
            reason: "its definition was read for another runtime".to_owned(),
        })?;
        self.provide_image(container).await?;
        // Before its time of creation is noted: whoever takes over may wait for half a minute.
        self.may_change().await?;
        self.make_mount_dirs(&spec.manifest.spec, container).await?;
        let id = self.create(spec, container).await.inspect_err(|error| {
            // It may have heard the question.
            if matches!(error, RuntimeError::Unknown { .. }) {
                self.learn(|known| known.doubts.insert(spec.manifest.id.clone()));
            }
        })?;
        let started = async {
            self.write_files(spec, &id).await?;
            failpoint!("unit.files-written");
            if spec.manifest.spec.hooks.is_empty() {
                self.start_container(&id).await?;
            } else {
                self.start_with_hooks(&id).await?;
            }
            let status = self.inspect(&id).await?;
            status.ok_or_else(|| RuntimeError::NotStarted {
                reason: "it was removed as soon as it had been made".to_owned(),
            })
        };
        match started.await {
            Ok(status) => Ok(status),
            Err(error) => {
                // The first error is the one worth telling; what cannot be removed is found by its labels.
                if let Err(second) = self.remove_container(&id).await {
                    tracing::warn!(container = id, error = %second, "a container that did not start cannot be removed");
                }
                Err(error)
            }
        }
    }

    async fn create(&self, spec: &UnitSpec, container: &ContainerSpec) -> Result<String, RuntimeError> {
        let mut last = None;
        for _ in 0..NAMES {
            let random = uuid::Uuid::new_v4().simple().to_string();
            let unit = format!("{}-{}", spec.manifest.name, random.get(..8).unwrap_or(&random));
            let home = self.home();
            let label = Label { home, ..Label::new(unit.clone(), spec, Timestamp::now()) };
            let body = request::container(&spec.manifest.spec, container, &label, &self.inner.instance);
            let name = Some(Phase::before_start(&label.hooks).name(&unit));
            let options = CreateContainerOptions { name, ..CreateContainerOptions::default() };
            match self.create_container(Some(options), body).await {
                Ok(id) => {
                    failpoint!("unit.created");
                    return Ok(id);
                }
                Err(Refusal::Said { status: 409, message }) => last = Some(message),
                Err(refusal) => return Err(refusal.of("cannot create a container")),
            }
        }
        let reason = last.unwrap_or_default();
        Err(RuntimeError::Engine { what: "cannot create a container".to_owned(), reason })
    }

    /// Has the engine make a container; its id.
    ///
    /// # Errors
    /// As [`DockerHost::change`].
    pub(super) async fn create_container(
        &self,
        options: Option<CreateContainerOptions>,
        body: ContainerCreateBody,
    ) -> Result<String, Refusal> {
        // In boxes: the body is large, and would be carried through all that a change is.
        let body = Box::new(body);
        let question = async |client: Docker| Box::pin(client.create_container(options, *body)).await;
        Ok(self.change(question).await?.id)
    }

    /// Starts a container that exists; one that runs stays as it is.
    pub(super) async fn start_container(&self, container: &str) -> Result<(), RuntimeError> {
        let question =
            async |client: Docker| client.start_container(container, None::<StartContainerOptions>).await;
        match self.change(question).await {
            Ok(()) | Err(Refusal::Said { status: 304, .. }) => {
                failpoint!("unit.started");
                Ok(())
            }
            Err(Refusal::Said { message: reason, .. } | Refusal::NotFound(reason)) => {
                Err(RuntimeError::NotStarted { reason })
            }
            Err(refusal) => Err(refusal.of("cannot start a container")),
        }
    }

    /// Stops a container, by its own signal and within its own time; what has ended or gone stays so, and takes no change.
    pub(super) async fn stop_container(&self, seen: &Seen) -> Result<(), RuntimeError> {
        // Once more, for somebody may have started it meanwhile.
        if seen.course.is_idle {
            let now = match self.fresh(&seen.container).await {
                Err(RuntimeError::NotFound { .. }) => return Ok(()),
                now => now?,
            };
            if now.course.is_idle {
                return Ok(());
            }
        }
        let question =
            async |client: Docker| client.stop_container(&seen.container, None::<StopContainerOptions>).await;
        match self.begin(seen.grace + SLACK, question).await {
            Ok(()) | Err(Refusal::NotFound(_) | Refusal::Said { status: 304, .. }) => {
                failpoint!("unit.stopped");
                Ok(())
            }
            Err(refusal) => Err(refusal.of("cannot stop a container")),
        }
    }

    /// Removes a container with its unnamed volumes, and waits until it has gone.
    pub(super) async fn remove_container(&self, container: &str) -> Result<(), RuntimeError> {
        let question = async |client: Docker| client.remove_container(container, Some(removal())).await;
        match self.change(question).await {
            // 409: somebody removes it already.
            Ok(()) | Err(Refusal::NotFound(_) | Refusal::Said { status: 409, .. }) => {}
            Err(refusal) => return Err(refusal.of("cannot remove a container")),
        }
        let gone = async {
            while self.inspect(container).await?.is_some() {
                tokio::time::sleep(PAUSE).await;
            }
            Ok(())
        };
        tokio::time::timeout(QUICK, gone).await.unwrap_or_else(|_| {
            Err(RuntimeError::NotStopped {
                unit: container.to_owned(),
                reason: "the engine does not come to an end with removing it".to_owned(),
            })
        })
    }
}
