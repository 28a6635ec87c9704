//! The stream of operations on an agent that will be killed.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    path::Path,
    sync::Arc,
};

use prometheus::Registry;
use towline_agent::{Agent, AgentConfig};
use towline_bus::{CallContext, Platform};
use towline_protocol::bundle::{
    DeleteBundleRequest, PauseBundleRequest, PutBundleRequest, ResumeBundleRequest,
};

/// A small generator of numbers that look random: xorshift.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

pub(crate) async fn open(dir: &Path) -> Agent {
    fs::create_dir_all(dir.join("host")).unwrap();
    let name = dir.file_name().unwrap().to_string_lossy().to_lowercase().replace('.', "t");
    let mut config = AgentConfig::new(name.parse().unwrap(), dir.join("data"));
    config.shim = vec![env!("CARGO_BIN_EXE_towline-agent").into(), "shim".into()];
    Agent::open(config, Registry::new()).await.unwrap()
}

/// The content of a bundle: apps, files and directories, some of them.
pub(crate) fn content(dir: &Path, bundle: &str, random: &mut Random) -> String {
    let mut text = String::new();
    let host = dir.join("host");
    let host = host.display();
    for number in 0..2 {
        let name = format!("{bundle}-{number}");
        if random.below(3) > 0 {
            text.push_str(&format!(
                "---\napiVersion: towline/v1\nkind: Directory\nmetadata: {{name: {name}}}\nspec: {{path: {host}/{name}.d}}\n"
            ));
        }
        if random.below(3) > 0 {
            let content = random.below(3);
            text.push_str(&format!(
                "---\napiVersion: towline/v1\nkind: File\nmetadata: {{name: {name}}}\nspec: {{path: {host}/{name}.f, content: \"{content}\"}}\n"
            ));
        }
        if random.below(3) > 0 {
            let (units, seconds) = (1 + random.below(2), 1_000 + random.below(2));
            text.push_str(&format!(
                "---\napiVersion: towline/v1\nkind: App\nmetadata: {{name: {name}}}\nspec:\n  command: [sleep, \"{seconds}\"]\n  units: {units}\n  stop: {{gracePeriod: 1s}}\n"
            ));
        }
    }
    text
}

/// Puts, pauses, resumes and deletes until it is killed. What was answered is written down.
pub(crate) async fn drive(dir: &Path, seed: u64) {
    let agent = open(dir).await;
    let platform: Arc<dyn Platform> = agent.platform();
    let mut random = Random::new(seed + 1);
    let mut answers = OpenOptions::new().append(true).create(true).open(dir.join("answers")).unwrap();
    loop {
        let name = if random.below(2) == 0 { "a" } else { "b" };
        let bundle = name.parse().unwrap();
        let cx = CallContext::new();
        let job = match random.below(8) {
            0 => {
                let request = DeleteBundleRequest { bundle, reason: None, dry_run: false, force: false };
                platform.delete_bundle(&cx, &request).await.ok().and_then(|answer| answer.job)
            }
            1 => {
                let request = PauseBundleRequest { bundle, reason: None };
                platform.pause_bundle(&cx, &request).await.ok().map(|answer| answer.job)
            }
            2 => {
                let request = ResumeBundleRequest { bundle, reason: None };
                platform.resume_bundle(&cx, &request).await.ok().map(|answer| answer.job)
            }
            _ => {
                let request = PutBundleRequest {
                    bundle,
                    version: None,
                    content: content(dir, name, &mut random).into(),
                    dry_run: false,
                    force: false,
                    adopt: false,
                    envelope: None,
                };
                platform.put_bundle(&cx, &request).await.ok().and_then(|answer| answer.job)
            }
        };
        if let Some(job) = job {
            writeln!(answers, "{job}").unwrap();
        }
        tokio::time::sleep(std::time::Duration::from_millis(random.below(120))).await;
    }
}
