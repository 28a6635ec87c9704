//! Looking from outside whether containers work: one task for all of a host. The engine itself can only run commands in them.

use std::{collections::BTreeMap, net::SocketAddr, path::Path, time::Duration};

use bollard::models::{ContainerInspectResponse, ContainerStateStatusEnum};
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use jiff::Timestamp;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{
    host::{DockerHost, Seen},
    labels::Port,
};
use crate::{
    health::{Get, Judge, Peer, Verdict, get, knock},
    manifest::{HealthSpec, ProbeSpec},
    runtime::PortBinding,
};

/// Looks at the same time; others wait for one to end.
const AT_ONCE: usize = 32;

/// Between two thoughts, if there is nothing to look at.
const IDLE: Duration = Duration::from_secs(60);

/// How it is found out whether a container works, and what was found.
#[derive(Debug, Clone)]
pub(super) struct Check {
    health: HealthSpec,
    /// Where it listens, as seen from where its engine is, and who is there; none where there is no way.
    target: Option<(SocketAddr, Peer)>,
    /// The port that it declares, for people.
    port: u16,
    /// Since when it runs: of another run another verdict holds.
    run: Option<String>,
    verdict: Verdict,
}

impl Check {
    /// Of a container as it was found, with the ports that it declares, and those of them that the host has.
    pub(super) fn new(
        health: HealthSpec,
        found: &ContainerInspectResponse,
        declared: &[Port],
        published: &[PortBinding],
    ) -> Self {
        let name = match &health.probe {
            ProbeSpec::Tcp { port } | ProbeSpec::Http { port, .. } => port.as_str(),
            ProbeSpec::Exec { .. } => "",
        };
        let port = declared.iter().find(|port| port.name == name).map_or(0, |port| port.port);
        let of_host = published.iter().find(|port| port.name == name);
        let target = match of_host {
            Some(binding) => Some((binding.reachable(), Peer::Proxy)),
            None => address(found).map(|address| (SocketAddr::new(address, port), Peer::Unit)),
        };
        let state = found.state.as_ref();
        let running = state.filter(|state| state.status == Some(ContainerStateStatusEnum::RUNNING));
        let run = running.and_then(|state| state.started_at.clone());
        Self { health, target, port, run, verdict: Verdict::Starting(None) }
    }

    /// It runs on another machine, to whose ports a SOCKS proxy at `socket` leads.
    pub(super) fn is_behind(&mut self, socket: &Path) {
        self.target = self.target.take().map(|(address, _)| (address, Peer::Far(socket.to_owned())));
    }

    /// It runs on another machine, whose own addresses lead nowhere from here.
    pub(super) fn is_elsewhere(&mut self) {
        let reached =
            |(address, peer): &(SocketAddr, Peer)| *peer == Peer::Proxy && !address.ip().is_loopback();
        self.target = self.target.take().filter(reached);
    }

    async fn look(self) -> Result<(), String> {
        let Some((address, peer)) = &self.target else {
            return Err(format!(
                "port {} is published on no address that is reached from the agent",
                self.port
            ));
        };
        let (port, limit) = (self.port, self.health.timeout.get());
        match &self.health.probe {
            ProbeSpec::Tcp { .. } => {
                knock(*address, peer, limit).await.map_err(|why| format!("tcp :{port} {why}"))
            }
            ProbeSpec::Http { path, status, .. } => {
                let asked = get(*address, peer, Get { path, status: *status }, limit).await;
                asked.map_err(|why| format!("GET :{port}{path} {why}"))
            }
            ProbeSpec::Exec { .. } => Ok(()),
        }
    }
}

/// The address of a container that publishes nothing.
fn address(found: &ContainerInspectResponse) -> Option<std::net::IpAddr> {
    let mode = found.host_config.as_ref().and_then(|host| host.network_mode.as_deref());
    if mode == Some("host") {
        return Some(std::net::Ipv4Addr::LOCALHOST.into());
    }
    let networks = found.network_settings.as_ref()?.networks.as_ref()?;
    networks.values().find_map(|network| network.ip_address.as_ref()?.parse().ok())
}

