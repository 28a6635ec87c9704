use std::{
    collections::BTreeMap, os::unix::fs::PermissionsExt as _, os::unix::net::UnixListener, time::Duration,
};

use super::*;
use crate::runtime::docker::{Endpoint, RemoteEngine, SshConfig, TlsFiles};

fn read(docker: &str) -> Result<FileConfig, Vec<String>> {
    let text = format!("docker:\n{docker}");
    let read = FileConfig::parse(text.as_bytes(), Path::new("/local.sock"));
    read.map_err(|complaints| {
        complaints.into_iter().map(|complaint| format!("{}: {}", complaint.path, complaint.text)).collect()
    })
}

fn endpoint(docker: &str) -> Endpoint {
    read(docker).unwrap_or_else(|said| panic!("{docker}{said:?}")).hosts.remove(0).endpoint
}

fn socket(path: &str) -> Endpoint {
    Endpoint::Socket(path.into())
}

fn ssh(address: &str) -> SshConfig {
    SshConfig {
        address: address.to_owned(),
        port: 22,
        user: "root".to_owned(),
        known_hosts: "/known".into(),
        key: Some("/key".into()),
        agent: None,
        password_file: None,
        engine: RemoteEngine::Socket("/var/run/docker.sock".into()),
        timeout: Duration::from_secs(30),
    }
}

#[test]
fn f_v2_a_host_is_reached_as_it_says_else_as_the_defaults_say_else_directly() {
    let ssh_default = "  defaults: {ssh: {knownHosts: /known, key: /key}}\n";
    let tcp_default = "  defaults: {tcp: {tls: {ca: /ca, cert: /cert, key: /key}}}\n";
    let tls = || Some(TlsFiles { ca: "/ca".into(), cert: "/cert".into(), key: "/key".into() });
    let tcp = |address: &str, tls| Endpoint::Tcp { address: address.to_owned(), tls };
    for (defaults, host, expected) in [
        ("", "{}", socket("/local.sock")),
        ("", "{socket: /own.sock}", socket("/own.sock")),
        ("  defaults: {socket: /all.sock}\n", "{}", socket("/all.sock")),
        ("  defaults: {socket: /all.sock}\n", "{socket: /own.sock}", socket("/own.sock")),
        (ssh_default, "{socket: /own.sock}", socket("/own.sock")),
        (ssh_default, "{}", Endpoint::Ssh(ssh("edge"))),
        (ssh_default, "null", Endpoint::Ssh(ssh("edge"))),
        (ssh_default, "{ssh: {address: 10.0.0.7}}", Endpoint::Ssh(ssh("10.0.0.7"))),
        (
            ssh_default,
            "{ssh: {port: 2022, user: ops, engine: \"tcp://127.0.0.1:2375\", timeout: 5s}}",
            Endpoint::Ssh(SshConfig {
                port: 2022,
                user: "ops".to_owned(),
                engine: RemoteEngine::Tcp("127.0.0.1:2375".to_owned()),
                timeout: Duration::from_secs(5),
                ..ssh("edge")
            }),
        ),
        (ssh_default, "{tcp: {address: 127.0.0.1}}", tcp("127.0.0.1:2375", None)),
        (tcp_default, "{}", tcp("edge:2376", tls())),
        (tcp_default, "{tcp: {address: \"fd00::1\", port: 4243}}", tcp("[fd00::1]:4243", tls())),
        (
            "  defaults:\n    socket: /all.sock\n    ssh: {knownHosts: /known, key: /key}\n",
            "{ssh: {}}",
            Endpoint::Ssh(ssh("edge")),
        ),
    ] {
        let docker = format!("{defaults}  hosts: {{edge: {host}}}\n");
        assert_eq!(endpoint(&docker), expected, "{docker}");
    }
}

#[test]
fn labels_of_a_host_come_before_those_of_all() {
    let config =
        read("  defaults: {labels: {site: north, disk: hdd}}\n  hosts: {b: {labels: {disk: ssd}}, a: {}}\n")
            .unwrap();
    let label = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let [a, b] = <[HostConfig; 2]>::try_from(config.hosts).unwrap();
    assert_eq!(
        (a.name.unwrap().as_str(), b.name.unwrap().as_str()),
        ("a", "b"),
        "in the order of their names"
    );
    assert_eq!(a.labels, BTreeMap::from([label("site", "north"), label("disk", "hdd")]));
    assert_eq!(b.labels, BTreeMap::from([label("site", "north"), label("disk", "ssd")]));
}

