//! How `ssh` is started. Pure.
//!
//! Nothing of it comes from the user's own configuration (`-F none`), nothing is asked of anybody, and no secret stands on the
//! command line.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use crate::{
    runtime::docker::endpoint::{RemoteEngine, SshConfig},
    tether::PASSWORD_FILE,
};

/// Seconds between two signs of life that are asked of the host; the third that is missed ends the connection.
const ALIVE_SECONDS: u32 = 5;

/// The words after `ssh`: it listens at `ports`, to speak SOCKS there, and then at `socket`, to forward it to the engine.
pub(super) fn arguments(config: &SshConfig, socket: &Path, ports: &Path) -> Vec<OsString> {
    let SshConfig { address, port, user, known_hosts, key, agent, password_file, engine, timeout } = config;
    let engine = match engine {
        RemoteEngine::Socket(path) => path.display().to_string(),
        RemoteEngine::Tcp(address) => address.clone(),
    };
    let has_password = password_file.is_some();
    let file = |named: &Option<PathBuf>| {
        named.as_ref().map_or_else(|| "none".to_owned(), |path| path.display().to_string())
    };
    let mut options = vec![
        "StrictHostKeyChecking=yes".to_owned(),
        format!("UserKnownHostsFile={}", known_hosts.display()),
        "GlobalKnownHostsFile=/dev/null".to_owned(),
        "UpdateHostKeys=no".to_owned(),
        "ExitOnForwardFailure=yes".to_owned(),
        "StreamLocalBindMask=0177".to_owned(),
        format!("ServerAliveInterval={ALIVE_SECONDS}"),
        "ServerAliveCountMax=3".to_owned(),
        format!("ConnectTimeout={}", timeout.as_secs().max(1)),
        "ControlPath=none".to_owned(),
        format!("BatchMode={}", if has_password { "no" } else { "yes" }),
        "NumberOfPasswordPrompts=1".to_owned(),
        // Else `ssh` would look for keys of its own.
        "IdentitiesOnly=".to_owned() + if agent.is_some() && key.is_none() { "no" } else { "yes" },
        format!("IdentityAgent={}", file(agent)),
        format!("IdentityFile={}", file(key)),
        format!("PubkeyAuthentication={}", if key.is_some() || agent.is_some() { "yes" } else { "no" }),
    ];
    let ways = if has_password { "publickey,password,keyboard-interactive" } else { "publickey" };
    options.push(format!("PreferredAuthentications={ways}"));
    let mut words: Vec<OsString> = ["-F", "none", "-N", "-T"].map(OsString::from).into();
    for option in options {
        words.extend(["-o".into(), option.into()]);
    }
    words.extend(["-p".into(), port.to_string().into(), "-l".into(), user.into()]);
    words.extend(["-D".into(), ports.into()]);
    words.extend(["-L".into(), format!("{}:{engine}", socket.display()).into()]);
    words.extend(["--".into(), address.into()]);
    words
}

/// Its environment; `program` answers when it asks for the password.
pub(super) fn environment(config: &SshConfig, program: &Path) -> Vec<(&'static str, PathBuf)> {
    // So that what it says is known.
    let mut environment = vec![("LC_ALL", PathBuf::from("C"))];
    if let Some(file) = &config.password_file {
        environment.push(("SSH_ASKPASS", program.to_owned()));
        environment.push(("SSH_ASKPASS_REQUIRE", PathBuf::from("force")));
        environment.push((PASSWORD_FILE, file.clone()));
    }
    environment
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn config() -> SshConfig {
        SshConfig {
            address: "edge-2".to_owned(),
            port: 2022,
            user: "ops".to_owned(),
            known_hosts: "/etc/towline/known_hosts".into(),
            key: Some("/etc/towline/key".into()),
            agent: None,
            password_file: None,
            engine: RemoteEngine::Tcp("127.0.0.1:2375".to_owned()),
            timeout: Duration::from_secs(7),
        }
    }

    fn line(config: &SshConfig) -> String {
        let words = arguments(config, Path::new("/tmp/s"), Path::new("/tmp/p"));
        words.iter().map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn f_s1_the_host_is_checked_and_nothing_is_asked_of_anybody() {
        let line = line(&config());
        for part in [
            "-F none -N -T ",
            "StrictHostKeyChecking=yes",
            "UserKnownHostsFile=/etc/towline/known_hosts",
            "GlobalKnownHostsFile=/dev/null",
            "BatchMode=yes",
            "ConnectTimeout=7",
            "IdentityFile=/etc/towline/key",
            "IdentityAgent=none",
            "PreferredAuthentications=publickey",
            "-p 2022 -l ops -D /tmp/p -L /tmp/s:127.0.0.1:2375 -- edge-2",
        ] {
            assert!(line.contains(part), "{part} is not in {line}");
        }
        assert_eq!(environment(&config(), Path::new("/agent")), [("LC_ALL", PathBuf::from("C"))]);
    }

    #[test]
    fn f_s1_a_password_is_in_neither_words_nor_environment() {
        let config = SshConfig { key: None, password_file: Some("/etc/towline/pw".into()), ..config() };
        let line = line(&config);
        assert!(line.contains("BatchMode=no") && line.contains("PubkeyAuthentication=no"), "{line}");
        assert!(line.contains("PreferredAuthentications=publickey,password,keyboard-interactive"), "{line}");
        assert!(!line.contains("/etc/towline/pw"), "{line}");
        let environment = environment(&config, Path::new("/agent"));
        assert!(environment.contains(&("SSH_ASKPASS", "/agent".into())));
        assert!(environment.contains(&("SSH_ASKPASS_REQUIRE", "force".into())));
        assert!(environment.contains(&(PASSWORD_FILE, "/etc/towline/pw".into())));
    }

    #[test]
    fn f_s1_an_agent_offers_all_its_keys_unless_one_is_named() {
        let agent = SshConfig { key: None, agent: Some("/run/agent".into()), ..config() };
        let offered = line(&agent);
        assert!(
            offered.contains("IdentityAgent=/run/agent") && offered.contains("IdentitiesOnly=no"),
            "{offered}"
        );
        let both = line(&SshConfig { key: Some("/key".into()), ..agent });
        assert!(both.contains("IdentityAgent=/run/agent") && both.contains("IdentitiesOnly=yes"), "{both}");
    }
}
