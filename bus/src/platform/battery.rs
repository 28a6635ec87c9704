//! The battery: what every path to a platform must carry unharmed. It drives a [`MockPlatform`] at the far end through
//! whatever stands between, and compares both ends. For anyone who writes a transport, a proxy or an API.
//!
//! Each case bears the id of the ancestor's case that it holds us to. A case panics with what differs; run them one after
//! another, for they share the mock.

mod bundles;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use towline_protocol::platform::{
    Definition, LogLine, LogSource, LogsRequest, Service, ServiceStatus, SyncAction, Unit, UnitStatus,
};
use towline_protocol::{CallError, Code, Effect, ItemError, Method, ResourceId};

use self::bundles::{
    a_put_is_done_once_per_request_id, a_watch_is_in_order_and_ends, bundles_arrive_byte_for_byte,
    capacity_and_addresses, errors_of_bundles_keep_their_structure, jobs_field_by_field, lists_come_in_pages,
    operations_arrive_and_answer_a_job, status_of_six_thousand_field_by_field,
    the_record_of_a_bundle_comes_in_order, what_there_is_not_is_not_found,
};
use super::{CallContext, MockPlatform, Platform, Seen};

/// Both ends of the path: the near platform that is tested, and the mock behind it.
#[derive(Clone, Copy)]
pub struct Ends<'a> {
    /// What the caller holds.
    pub near: &'a dyn Platform,
    /// What answers in the end.
    pub far: &'a MockPlatform,
}

impl std::fmt::Debug for Ends<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ends").finish_non_exhaustive()
    }
}

type Run = for<'a> fn(Ends<'a>) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// One case.
#[derive(Clone, Copy)]
pub struct Case {
    /// Its name; it begins with the ancestor's id.
    pub name: &'static str,
    run: Run,
}

impl std::fmt::Debug for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl Case {
    /// Runs the case on a mock that forgets what other cases told it.
    ///
    /// # Panics
    /// When the path does not carry what it should.
    pub async fn run(&self, ends: Ends<'_>) {
        for method in Method::ALL {
            ends.far.fail(*method, None);
        }
        ends.far.clear_bundles();
        let _ = ends.far.take_seen();
        (self.run)(ends).await;
    }
}

macro_rules! cases {
    ($($name:ident),+ $(,)?) => {
        /// Every case that holds on any path, in order. Subscriptions that end (X-B13, X-B14), and what only a bus can be
        /// sent (X-B16, X-B17), are tested where there is a subscription and a bus.
        pub const BATTERY: &[Case] = &[$(Case { name: stringify!($name), run: |ends| Box::pin($name(ends)) }),+];
    };
}

cases![
    x_b1_ping,
    x_b2_version_is_never_invented,
    x_b3_all_services_field_by_field,
    x_b4_all_services_error,
    x_b5_some_services,
    x_b6_some_services_error,
    x_b7_apply_bytes_identical,
    x_b8_apply_errors_by_id,
    x_b9_sync_absent_differs_from_empty,
    x_b10_sync_errors_by_id,
    x_b11_action_with_delete_and_apply,
    x_b12_export_sizes,
    a_code_of_a_newer_peer_survives,
    x_b15_upgrade_needed_keeps_its_identity,
    x_b18_arguments_arrive_equal,
    logs_arrive_in_order,
    bundles_arrive_byte_for_byte,
    a_put_is_done_once_per_request_id,
    operations_arrive_and_answer_a_job,
    what_there_is_not_is_not_found,
    lists_come_in_pages,
    status_of_six_thousand_field_by_field,
    the_record_of_a_bundle_comes_in_order,
    jobs_field_by_field,
    a_watch_is_in_order_and_ends,
    capacity_and_addresses,
    errors_of_bundles_keep_their_structure,
];

/// Runs the whole battery.
///
/// # Panics
/// When the path does not carry what it should; the case's name is printed first.
pub async fn battery(ends: Ends<'_>) {
    for case in BATTERY {
        tracing::info!(case = case.name, "battery");
        case.run(ends).await;
    }
}

