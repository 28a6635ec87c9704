//! What `ssh` says, for people. Pure.

use crate::runtime::docker::endpoint::SshConfig;

/// Whether it would be in vain to try again at once: somebody must change something.
pub(super) fn will_not_heal(said: &str) -> bool {
    [
        "Host key verification failed",
        "Permission denied",
        "Too many authentication failures",
        "Bad configuration",
    ]
    .iter()
    .any(|words| said.contains(words))
}

/// Whether it is about one way through the connection, and not about the connection.
pub(super) fn is_of_one_way(line: &str) -> bool {
    line.starts_with("channel ") && line.contains(": open failed: ")
}

/// What it means, and what to do; its last words where nobody knows better. None where it said nothing.
pub(super) fn explain(lines: &[String], config: &SshConfig) -> Option<String> {
    let last = lines.iter().rev().map(|line| line.trim()).find(|line| !line.is_empty())?;
    let said = |words: &str| lines.iter().any(|line| line.contains(words));
    let SshConfig { address, port, user, known_hosts, .. } = config;
    let known_hosts = known_hosts.display();
    let host = if *port == 22 { address.clone() } else { format!("[{address}]:{port}") };
    Some(if said("IDENTIFICATION HAS CHANGED") {
        format!(
            "{host} shows another key than the one in {known_hosts}: {last} Somebody may be in between; if the key was changed \
             on purpose, put the new one there"
        )
    } else if said("host key is known") {
        format!(
            "the key of {host} is not in {known_hosts}: {last} Compare it, and put it there as ssh-keyscan prints it"
        )
    } else if said("Permission denied") {
        format!("{host} does not let {user} in: {last}")
    } else {
        last.to_owned()
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::runtime::docker::RemoteEngine;

    fn explained(said: &str) -> Option<String> {
        let config = SshConfig {
            address: "edge".to_owned(),
            port: 2022,
            user: "ops".to_owned(),
            known_hosts: "/known".into(),
            key: None,
            agent: None,
            password_file: None,
            engine: RemoteEngine::default(),
            timeout: Duration::from_secs(1),
        };
        explain(&said.lines().map(str::to_owned).collect::<Vec<_>>(), &config)
    }

    #[test]
    fn f_s1_what_ssh_says_is_told_with_a_remedy() {
        let changed = explained(
            "@@@@@\n@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @\n@@@@@\nHost key verification failed.\n",
        );
        let changed = changed.unwrap();
        assert!(changed.contains("[edge]:2022 shows another key than the one in /known"), "{changed}");
        assert!(will_not_heal(&changed));
        let unknown = explained(
            "No ED25519 host key is known for [edge]:2022 and you have requested strict checking.\r\nHost key verification failed.\r\n",
        )
        .unwrap();
        assert!(unknown.contains("is not in /known") && will_not_heal(&unknown), "{unknown}");
        let denied = explained("ops@edge: Permission denied (publickey).\n\n").unwrap();
        assert!(denied.contains("does not let ops in") && will_not_heal(&denied), "{denied}");
        let refused = explained("ssh: connect to host edge port 2022: Connection refused\n").unwrap();
        assert_eq!(refused, "ssh: connect to host edge port 2022: Connection refused");
        assert!(!will_not_heal(&refused), "it may come up");
        assert_eq!(explained(""), None);
        assert!(is_of_one_way("channel 3: open failed: connect failed: Connection refused"));
        assert!(!is_of_one_way(&refused));
    }
}
