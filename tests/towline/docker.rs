//! The battery's cases where they apply to a real runtime: the whole chain, with containers at its end.

use bytes::Bytes;
use towline_bus::Platform as _;
use towline_bus::clock;
use towline_bus::platform::CallContext;
use towline_protocol::bundle::PutBundleRequest;
use towline_protocol::job::{GetJobRequest, JobState};
use towline_protocol::platform::{Definition, LogsRequest, ServiceStatus, SyncAction, UnitStatus};
use towline_protocol::{CallError, Code, Effect, ResourceId};
use towline_tests::chain::{HubChain, Wire};
use towline_tests::docker::{DockerEngine, IMAGE};
use towline_tests::wait::until;

fn id(name: &str) -> ResourceId {
    format!("default/App/{name}").parse().unwrap()
}

fn app(name: &str, spec: &str) -> Bytes {
    format!(
        "apiVersion: towline/v1\nkind: App\nmetadata: {{name: {name}}}\nspec:\n  stop: {{gracePeriod: 0s}}\n{spec}"
    )
    .into()
}

fn sleeper(name: &str) -> Bytes {
    app(name, &format!("  image: {IMAGE}\n  command: [sh, -c, \"echo up; exec sleep 1000\"]\n"))
}

fn define(name: &str, definition: Bytes) -> Definition {
    Definition { id: id(name), definition, is_async: false }
}