fn cx() -> CallContext {
    CallContext::new()
}

fn id(text: &str) -> ResourceId {
    text.parse().expect("the battery's ids are well formed")
}

/// An error that uses every field.
fn error(code: Code, text: &str) -> CallError {
    CallError::new(code, text).with_help("ask the battery").with_effect(Effect::None)
}

fn map_of_errors() -> BTreeMap<String, ItemError> {
    BTreeMap::from([
        (
            "default/App/web".to_owned(),
            ItemError::new(Code::Conflict, "it just failed").with_help("adopt it"),
        ),
        ("ns/App/zwölf".to_owned(), ItemError::new(Code::Invalid, "kaputt: \"quoted\"\nsecond line")),
    ])
}

#[track_caller]
fn seen_once(ends: Ends<'_>, expected: &Seen) {
    assert_eq!(ends.far.take_seen(), std::slice::from_ref(expected), "what arrived is not what was sent");
}

/// One service with everything, and one with nothing.
fn two_services() -> Vec<Service> {
    let full = Service {
        id: id("space-of-names/App/service"),
        address: Some("127.0.0.1:8080".to_owned()),
        metadata: BTreeMap::from([
            ("created_at".to_owned(), "2017-05-01".to_owned()),
            (String::new(), String::new()),
        ]),
        status: ServiceStatus::Updating,
        units: vec![
            Unit {
                id: "service-1".to_owned(),
                status: UnitStatus::Unreachable,
                reason: Some("refused".to_owned()),
                since_unix_ms: Some(1_700_000_000_000),
                pid: Some(4_242),
                restarts: 7,
                ports: BTreeMap::from([("http".to_owned(), 31_000)]),
                image: Some("quay.io/weaveworks/helloworld:v1".to_owned()),
                host: None,
            },
            Unit {
                id: "service-2".to_owned(),
                status: UnitStatus::Other("hibernating".to_owned()),
                reason: None,
                since_unix_ms: None,
                pid: None,
                restarts: 0,
                ports: BTreeMap::new(),
                image: None,
                host: None,
            },
        ],
        excuse: None,
    };
    let empty = Service {
        id: id("space-of-names/App/empty"),
        address: None,
        metadata: BTreeMap::new(),
        status: ServiceStatus::Unknown,
        units: Vec::new(),
        excuse: Some("no controller matches".to_owned()),
    };
    vec![full, empty]
}

async fn x_b1_ping(ends: Ends<'_>) {
    ends.near.ping(&cx()).await.expect("ping answers");
    seen_once(ends, &Seen::Ping);
    ends.far.fail(Method::Ping, Some(error(Code::Cluster, "ping problem")));
    assert_eq!(ends.near.ping(&cx()).await, Err(error(Code::Cluster, "ping problem")));
}

async fn x_b2_version_is_never_invented(ends: Ends<'_>) {
    ends.far.set_version("1.2.3-rc.4+build");
    assert_eq!(ends.near.version(&cx()).await.as_deref(), Ok("1.2.3-rc.4+build"));
    ends.far.fail(Method::Version, Some(error(Code::Unsupported, "this platform cannot version")));
    assert_eq!(ends.near.version(&cx()).await, Err(error(Code::Unsupported, "this platform cannot version")));
}

async fn x_b3_all_services_field_by_field(ends: Ends<'_>) {
    ends.far.set_services(two_services());
    let ignored = BTreeSet::from([id("space-of-names/App/service")]);
    let services = ends.near.all_services(&cx(), Some("space-of-names"), &BTreeSet::new()).await;
    assert_eq!(services, Ok(two_services()));
    let _ = ends.far.take_seen();
    let services = ends.near.all_services(&cx(), Some("space-of-names"), &ignored).await.expect("an answer");
    assert_eq!(services, two_services().split_off(1));
    seen_once(ends, &Seen::AllServices { namespace: Some("space-of-names".to_owned()), ignored });
    let services = ends.near.all_services(&cx(), None, &BTreeSet::new()).await.expect("an answer");
    assert_eq!(services.len(), 2);
    seen_once(ends, &Seen::AllServices { namespace: None, ignored: BTreeSet::new() });
}