impl Seen {
    /// What was found out of the same run still holds.
    pub(super) fn keep_verdict(&mut self, before: Option<&Self>) {
        if let Some(check) = &mut self.check
            && let Some(before) = before.and_then(|before| before.check.as_ref())
            && before.run == check.run
        {
            check.verdict = before.verdict.clone();
        }
        self.judge();
    }

    /// Shows what was found out, while it runs.
    fn judge(&mut self) {
        if let Some(check) = &self.check
            && check.run.is_some()
        {
            let (status, reason, health) = check.verdict.told();
            let state = &mut self.status.state;
            (state.status, state.reason, state.health) = (status, reason, Some(health));
        }
    }
}

/// The looks at one run of a container.
struct Watched {
    judge: Judge,
    begun: Instant,
    under_way: bool,
}

/// A container, and since when it runs.
type Run = (String, String);

/// Looks when looks are due, until the agent ends.
pub(super) async fn run(host: DockerHost, stopping: CancellationToken) {
    let mut changed = host.inner.changed.subscribe();
    let mut watched: BTreeMap<Run, Watched> = BTreeMap::new();
    let mut looks: FuturesUnordered<BoxFuture<'static, (Run, Result<(), String>)>> = FuturesUnordered::new();
    loop {
        changed.mark_unchanged();
        let checks = host.checks();
        watched.retain(|run, _| checks.contains_key(run));
        let now = Instant::now();
        let mut next = now + IDLE;
        for (run, check) in checks {
            let watched = watched.entry(run.clone()).or_insert_with(|| begin(&check, now));
            let due = watched.begun + watched.judge.due();
            // Of a host that is not reached nothing is found out; that it is again, is a change.
            if watched.under_way || looks.len() >= AT_ONCE || !host.inner.engine.is_reached() {
                continue;
            }
            if due > now {
                next = next.min(due);
                continue;
            }
            watched.under_way = true;
            looks.push(async move { (run, check.look().await) }.boxed());
        }
        tokio::select! {
            () = stopping.cancelled() => return,
            told = changed.changed() => if told.is_err() {
                return;
            },
            () = sleep_until(next) => {}
            Some((run, looked)) = looks.next() => {
                if let Some(watched) = watched.get_mut(&run) {
                    watched.under_way = false;
                    if watched.judge.note(looked, watched.begun.elapsed()) {
                        host.learn_verdict(&run, watched.judge.verdict());
                    }
                }
            }
        }
    }
}

fn begin(check: &Check, now: Instant) -> Watched {
    let started = check.run.as_ref().and_then(|run| run.parse::<Timestamp>().ok());
    // By the engine's clock and ours: they may differ.
    let age = started.and_then(|started| Duration::try_from(Timestamp::now().duration_since(started)).ok());
    let begun = age.and_then(|age| now.checked_sub(age)).unwrap_or(now);
    Watched { judge: Judge::found((&check.health).into()), begun, under_way: false }
}

impl DockerHost {
    /// What is to be looked at now.
    fn checks(&self) -> BTreeMap<Run, Check> {
        let known = self.known();
        let checks = known.units.values().filter_map(|seen| {
            let check = seen.check.clone()?;
            Some(((seen.container.clone(), check.run.clone()?), check))
        });
        checks.collect()
    }

    fn learn_verdict(&self, (container, run): &Run, verdict: &Verdict) {
        let app = self.learn(|known| {
            let seen = known.units.values_mut().find(|seen| seen.container == *container)?;
            let check = seen.check.as_mut().filter(|check| check.run.as_ref() == Some(run))?;
            check.verdict = verdict.clone();
            seen.judge();
            Some(seen.status.app.clone())
        });
        if let Some(app) = app {
            self.inner.changes.tell(&app);
        }
    }
}
