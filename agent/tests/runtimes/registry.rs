//! Images of a registry that wants a login, through a real engine.

use std::path::Path;

use crate::{
    docker::Bench,
    engine::{IMAGE, Registry},
};

const PASSWORD: &str = "open-sesame";

fn app(image: &str, policy: &str) -> String {
    format!(
        "  image: {image}\n  command: [sleep, \"1000\"]\n  stop: {{gracePeriod: 0s}}\n  docker: {{pullPolicy: {policy}}}\n"
    )
}

/// Another image than all before, as `name`, at the registry and here.
fn push(bench: &Bench, config: &Path, name: &str, edition: &str) -> String {
    let made = bench.engine.docker(&["create", IMAGE, "true"]);
    let change = format!("LABEL edition={edition}");
    let id = bench.engine.docker(&["commit", "--change", &change, &made, name]);
    bench.engine.docker(&["rm", &made]);
    bench.engine.docker(&["--config", &config.display().to_string(), "push", name]);
    id
}

/// The image that the one container was made from.
fn image(bench: &Bench) -> String {
    let [container] = <[String; 1]>::try_from(bench.containers()).unwrap();
    bench.engine.docker(&["inspect", "--format", "{{.Image}}", &container])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_r1_an_image_is_pulled_when_its_policy_says_so() {
    let (registry, dir) = (Registry::start(), tempfile::tempdir().unwrap());
    let login = registry.login(dir.path(), PASSWORD);
    let bench = Bench::with_login("pulls", Some(login)).await;
    let name = format!("{}/app", registry.address);
    let first = push(&bench, dir.path(), &format!("{name}:latest"), "one");
    bench.engine.docker(&["rmi", &format!("{name}:latest")]);

    let refused = bench.refusal(&app(&name, "Never")).await;
    assert!(
        refused.contains(&format!("image {name}:latest")) && refused.contains("No such image"),
        "{refused}"
    );
    assert_eq!(bench.containers(), Vec::<String>::new());
    bench.apply(&app(&name, "IfNotPresent")).await.unwrap();
    assert_eq!(image(&bench), first, "what is absent is pulled, and no tag is the latest");

    let second = push(&bench, dir.path(), &format!("{name}:latest"), "two");
    assert_ne!(first, second);
    bench.engine.docker(&["tag", &first, &format!("{name}:latest")]);
    let other = |policy: &str| format!("{}  env: {{POLICY: {policy}}}\n", app(&name, policy));
    bench.apply(&other("IfNotPresent")).await.unwrap();
    assert_eq!(image(&bench), first, "what is there is not pulled");
    bench.apply(&other("Never")).await.unwrap();
    assert_eq!(image(&bench), first, "nor is it with Never");
    bench.apply(&other("Always")).await.unwrap();
    assert_eq!(image(&bench), second, "but it is with Always");
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_r1_a_pull_that_fails_says_why_and_what_to_do() {
    let (registry, dir) = (Registry::start(), tempfile::tempdir().unwrap());
    let login = registry.login(dir.path(), PASSWORD);
    let bench = Bench::with_login("refused-pulls", Some(login.clone())).await;
    let name = format!("{}/secret:1", registry.address);
    let pushed = push(&bench, dir.path(), &name, "one");
    bench.engine.docker(&["rmi", &name]);

    let unknown = bench.refusal(&app(&format!("{}/nothing:1", registry.address), "IfNotPresent")).await;
    assert!(unknown.contains("cannot pull image") && unknown.contains("nothing"), "{unknown}");
    assert!(!unknown.contains("--registry-auth"), "the login is in order: {unknown}");
    // The file is read at each pull.
    registry.login(dir.path(), "open-barley");
    let wrong = bench.refusal(&app(&name, "IfNotPresent")).await;
    let expected = format!("{} refuses the credentials in the file of --registry-auth", registry.address);
    assert!(wrong.contains(&expected) && !wrong.contains("barley"), "{wrong}");
    std::fs::write(&login, "{}").unwrap();
    let none = bench.refusal(&app(&name, "Always")).await;
    assert!(none.contains(&format!("there are no credentials for {}", registry.address)), "{none}");
    std::fs::write(&login, "no json").unwrap();
    let garbled = bench.refusal(&app(&name, "Always")).await;
    assert!(garbled.contains("registry credentials in") && garbled.contains("line 1"), "{garbled}");
    assert_eq!(bench.containers(), Vec::<String>::new());
    registry.login(dir.path(), PASSWORD);
    bench.apply(&app(&name, "Always")).await.unwrap();
    assert_eq!(image(&bench), pushed);
    bench.end().await;
}