async fn x_b4_all_services_error(ends: Ends<'_>) {
    ends.far.fail(Method::AllServices, Some(error(Code::NotFound, "there is no namespace `gone`")));
    let services = ends.near.all_services(&cx(), Some("gone"), &BTreeSet::new()).await;
    assert_eq!(services, Err(error(Code::NotFound, "there is no namespace `gone`")));
}

async fn x_b5_some_services(ends: Ends<'_>) {
    ends.far.set_services(two_services());
    let ids = [id("space-of-names/App/empty"), id("missing/App/one")];
    let services = ends.near.some_services(&cx(), &ids).await;
    assert_eq!(services, Ok(two_services().split_off(1)), "missing ids are silently absent");
    seen_once(ends, &Seen::SomeServices { ids: ids.to_vec() });
    assert_eq!(ends.near.some_services(&cx(), &[]).await, Ok(Vec::new()), "no ids are not all ids");
    seen_once(ends, &Seen::SomeServices { ids: Vec::new() });
}

async fn x_b6_some_services_error(ends: Ends<'_>) {
    ends.far.fail(Method::SomeServices, Some(error(Code::Busy, "later")));
    assert_eq!(ends.near.some_services(&cx(), &[id("a")]).await, Err(error(Code::Busy, "later")));
}

async fn x_b7_apply_bytes_identical(ends: Ends<'_>) {
    let all_bytes: Bytes = (0..=u8::MAX).collect::<Vec<_>>().into();
    let definitions = vec![
        Definition { id: id("default/App/web"), definition: all_bytes, is_async: false },
        Definition { id: id("default/App/empty"), definition: Bytes::new(), is_async: true },
    ];
    ends.near.apply(&cx(), &definitions).await.expect("applied");
    seen_once(ends, &Seen::Apply { definitions });
}

async fn x_b8_apply_errors_by_id(ends: Ends<'_>) {
    let expected = CallError::cluster(map_of_errors(), Effect::Partial);
    ends.far.fail(Method::Apply, Some(expected.clone()));
    let definitions = [Definition { id: id("default/App/web"), definition: Bytes::new(), is_async: false }];
    assert_eq!(ends.near.apply(&cx(), &definitions).await, Err(expected));
}

async fn x_b9_sync_absent_differs_from_empty(ends: Ends<'_>) {
    let action = |name: &str, delete, apply| SyncAction { id: id(name), delete, apply };
    let actions = vec![
        action("default/App/a", Some(Bytes::from_static(b"delete me")), None),
        action("default/App/b", None, Some(Bytes::from_static(b"apply me"))),
        action("default/App/c", Some(Bytes::new()), Some(Bytes::new())),
        action("default/App/d", None, None),
    ];
    ends.near.sync(&cx(), &actions).await.expect("synced");
    seen_once(ends, &Seen::Sync { actions });
}

async fn x_b10_sync_errors_by_id(ends: Ends<'_>) {
    let expected = CallError::cluster(map_of_errors(), Effect::Partial);
    ends.far.fail(Method::Sync, Some(expected.clone()));
    assert_eq!(ends.near.sync(&cx(), &[]).await, Err(expected));
}

/// The order of work is the platform's own (its tests show it); the path must keep both halves in one action.
async fn x_b11_action_with_delete_and_apply(ends: Ends<'_>) {
    let both = SyncAction {
        id: id("default/App/a"),
        delete: Some(Bytes::from_static(b"old")),
        apply: Some(Bytes::from_static(b"new")),
    };
    let actions = vec![both.clone(), both];
    ends.near.sync(&cx(), &actions).await.expect("synced");
    seen_once(ends, &Seen::Sync { actions });
}

