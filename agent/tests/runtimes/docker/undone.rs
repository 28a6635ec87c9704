//! What the engine refuses to do, and what need not be done.

use towline_protocol::platform::SyncAction;

use super::*;
use crate::proxy::Fate;

impl Bench {
    async fn delete(&self) -> Result<(), CallError> {
        let id = "default/App/web".parse().unwrap();
        let yaml = "apiVersion: towline/v1\nkind: App\nmetadata: {name: web}\n";
        let action = SyncAction { id, delete: Some(yaml.into()), apply: None };
        self.platform.sync(&CallContext::new(), &[action]).await
    }
}

/// The ancestor keeps what did not start; here it leaves nothing, and what was before it stays or comes back (decision 0031).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_d8_a_version_that_does_not_start_replaces_nothing() {
    let (bench, proxy) = Bench::through_proxy("bad-version").await;
    bench.apply(&sleeper("")).await.unwrap();
    bench.until("readiness", is_ready).await;
    let before = bench.containers();
    let bad = format!("  image: {IMAGE}\n  command: [/no/such/program]\n");
    assert!(bench.refusal(&bad).await.contains("/no/such/program"));
    assert_eq!(bench.containers(), before, "nothing is left of it");
    assert!(bench.engine.is_running(&before[0]), "and the one before it was not touched");
    // It removes its own and nothing else.
    assert_eq!((proxy.count("POST", "/stop"), proxy.count("DELETE /containers/", "")), (0, 1));
    bench.until("readiness", is_ready).await;

    let refused = bench.refusal(&format!("{bad}  strategy: {{type: recreate}}\n")).await;
    assert!(refused.contains("/no/such/program"), "{refused}");
    bench.until("readiness", is_ready).await;
    let after = bench.containers();
    assert!(after.len() == 1 && after != before, "as it was before, in another container: {after:?}");
    let command = bench.engine.docker(&["inspect", "--format", "{{json .Config.Entrypoint}}", &after[0]]);
    assert!(command.contains("sleep"), "{command}");
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_d11_what_has_stopped_already_is_not_told_to_stop() {
    let (bench, proxy) = Bench::through_proxy("idle").await;
    bench.apply(&sleeper("  drift: report\n")).await.unwrap();
    let unit = bench.containers().remove(0);
    bench.engine.docker(&["stop", "--time", "0", &unit]);
    let stopped = |service: &Service| service.units.iter().all(|unit| unit.status != UnitStatus::Started);
    bench.until("the unit to be seen as stopped", stopped).await;
    bench.delete().await.unwrap();
    assert_eq!(bench.containers(), Vec::<String>::new());
    assert_eq!((proxy.count("POST", "/stop"), proxy.count("DELETE /containers/", "")), (0, 1));
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_d11_what_cannot_be_stopped_or_removed_stays_known() {
    let (bench, proxy) = Bench::through_proxy("kept").await;
    bench.apply(&sleeper("")).await.unwrap();
    let before = bench.containers();
    let unit = bench.until("readiness", is_ready).await.units.remove(0).id;
    for (method, end, why) in [("POST", "/stop", "it will not stop"), ("DELETE", "", "it will not go")] {
        proxy.rule(move |request| {
            let is_meant = request.starts_with(&format!("{method} /containers/")) && request.ends_with(end);
            if is_meant { Fate::Refused(500, why) } else { Fate::Passes }
        });
        let refused = bench.delete().await.unwrap_err();
        assert!(refused.errors.values().any(|error| error.message.contains(why)), "{refused:?}");
        assert_eq!(bench.containers(), before);
        let service = bench.service().await;
        assert_eq!(service.units.iter().map(|unit| unit.id.as_str()).collect::<Vec<_>>(), [unit.as_str()]);
        // Its definition holds as before: it is brought back.
        proxy.release();
        bench.until("readiness", is_ready).await;
        assert_eq!(bench.containers(), before);
    }
    bench.delete().await.unwrap();
    assert_eq!(bench.containers(), Vec::<String>::new());
    bench.end().await;
}