#[test]
fn f_v1_f_v2_f_s1_all_that_is_wrong_is_said_at_once_with_its_place() {
    let wrong = "
  defaults:
    socket: /all.sock
    ssh: {address: 10.0.0.1, user: -oProxyCommand=x, timeout: 1h}
    colour: red
  hosts:
    Edge: {socket: /a.sock}
    b: {socket: docker.sock}
    c: {socket: /a.sock, ssh: {key: /key, knownHosts: /known}}
    d: {}
    e: {tcp: {address: 10.0.0.2}}
    f: {tcp: {address: 10.0.0.2, tls: {ca: /ca}}}
    g: {tcp: {address: \"tcp://10.0.0.2:2376\", tls: {ca: /ca, cert: /cert, key: /key}}}
    h: {ssh: {key: /key}}
    i: {ssh: {knownHosts: /known}}
    j: {ssh: {key: /key, knownHosts: /known, engine: \"http://127.0.0.1:2375\"}}
    k: {ssh: {key: /key, knownHosts: /known, engine: \"tcp://127.0.0.1:99999\"}}
    l: {ssh: {key: /my key, knownHosts: /known}}
    m: {ssh: {port: 0, key: /key, knownHosts: /known}, labels: {a: \"1,2\"}}
";
    let said = read(wrong).unwrap_err();
    for expected in [
        "docker.defaults.ssh.address: found an address for all hosts, but each has its own",
        "docker.defaults.ssh.user: found \"-oProxyCommand=x\", allowed is the name of a user",
        "docker.defaults.ssh.timeout: found 1h, allowed is 1s to 10m",
        "docker.defaults.colour: found an unknown field, allowed are labels, socket, tcp, ssh",
        "docker.hosts.Edge: found a bad name",
        "docker.hosts.b.socket: found \"docker.sock\", allowed is an absolute path",
        "docker.hosts.c: found several ways to it, allowed is one of socket, tcp and ssh",
        "docker.hosts.d: found no way to it, and the defaults name several: say which",
        "docker.hosts.e.tcp: found 10.0.0.2 without tls",
        "docker.hosts.f.tcp: found tls without cert and key, but all three are required",
        "docker.hosts.g.tcp.address: found \"tcp://10.0.0.2:2376\", allowed is a host's name or IP address",
        "docker.hosts.h.ssh.knownHosts: found nothing, but it is required",
        "docker.hosts.i.ssh: found none of key, agent and passwordFile, but one of them is required",
        "docker.hosts.j.ssh.engine: found \"http://127.0.0.1:2375\" with another scheme, allowed is unix:///",
        "docker.hosts.k.ssh.engine: found \"tcp://127.0.0.1:99999\" without a host and a port",
        "docker.hosts.l.ssh.key: found \"/my key\", allowed is an absolute path without white space",
        "docker.hosts.m.ssh.port: found the number 0, allowed is a whole number from 1 to 65535",
        "docker.hosts.m: labels.a: found a label that no selector can name",
    ] {
        assert!(
            said.iter().any(|line| line.starts_with(expected)),
            "{expected}\nis not in\n{}",
            said.join("\n")
        );
    }
    assert_eq!(said.len(), 18, "{}", said.join("\n"));
    assert!(read("  hosts: {}\n").unwrap_err()[0].starts_with("docker.hosts: found no host"));
}

#[test]
fn f_s1_files_that_are_not_there_or_not_for_us_alone_are_told_with_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let write = |name: &str, mode: u32| {
        std::fs::write(at(name), "x").unwrap();
        std::fs::set_permissions(at(name), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    write("known", 0o644);
    write("open", 0o644);
    write("secret", 0o600);
    let _agent = UnixListener::bind(at("agent")).unwrap();
    let file = dir.path().join("config.yaml");
    let read = |ways: &str| {
        let text = format!("docker: {{hosts: {{edge: {{ssh: {{{ways}}}}}}}}}\n");
        std::fs::write(&file, text).unwrap();
        FileConfig::read(&file, Path::new("/local.sock")).map_err(|errors| errors.to_string())
    };
    let (known, open, secret, agent) = (at("known"), at("open"), at("secret"), at("agent"));
    for sound in [format!("key: {secret}"), format!("agent: {agent}"), format!("passwordFile: {secret}")] {
        assert_eq!(read(&format!("knownHosts: {known}, {sound}")).map(|config| config.hosts.len()), Ok(1));
    }
    let said = read(&format!("knownHosts: {}, key: {open}, agent: {known}", at("nowhere"))).unwrap_err();
    let lines: Vec<&str> = said.lines().collect();
    let head = format!("{}: docker.hosts.edge.ssh", file.display());
    assert!(
        lines[0].starts_with(&format!("{head}.knownHosts: found {}, which cannot be read", at("nowhere"))),
        "{said}"
    );
    assert!(lines[1].starts_with(&format!("{head}.key: found {open} with mode 0644")), "{said}");
    assert!(lines[1].ends_with(&format!("chmod 600 {open}")), "{said}");
    assert!(lines[2].starts_with(&format!("{head}.agent: found {known}, which is no socket")), "{said}");
    assert_eq!(lines.len(), 3, "{said}");
    let missing =
        FileConfig::read(&dir.path().join("nowhere"), Path::new("/local.sock")).unwrap_err().to_string();
    assert!(missing.contains("nowhere: cannot be read") && missing.contains("--config"), "{missing}");
}

/// What stands in the documentation is accepted as it stands there, but for the place of its files.
#[test]
fn the_documented_example_is_accepted() {
    let page = include_str!("../../../docs/operations.md");
    let mut blocks = page.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next());
    let example = blocks.find(|block| block.starts_with("docker:")).expect("there is an example");
    let dir = tempfile::tempdir().unwrap();
    for name in ["id_ed25519", "known_hosts", "ca.pem", "cert.pem", "key.pem"] {
        assert!(example.contains(&format!("/etc/towline/{name}")), "{name}");
        std::fs::write(dir.path().join(name), "x").unwrap();
        std::fs::set_permissions(dir.path().join(name), std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    let file = dir.path().join("config.yaml");
    std::fs::write(&file, example.replace("/etc/towline", &dir.path().display().to_string())).unwrap();
    let config =
        FileConfig::read(&file, Path::new("/local.sock")).unwrap_or_else(|errors| panic!("{errors}"));
    let names: Vec<&str> =
        config.hosts.iter().filter_map(|host| Some(host.name.as_ref()?.as_str())).collect();
    assert_eq!(names, ["edge-1", "edge-2", "edge-3", "edge-4"]);
}