async fn x_b12_export_sizes(ends: Ends<'_>) {
    for size in [0, 1, 1 << 20, 16 << 20, 64 << 20] {
        for is_compressible in [true, false] {
            let config = bytes_of(size, is_compressible);
            ends.far.set_config(config.clone());
            let exported = ends.near.export(&cx()).await.expect("exported");
            // Not `assert_eq`: nobody wants to read 64 MiB.
            assert!(exported == config, "{size} bytes came back as {} others", exported.len());
        }
    }
}

async fn a_code_of_a_newer_peer_survives(ends: Ends<'_>) {
    let newer = error(Code::Other("brand_new".to_owned()), "from a newer agent").with_effect(Effect::Unknown);
    ends.far.fail(Method::Export, Some(newer.clone()));
    assert_eq!(ends.near.export(&cx()).await, Err(newer));
}

async fn x_b15_upgrade_needed_keeps_its_identity(ends: Ends<'_>) {
    let expected = error(Code::UpgradeNeeded, "this agent is too old");
    ends.far.fail(Method::Sync, Some(expected.clone()));
    assert_eq!(ends.near.sync(&cx(), &[]).await, Err(expected));
}

async fn x_b18_arguments_arrive_equal(ends: Ends<'_>) {
    let ids: Vec<ResourceId> = (0..10_000).map(|n| id(&format!("namensräume/App/dienst-{n}-✓"))).collect();
    ends.near.some_services(&cx(), &ids).await.expect("an answer");
    seen_once(ends, &Seen::SomeServices { ids: ids.clone() });
    let ignored: BTreeSet<_> = ids.into_iter().collect();
    ends.near.all_services(&cx(), Some("ünïcödé"), &ignored).await.expect("an answer");
    seen_once(ends, &Seen::AllServices { namespace: Some("ünïcödé".to_owned()), ignored });
    let definitions: Vec<_> = (0..1_000)
        .map(|n| Definition {
            id: id(&format!("default/App/n{n}")),
            definition: vec![0; n].into(),
            is_async: n % 2 == 0,
        })
        .collect();
    ends.near.apply(&cx(), &definitions).await.expect("applied");
    seen_once(ends, &Seen::Apply { definitions });
}

async fn logs_arrive_in_order(ends: Ends<'_>) {
    let line = |n: u64| LogLine {
        unit: "web-1".to_owned(),
        at_unix_ns: 1_700_000_000_000_000_000 + n,
        source: if n.is_multiple_of(3) { LogSource::Stderr } else { LogSource::Stdout },
        text: format!("line {n} – {}", "x".repeat(usize::try_from(n % 200).unwrap_or(0))),
        partial: n.is_multiple_of(7),
    };
    let lines: Vec<_> = (0..5_000).map(line).collect();
    ends.far.set_lines(lines.clone());
    let request = LogsRequest {
        app: id("default/App/web"),
        unit: Some("web-1".to_owned()),
        follow: false,
        since_unix_ms: Some(12),
        tail: Some(5_000),
    };
    let mut stream = ends.near.logs(&cx(), &request).await.expect("the stream opens");
    let mut arrived = Vec::new();
    while let Some(item) = stream.next().await {
        arrived.push(item.expect("a line"));
    }
    assert_eq!(arrived.len(), lines.len());
    assert!(arrived == lines, "lines differ or came in another order");
    seen_once(ends, &Seen::Logs { request });
    ends.far.fail(Method::Logs, Some(error(Code::NotFound, "there is no app `web`")));
    let request = LogsRequest {
        app: id("default/App/web"),
        unit: None,
        follow: false,
        since_unix_ms: None,
        tail: None,
    };
    let refused = ends.near.logs(&cx(), &request).await.map(|_| ());
    assert_eq!(refused, Err(error(Code::NotFound, "there is no app `web`")));
}

/// Bytes that shrink, or bytes that do not.
fn bytes_of(size: usize, is_compressible: bool) -> Bytes {
    if is_compressible {
        return vec![b'a'; size].into();
    }
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        // xorshift64 (Marsaglia 2003): zstd finds nothing in it.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes.into()
}