/// One engine is started for all of it: that takes longer than the calls.
/// Of `absent`, whose image there is not, and `misnamed`.
fn both_are_told(error: &CallError) {
    assert_eq!(
        (&error.code, &error.effect, error.errors.len()),
        (&Code::Cluster, &Effect::Partial, 2),
        "{error:?}"
    );
    assert!(error.errors["default/App/absent"].message.contains("towline-absent:1"), "{error:?}");
    assert_eq!(error.errors["default/App/misnamed"].code, Code::Invalid);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x_b1_to_b12_where_they_apply_over_the_whole_chain_on_docker_on_nats() {
    let engine = DockerEngine::start("chain", &[]);
    let hub = HubChain::start_over(Wire::nats().await).await;
    let agent = hub.docker("site", &engine).await;
    let (platform, cx) = (hub.platform("site"), CallContext::new);

    // B1, B2.
    platform.ping(&cx()).await.unwrap();
    assert_eq!(platform.version(&cx()).await.unwrap(), towline_agent::VERSION);

    // B3, B4, B5: what there is, and what was not asked for.
    assert_eq!(platform.export(&cx()).await.unwrap(), "", "nothing is nothing");
    platform.apply(&cx(), &[define("web", sleeper("web")), define("other", sleeper("other"))]).await.unwrap();
    let services = platform.all_services(&cx(), Some("default"), &[id("other")].into()).await.unwrap();
    let [web] = services.as_slice() else { panic!("one was asked for: {services:?}") };
    assert_eq!((&web.id, &web.status, web.units.len()), (&id("web"), &ServiceStatus::Ready, 1));
    assert_eq!(web.units[0].status, UnitStatus::Started);
    assert_eq!(engine.containers("default/site").len(), 2);
    assert_eq!(platform.some_services(&cx(), &[]).await.unwrap(), [], "no ids are not all ids");
    let missing = platform.some_services(&cx(), &[id("missing"), id("web")]).await.unwrap();
    assert_eq!(missing.len(), 1, "missing ids are silently absent");

    // B7, B12: byte for byte.
    let odd = Bytes::from([b"# gr\xc3\xb6\xc3\x9fer\r\n".as_slice(), &sleeper("odd"), b"# the end"].concat());
    platform.apply(&cx(), &[define("odd", odd.clone())]).await.unwrap();
    let exported = platform.export(&cx()).await.unwrap();
    assert!(exported.windows(odd.len()).any(|window| window == odd), "{exported:?}");

    // B8: errors by id, and the rest is done.
    let absent =
        app("absent", "  image: towline-absent:1\n  docker: {pullPolicy: Never}\n  command: [\"true\"]\n");
    let definitions = [
        define("good", sleeper("good")),
        define("absent", absent.clone()),
        define("misnamed", sleeper("another")),
    ];
    both_are_told(&platform.apply(&cx(), &definitions).await.unwrap_err());

    // B9, B11: deletes, then applies, in order.
    let before = platform.some_services(&cx(), &[id("good")]).await.unwrap();
    let actions = [
        SyncAction { id: id("web"), delete: Some(sleeper("web")), apply: None },
        SyncAction { id: id("good"), delete: Some(sleeper("good")), apply: Some(sleeper("good")) },
        SyncAction { id: id("late"), delete: None, apply: Some(sleeper("late")) },
    ];
    platform.sync(&cx(), &actions).await.unwrap();
    let after = platform.some_services(&cx(), &[id("good")]).await.unwrap();
    assert_ne!(before[0].units[0].id, after[0].units[0].id, "it was deleted first");
    assert_eq!(platform.some_services(&cx(), &[id("web"), id("late")]).await.unwrap().len(), 1);

    // B10: errors by id, and the rest is done.
    let actions = [
        SyncAction { id: id("absent"), delete: None, apply: Some(absent) },
        SyncAction { id: id("misnamed"), delete: None, apply: Some(sleeper("another")) },
        SyncAction { id: id("last"), delete: None, apply: Some(sleeper("last")) },
    ];
    both_are_told(&platform.sync(&cx(), &actions).await.unwrap_err());
    assert_eq!(platform.some_services(&cx(), &[id("last"), id("misnamed")]).await.unwrap().len(), 1);

    // Logs.
    let request = LogsRequest { app: id("late"), unit: None, follow: true, since_unix_ms: None, tail: None };
    let mut lines = platform.logs(&cx(), &request).await.unwrap();
    let line = tokio::time::timeout(towline_tests::wait::PATIENCE, lines.next()).await.unwrap().unwrap();
    assert_eq!(line.unwrap().text, "up");
    drop(lines);

    agent.end().await;
    // B4, B6: an error is no empty answer.
    let nobody = platform.some_services(&cx(), &[id("last")]).await.unwrap_err();
    assert_eq!((&nobody.code, &nobody.effect), (&Code::Unavailable, &Effect::None), "{nobody:?}");
    platform.all_services(&cx(), None, &Default::default()).await.unwrap_err();
    assert_eq!(engine.containers("default/site"), Vec::<String>::new(), "no unit is left");
    hub.stop().await;
}

/// The engine is asked what there is, once, and nothing about any container: whether one applies the same again or puts it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_d5_a_pass_that_changes_nothing_asks_an_engine_once() {
    const APPS: usize = 20;
    let engine = DockerEngine::start("calls", &["without-network", "--debug"]);
    let hub = HubChain::start().await;
    let agent = hub.docker("site", &engine).await;
    let (platform, cx) = (hub.platform("site"), CallContext::new);
    let isolated = |name: &str| {
        let spec =
            format!("  image: {IMAGE}\n  command: [sleep, \"1000\"]\n  docker: {{networkMode: none}}\n");
        define(name, app(name, &spec))
    };
    let definitions: Vec<Definition> = (0..APPS).map(|number| isolated(&format!("web-{number}"))).collect();
    platform.apply(&cx(), &definitions).await.unwrap();
    let bundle = PutBundleRequest::new("shop".parse().unwrap(), isolated("till").definition);
    let job = platform.put_bundle(&cx(), &bundle).await.unwrap().job.unwrap();
    until("the bundle to have come up", || async {
        let job = platform.get_job(&cx(), &GetJobRequest { job, after: 0, limit: None }).await.unwrap().job;
        assert_ne!(job.state, JobState::Failed, "{job:?}");
        (job.state == JobState::Done).then_some(())
    })
    .await;
    assert_eq!(engine.containers("default/site").len(), APPS + 1);
    // What is heard of the containers' beginning may still be followed.
    let asked_about_one = || engine.calls().iter().filter(|call| call.ends_with("/json")).count();
    let looks = || engine.calls().iter().filter(|call| is_look(call)).count();
    until("two regular looks without anything new", || async {
        let (before, closer) = (looks(), asked_about_one());
        until("two regular looks", || async { (looks() >= before + 2).then_some(()) }).await;
        (asked_about_one() == closer).then_some(())
    })
    .await;

    let (before, begun) = (engine.calls().len(), clock::now());
    platform.apply(&cx(), &definitions).await.unwrap();
    platform.put_bundle(&cx(), &bundle).await.unwrap();
    let calls = engine.calls().split_off(before);
    let passes = clock::now().since(begun).as_secs() / 10 + 2;
    let (of_all, others): (Vec<&String>, Vec<&String>) = calls.iter().partition(|call| is_look(call));
    assert!(others.iter().all(|call| call.contains("/volumes?")), "nothing about any container: {calls:?}");
    assert!(
        (1..=passes).contains(&(of_all.len() as u64)),
        "one, and what falls in of the regular ones: {calls:?}"
    );

    // It looks, all the same: what somebody else has removed is there again.
    let gone = engine.containers("default/site").pop().unwrap();
    engine.docker(&["rm", "--force", &gone]);
    platform.apply(&cx(), &definitions).await.unwrap();
    until("all of them to be there", || async {
        let there = engine.containers("default/site");
        (there.len() == APPS + 1 && !there.contains(&gone)).then_some(())
    })
    .await;
    agent.end().await;
    hub.stop().await;
}

/// Whether a call asks for all containers of an instance.
fn is_look(call: &str) -> bool {
    call.starts_with("GET /containers/json") && !call.contains("dev.towline.app")
}
