//! An engine over TCP with TLS: both sides show certificates that `openssl` made for the occasion.

use std::{net::TcpListener, path::Path, process::Command};

use towline_agent::runtime::{
    Runtime as _,
    battery::BATTERY,
    docker::{DockerRuntime, Endpoint, TlsFiles},
};

use crate::{battery, config, engine::Engine, until};

fn openssl(dir: &Path, words: &str) {
    let output = Command::new("openssl").args(words.split(' ')).current_dir(dir).output().unwrap();
    assert!(output.status.success(), "openssl {words}: {}", String::from_utf8_lossy(&output.stderr));
}

/// An authority, and what it says of an engine and of an agent.
fn certificates(dir: &Path) {
    std::fs::write(dir.join("engine.ext"), "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth\n")
        .unwrap();
    std::fs::write(dir.join("agent.ext"), "extendedKeyUsage=clientAuth\n").unwrap();
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(dir, &format!("req -x509 {key} -keyout ca.key -out ca.pem -subj /CN=authority -days 2"));
    for name in ["engine", "agent"] {
        openssl(dir, &format!("req -new {key} -keyout {name}.key -out {name}.csr -subj /CN={name}"));
        openssl(
            dir,
            &format!(
                "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -extfile {name}.ext -days 2 -out {name}.pem"
            ),
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make test-real"]
async fn the_battery_holds_over_tls_and_strangers_are_refused() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    certificates(dir.path());
    certificates(other.path());
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let file = |name: &str| dir.path().join(name).display().to_string();
    let engine = Engine::start(
        "tls",
        &[
            "--host",
            &format!("tcp://127.0.0.1:{port}"),
            "--tlsverify",
            "--tlscacert",
            &file("ca.pem"),
            "--tlscert",
            &file("engine.pem"),
            "--tlskey",
            &file("engine.key"),
        ],
    );
    let endpoint = |ca: &Path, own: &Path| Endpoint::Tcp {
        address: format!("127.0.0.1:{port}"),
        tls: Some(TlsFiles {
            ca: ca.join("ca.pem"),
            cert: own.join("agent.pem"),
            key: own.join("agent.key"),
        }),
    };
    for (ca, own) in [(other.path(), dir.path()), (dir.path(), other.path())] {
        let marks = tempfile::tempdir().unwrap();
        let runtime =
            DockerRuntime::open(config("tls/stranger", marks.path(), vec![endpoint(ca, own)])).await;
        until("the reason", async || {
            let error = runtime.observe("default/App/web", None).await.unwrap_err().to_string();
            error.contains("host far-0") && error.to_lowercase().contains("certificate")
        })
        .await;
        runtime.close().await;
    }
    // No way leads to ports that are published on addresses of the engine's host alone.
    battery("tls", &endpoint(dir.path(), dir.path()), &[BATTERY]).await;
    drop(engine);
}
