//! What is left on this host of agents that nobody has any more.

use std::io::{self, BufRead as _, IsTerminal as _};
use std::path::{Path, PathBuf};

use serde::Serialize;
use towline_agent::config::FileConfig;
use towline_agent::doctor::{self, Kind, Leftover, Places, Report, Unseen};
use towline_agent::runtime::docker::DEFAULT_SOCKET;

use crate::args::{DoctorArgs, Global};
use crate::context;
use crate::dev::orphans;
use crate::failure::{Exit, Failure};
use crate::show::{Screen, doctor_text};

/// What is shown.
#[derive(Debug, Serialize)]
pub(crate) struct Findings {
    /// What nobody has any more.
    pub(crate) leftovers: Vec<Finding>,
    /// What may be somebody's, and is left alone.
    pub(crate) untold: Vec<String>,
    /// Hosts that were not looked at.
    pub(crate) unseen: Vec<Unseen>,
}

/// A leftover, and what became of it.
#[derive(Debug, Serialize)]
pub(crate) struct Finding {
    #[serde(flatten)]
    pub(crate) leftover: Leftover,
    /// Whether it was removed.
    pub(crate) removed: bool,
    /// Why it was not, if that was tried.
    pub(crate) error: Option<String>,
}

pub(super) async fn run(args: DoctorArgs, global: &Global) -> Result<(), Failure> {
    let screen = Screen::new(global);
    let places = places(&args)?;
    let mut findings = examine(&places).await?;
    if !args.names.is_empty() {
        findings.leftovers.retain(|finding| args.names.contains(&finding.leftover.name));
        findings.untold.clear();
        findings.unseen.clear();
    }
    if !args.fix || findings.leftovers.is_empty() {
        show(&screen, &findings)?;
        let (count, unseen) = (findings.leftovers.len(), findings.unseen.len());
        if args.config.is_none() && args.names.is_empty() {
            screen.note("the hosts of an agent's configuration are looked at with --config FILE");
        }
        return match count {
            0 if unseen == 0 => Ok(()),
            0 => Err(Failure::error(format!("{unseen} hosts were not looked at"))),
            _ => Err(Failure::error(format!("{count} leftovers were found"))
                .with_help("`towline doctor --fix` removes them")),
        };
    }
    if !args.yes {
        if !screen.is_json() {
            show(&screen, &findings)?;
        }
        ask(&screen, findings.leftovers.len())?;
    }
    for finding in &mut findings.leftovers {
        match remove(&places, &finding.leftover).await {
            Ok(()) => finding.removed = true,
            Err(error) => finding.error = Some(error),
        }
    }
    show(&screen, &findings)?;
    let failed: Vec<String> = findings
        .leftovers
        .iter()
        .filter_map(|finding| Some(format!("{}: {}", finding.leftover.name, finding.error.as_ref()?)))
        .collect();
    if failed.is_empty() {
        return Ok(());
    }
    Err(Failure::new(Exit::Cluster, "some leftovers could not be removed").with_details(failed))
}

fn places(args: &DoctorArgs) -> Result<Places, Failure> {
    let or =
        |given: &[PathBuf], default: Vec<PathBuf>| if given.is_empty() { default } else { given.to_vec() };
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let state = state.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".local/state")));
    let marks = state.map(|state| state.join("towline/marks"));
    let default_marks = [PathBuf::from("/var/lib/towline/marks")].into_iter().chain(marks).collect();
    let there = || Some(PathBuf::from(DEFAULT_SOCKET)).filter(|socket| socket.exists());
    let docker_hosts = match &args.config {
        None => Vec::new(),
        Some(file) => {
            let socket = args.docker_socket.as_deref().unwrap_or(Path::new(DEFAULT_SOCKET));
            let config = FileConfig::read(file, socket);
            config.map_err(|errors| Failure::new(Exit::Usage, errors.to_string()))?.hosts
        }
    };
    Ok(Places {
        data_dirs: or(&args.data_dir, vec![PathBuf::from("/var/lib/towline-agent")]),
        mark_dirs: or(&args.mark_dir, default_marks),
        docker_socket: args.docker_socket.clone().or_else(there),
        docker_hosts,
        program: format!("/proc/{}/exe", std::process::id()).into(),
    })
}

async fn examine(places: &Places) -> Result<Findings, Failure> {
    let looked = doctor::examine(places).await;
    let Report { mut leftovers, untold, unseen } =
        looked.map_err(|error| Failure::error(format!("cannot look at this host: {error}")))?;
    leftovers.extend(orphans::list(&context::places()).into_iter().map(|(path, instance)| Leftover {
        kind: Kind::Dev,
        name: path.display().to_string(),
        instance: Some(instance.to_string()),
        host: None,
        why: "the `towline dev` that wrote it was killed".to_owned(),
        parts: Vec::new(),
    }));
    let finding = |leftover| Finding { leftover, removed: false, error: None };
    Ok(Findings { leftovers: leftovers.into_iter().map(finding).collect(), untold, unseen })
}

/// Removes one; whether it had gone by itself meanwhile is all the same.
async fn remove(places: &Places, leftover: &Leftover) -> Result<(), String> {
    if leftover.kind == Kind::Dev {
        return orphans::clear_file(&context::places(), Path::new(&leftover.name)).await;
    }
    doctor::remove(places, leftover).await.map(drop)
}

fn show(screen: &Screen, findings: &Findings) -> Result<(), Failure> {
    screen.item(findings, |findings| doctor_text(findings, screen.style()))
}

/// Asks whoever sits there.
fn ask(screen: &Screen, count: usize) -> Result<(), Failure> {
    let unasked = || {
        Failure::new(Exit::Usage, "nobody is there to say whether they are to be removed")
            .with_help("add --yes to remove them without being asked")
    };
    if !io::stdin().is_terminal() {
        return Err(unasked());
    }
    screen.note(&format!("\nRemove {count} leftovers? [y/N]"));
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).map_err(|_| unasked())?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(Failure::error("nothing was removed")),
    }
}
