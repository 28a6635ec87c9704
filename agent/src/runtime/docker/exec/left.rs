//! Commands of an earlier agent that no guard has ended: their image has no shell, or the agent died while it began them.

use tokio_util::sync::CancellationToken;

use super::{MARK, OWN, guard, guard::Entries, kill_from_here};
use crate::{
    proc::{self, Process},
    runtime::{RuntimeError, docker::host::DockerHost},
};

/// Ends them as soon as the agent acts and knows the containers of the host; then there is nothing more to do.
pub(in crate::runtime::docker) async fn run(host: DockerHost, stopping: CancellationToken) {
    let mut changed = host.inner.changed.subscribe();
    loop {
        changed.mark_unchanged();
        if host.inner.agents.acted() && host.known().looked {
            match stopping.run_until_cancelled(host.end_left_commands()).await {
                None | Some(Ok(())) => return,
                Some(Err(error)) => {
                    tracing::debug!(%host, %error, "commands of an earlier agent are not ended yet")
                }
            }
        }
        // A look, which comes every few seconds, is a change, too.
        tokio::select! {
            () = stopping.cancelled() => return,
            told = changed.changed() => if told.is_err() {
                return;
            },
        }
    }
}

impl DockerHost {
    /// Kills what bears the mark of a command of the instance that this runtime did not begin.
    ///
    /// # Errors
    /// That the agent does not act, or that the engine does not answer.
    async fn end_left_commands(&self) -> Result<(), RuntimeError> {
        let containers: Vec<String> = {
            let known = self.known();
            let busy = known.units.values().filter(|seen| seen.has_commands);
            busy.map(|seen| seen.container.clone()).collect()
        };
        if containers.is_empty() {
            return Ok(());
        }
        self.may_change().await?;
        let (marked, spared) = (format!("{MARK}="), format!("{OWN}={}.", self.inner.run));
        for container in containers {
            // Without a shell nothing is found so, and the rest is found below.
            let (marked, spared) = (Entries::Beginning(&marked), Entries::Beginning(&spared));
            if let Err(why) = guard::kill(self, &container, marked, Some(spared)).await {
                tracing::debug!(container, ?why, "no shell ends commands of an earlier agent");
            }
        }
        let instance = self.instance_mark();
        kill_from_here(move || strangers(&instance, &marked, &spared)).await;
        Ok(())
    }
}

/// Processes of this host that belong to commands of the instance, but not to those of this runtime.
fn strangers(instance: &str, marked: &str, spared: &str) -> Vec<Process> {
    let is_meant = |environment: &[&[u8]]| {
        let bears = |mark: &str| environment.iter().any(|entry| entry.starts_with(mark.as_bytes()));
        environment.contains(&instance.as_bytes()) && bears(marked) && !bears(spared)
    };
    proc::bearing(is_meant)
}
