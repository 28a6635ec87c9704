//! Seeing to it that an engine has an image.

use bollard::{Docker, auth::DockerCredentials, errors::Error, query_parameters::CreateImageOptions};
use futures::TryStreamExt as _;

use super::{
    engine::{PULL, QUICK, Refusal},
    host::DockerHost,
    registry::{RegistryAuth, registry_of_image},
};
use crate::{
    manifest::{ContainerSpec, PullPolicy},
    runtime::{RuntimeError, process::blocking},
};

/// Words by which engines tell that a registry wants to know who asks.
const UNKNOWN_CALLER: [&str; 5] =
    ["unauthorized", "no basic auth credentials", "authentication required", "denied", "incorrect username"];

impl DockerHost {
    /// Sees to it that the engine has the image: at hand, or fetched now, as its policy says.
    ///
    /// # Errors
    /// That it is not at hand and may not be fetched, or why it cannot be.
    pub(super) async fn provide_image(&self, container: &ContainerSpec) -> Result<(), RuntimeError> {
        let image = container.image.as_str();
        if container.pull_policy != PullPolicy::Always {
            match self.inner.engine.ask(QUICK, async |client| client.inspect_image(image).await).await {
                Ok(_) => return Ok(()),
                Err(Refusal::NotFound(_)) if container.pull_policy == PullPolicy::IfNotPresent => {}
                Err(refusal) => return Err(refusal.of(format!("image {image}"))),
            }
        }
        self.pull(image).await
    }

    async fn pull(&self, image: &str) -> Result<(), RuntimeError> {
        let credentials = self.credentials(image).await?;
        let is_known = credentials.is_some();
        let options =
            CreateImageOptions { from_image: Some(image.to_owned()), ..CreateImageOptions::default() };
        let pull = async |client: Docker| {
            let mut progress = client.create_image(Some(options), None, credentials);
            while let Some(step) = progress.try_next().await? {
                if let Some(error) = step.error_detail.and_then(|detail| detail.message) {
                    return Err(Error::DockerStreamError { error });
                }
            }
            Ok(())
        };
        let pulled = self.inner.engine.ask(PULL, pull).await;
        pulled.map_err(|refusal| explained(refusal, image, is_known).of(format!("cannot pull image {image}")))
    }

    /// What is sent to the registry of `image`. The file is read each time: a login may be renewed while we run.
    async fn credentials(&self, image: &str) -> Result<Option<DockerCredentials>, RuntimeError> {
        let Some(file) = self.inner.registry_auth.clone() else { return Ok(None) };
        let failed = {
            let what = format!("cannot pull image {image}");
            move |reason: String| RuntimeError::Engine { what, reason }
        };
        let image = image.to_owned();
        blocking(move || {
            let found = RegistryAuth::read(&file).map_err(|error| error.to_string());
            found.and_then(|auth| auth.of_image(&image)).map_err(failed)
        })
        .await
    }
}

/// With what to do about it, if the registry does not know who asks.
fn explained(refusal: Refusal, image: &str, is_known: bool) -> Refusal {
    let registry = registry_of_image(image);
    let remedy = if is_known {
        format!("{registry} refuses the credentials in the file of --registry-auth: correct them there")
    } else {
        format!("there are no credentials for {registry} in a file of --registry-auth")
    };
    let is_unknown_caller = |said: &str| {
        let said = said.to_lowercase();
        UNKNOWN_CALLER.iter().any(|word| said.contains(word))
    };
    match refusal {
        Refusal::Said { status, message } if is_unknown_caller(&message) => {
            Refusal::Said { status, message: format!("{message}; {remedy}") }
        }
        // Registries that hide what there is from whom they do not know.
        Refusal::NotFound(message) if is_unknown_caller(&message) => {
            Refusal::NotFound(format!("{message}; {remedy}"))
        }
        refusal => refusal,
    }
}
