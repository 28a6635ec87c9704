//! The bytes of one message of each kind, as this version writes them. A change of the wire shows here first; the files
//! under `golden/` are what an agent in another language tests itself against. Run with `UPDATE_GOLDEN=1` to write them
//! anew, and say in the commit why peers of the older version still read them.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use towline_protocol::bundle::{
    BundleChangesResponse, BundlePhase, BundleStatusResponse, BundleSummary, Change, ChangeOp, ChangeRecord,
    Drift, Envelope, ListBundlesResponse, Observation, PutBundleRequest, PutBundleResponse, PutOutcome,
    ResultState, Retry, Signature, Signer, WorkloadResult, WorkloadStatus,
};
use towline_protocol::call::CallBody;
use towline_protocol::capacity::{AddressInUse, AddressesResponse, Capacity, CapacityResponse};
use towline_protocol::frame::{Encoding, Frame, Header, Kind, Total};
use towline_protocol::job::{GetJobResponse, Job, JobKind, JobRecord, JobState};
use towline_protocol::platform::{
    AllServicesRequest, ApplyRequest, Definition, LogLine, LogSource, LogsRequest, Service, ServiceStatus,
    ServicesResponse, SyncAction, SyncRequest, Unit, UnitStatus,
};
use towline_protocol::session::{
    Claim, ClaimAnswer, ClaimMode, ClaimOutcome, Health, HealthState, Leaving, Order, Ready, Renewal,
    RenewalAnswer, RenewalOutcome, SessionOrder,
};
use towline_protocol::{
    BootId, CallError, Code, ContentDigest, Effect, Epoch, ItemError, JobId, StoreId, wire,
};

fn epoch(number: u64) -> Epoch {
    Epoch::new(number).unwrap()
}

fn boot() -> BootId {
    BootId::new(uuid::Uuid::from_u128(0xb007))
}

fn store() -> StoreId {
    StoreId::new(uuid::Uuid::from_u128(0x5703e))
}

/// Compares with the committed file, and reads the file back into the same value.
#[track_caller]
fn check<T>(name: &str, value: &T)
where
    T: Serialize + for<'de> Deserialize<'de> + PartialEq + std::fmt::Debug,
{
    let bytes = golden(name, &wire::encode(value));
    assert_eq!(wire::decode::<T>(&bytes).as_ref(), Ok(value), "{name} does not read back");
}

#[track_caller]
fn golden(name: &str, bytes: &[u8]) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.hex"));
    let mut text = String::new();
    for row in bytes.chunks(32) {
        row.iter().for_each(|byte| write!(text, "{byte:02x}").unwrap());
        text.push('\n');
    }
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let committed =
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert_eq!(text, committed, "the bytes of {name} changed; see the top of this file");
    let digits: String = committed.split_whitespace().collect();
    digits
        .as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

#[test]
fn calls() {
    let id = "golden-1".parse().unwrap();
    let args = AllServicesRequest {
        namespace: Some("space-of-names".into()),
        ignored: ["ns/App/service".parse().unwrap()].into(),
    };
    check("call-all-services", &CallBody { id, store: Some(store()), args });
    check(
        "apply-request",
        &ApplyRequest {
            definitions: vec![Definition {
                id: "default/App/web".parse().unwrap(),
                definition: Bytes::from_static(b"kind: App\0\xff"),
                is_async: true,
            }],
        },
    );
    let action = |delete, apply| SyncAction { id: "default/App/é".parse().unwrap(), delete, apply };
    check(
        "sync-request",
        &SyncRequest {
            actions: vec![action(Some(Bytes::from_static(b"old")), None), action(None, Some(Bytes::new()))],
        },
    );
    check(
        "logs-request",
        &LogsRequest {
            app: "default/App/web".parse().unwrap(),
            unit: None,
            follow: true,
            since_unix_ms: Some(1_700_000_000_000),
            tail: Some(10),
        },
    );
}

#[test]
fn answers() {
    let unit = Unit {
        id: "web-1".into(),
        status: UnitStatus::Started,
        reason: None,
        since_unix_ms: Some(1_700_000_000_000),
        pid: Some(42),
        restarts: 3,
        ports: BTreeMap::from([("http".into(), 8080)]),
        image: None,
        host: None,
    };
    let service = Service {
        id: "default/App/web".parse().unwrap(),
        address: Some("127.0.0.1:8080".into()),
        metadata: BTreeMap::from([("generation".into(), "abc".into())]),
        status: ServiceStatus::Ready,
        units: vec![unit],
        excuse: Some("because".into()),
    };
    check("services-response", &ServicesResponse { services: vec![service] });
    check(
        "log-line",
        &LogLine {
            unit: "web-1".into(),
            at_unix_ns: 1_700_000_000_000_000_000,
            source: LogSource::Stderr,
            text: "grüße".into(),
            partial: true,
        },
    );
    let item = ItemError::new(Code::Conflict, "owned by bundle shop").with_help("adopt it");
    check(
        "call-error",
        &CallError::cluster(BTreeMap::from([("default/App/web".into(), item)]), Effect::Partial),
    );
}

fn job_id() -> JobId {
    JobId::new(uuid::Uuid::from_u128(0x10b))
}

fn summary() -> BundleSummary {
    BundleSummary {
        name: "shop".parse().unwrap(),
        description: "what we sell".into(),
        phase: BundlePhase::Active,
        accepted: 3,
        applied: Some(2),
        digest: ContentDigest::of(b"kind: App"),
        counts: BTreeMap::from([(ResultState::Ok, 2), (ResultState::Error, 1)]),
        since_unix_ms: 1_700_000_000_000,
        job: Some(job_id()),
    }
}

#[test]
fn bundles() {
    let envelope = Envelope {
        revision: Some(9),
        threshold: Some(2),
        signers: vec![Signer { key: "ed25519:aa".into(), weight: 2, required: true }],
        signatures: vec![Signature {
            key: "ed25519:aa".into(),
            style: "raw".into(),
            signature: Bytes::from_static(b"\0\xff"),
        }],
    };
    check(
        "put-bundle-request",
        &PutBundleRequest {
            bundle: "shop".parse().unwrap(),
            version: Some(3),
            content: Bytes::from_static(b"kind: App"),
            dry_run: true,
            force: false,
            adopt: true,
            envelope: Some(envelope),
        },
    );
    let change = Change {
        workload: "App/web".parse().unwrap(),
        resource: Some("default/App/web".parse().unwrap()),
        op: ChangeOp::Update,
        reason: Some("spec.units changed".into()),
        diff: Some("-  units: 1\n+  units: 2\n".into()),
    };
    check(
        "put-bundle-response",
        &PutBundleResponse {
            outcome: PutOutcome::Accepted,
            version: 3,
            digest: ContentDigest::of(b"kind: App"),
            job: Some(job_id()),
            changes: vec![change],
        },
    );
    check("list-bundles-response", &ListBundlesResponse { bundles: vec![summary()], next: None });
    let record = ChangeRecord {
        seq: 7,
        at_unix_ms: 1_700_000_000_000,
        version: 3,
        workload: Some("App/web".parse().unwrap()),
        state: ResultState::Error,
        message: Some("port 80 is taken".into()),
        job: Some(job_id()),
    };
    check("bundle-changes-response", &BundleChangesResponse { changes: vec![record], next: Some(7) });
}

#[test]
fn standing() {
    let workload = WorkloadStatus {
        id: "App/web".parse().unwrap(),
        resource: Some("default/App/web".parse().unwrap()),
        version: 3,
        result: WorkloadResult {
            state: ResultState::Error,
            message: Some("port 80 is taken".into()),
            since_unix_ms: 1_700_000_000_000,
            job: Some(job_id()),
        },
        observed: Some(Observation {
            status: ServiceStatus::Degraded,
            reason: Some("1 of 2 units".into()),
            units: vec![],
            age_ms: 1_500,
        }),
        drift: Some(Drift { message: "units: 1 of 2".into(), mending: true, since_unix_ms: 5, age_ms: 6 }),
        retry: Some(Retry { attempts: 2, in_ms: 4_000 }),
    };
    let next = Some("App/web".parse().unwrap());
    check(
        "bundle-status-response",
        &BundleStatusResponse { summary: summary(), workloads: vec![workload], next },
    );
    let room = Capacity { total: 4_000, reserved: 500, used: Some(120), floor: 250 };
    check(
        "capacity-response",
        &CapacityResponse {
            cpu_millis: room,
            memory_bytes: room,
            disk_bytes: Capacity { used: None, ..room },
            bundles: 2,
            workloads: 6_000,
        },
    );
    let address = AddressInUse {
        address: "127.0.0.1".into(),
        port: 8080,
        protocol: "tcp".into(),
        resource: "default/App/web".parse().unwrap(),
        bundle: Some("shop".parse().unwrap()),
        unit: Some("web-1".into()),
    };
    check("addresses-response", &AddressesResponse { addresses: vec![address] });
}

#[test]
fn jobs() {
    let job = Job {
        id: job_id(),
        kind: JobKind::Put,
        state: JobState::Failed,
        bundle: Some("shop".parse().unwrap()),
        version: Some(3),
        request: Some("golden-1".parse().unwrap()),
        reason: Some("because".into()),
        accepted_unix_ms: 1,
        started_unix_ms: Some(2),
        ended_unix_ms: Some(3),
        records: 1,
        message: Some("1 workload failed".into()),
        errors: BTreeMap::from([("App/web".into(), ItemError::new(Code::Cluster, "port 80 is taken"))]),
    };
    let record = JobRecord {
        seq: 1,
        at_unix_ms: 2,
        state: JobState::Running,
        workload: Some("App/web".parse().unwrap()),
        op: Some(ChangeOp::Add),
        step: Some("start".into()),
        result: Some(ResultState::Error),
        message: Some("port 80 is taken".into()),
    };
    check("job-record", &record);
    check("get-job-response", &GetJobResponse { job, records: vec![record], next: Some(1) });
}

#[test]
fn sessions() {
    let claim = Claim {
        boot: boot(),
        nonce: 7,
        store: store(),
        mode: ClaimMode::Fresh,
        last_epoch: Some(epoch(41)),
        held: None,
        version: "0.1.0".into(),
        runtime: "process".into(),
        calls: vec!["ping".into(), "version".into()],
    };
    check("claim", &claim);
    check(
        "claim-answer",
        &ClaimAnswer {
            outcome: ClaimOutcome::Reserved,
            nonce: 7,
            epoch: Some(epoch(42)),
            holder: None,
            renew_every_ms: Some(2_000),
            hub_unix_ms: 1_700_000_000_000,
            error: None,
        },
    );
    check("ready", &Ready { boot: boot(), epoch: epoch(42), applied: Bytes::from_static(b"digest") });
    let order = SessionOrder {
        order: Order::Kick,
        epoch: epoch(41),
        by: Some(epoch(42)),
        since: None,
        hub_unix_ms: 1,
    };
    check("session-order", &order);
    let go = SessionOrder { order: Order::Go, by: None, since: Some(epoch(40)), ..order };
    check("session-order-go", &go);
    let health = Health { state: HealthState::Stalled, detail: Some("lane web".into()) };
    check("renewal", &Renewal { boot: boot(), epoch: epoch(42), applied: Bytes::new(), health });
    check(
        "renewal-answer",
        &RenewalAnswer { outcome: RenewalOutcome::Renewed, epoch: epoch(42), by: None, hub_unix_ms: 2 },
    );
    check("leaving", &Leaving { boot: boot(), epoch: epoch(42) });
}

#[test]
fn frames() {
    let mut header = Header::new(Kind::Call, Encoding::MessagePack);
    header.epoch = Some(epoch(42));
    header.sequence = 3;
    header.time_left = Some(Duration::from_secs(5));
    header.not_after_unix_ms = Some(1_700_000_005_000);
    header.compressed = true;
    header.total = Some(Total::of(b"body", 9));
    let frame = Frame { header, body: Bytes::from_static(b"body") };
    let bytes = golden("frame-call", &frame.encode());
    assert_eq!(Frame::decode(&bytes.into()), Ok(frame));
}

/// What a peer of the next version might send: more fields, more words.
#[derive(Serialize, Deserialize, Debug, PartialEq)]
struct NewerUnit {
    id: String,
    status: String,
    restarts: u64,
    warmth: f32,
    nested: BTreeMap<String, Vec<u8>>,
}

/// What a peer of an older version sent: less.
#[derive(Serialize, Deserialize, Debug, PartialEq)]
struct OlderUnit {
    id: String,
    status: String,
}

#[test]
fn an_old_reader_reads_new_data() {
    let newer = NewerUnit {
        id: "web-1".into(),
        status: "hibernating".into(),
        restarts: 2,
        warmth: 0.5,
        nested: BTreeMap::from([("a".into(), vec![1])]),
    };
    let unit: Unit = wire::decode(&wire::encode(&newer)).unwrap();
    assert_eq!(unit.status, UnitStatus::Other("hibernating".into()));
    assert_eq!(unit.status.as_str(), "hibernating");
    assert_eq!(unit.restarts, 2);
}

#[test]
fn a_new_reader_reads_old_data() {
    let older = OlderUnit { id: "web-1".into(), status: "started".into() };
    let unit: Unit = wire::decode(&wire::encode(&older)).unwrap();
    assert_eq!(unit.status, UnitStatus::Started);
    assert_eq!((unit.restarts, unit.pid, unit.ports.len()), (0, None, 0));
    // And what the new one writes, the old one reads.
    assert_eq!(wire::decode::<OlderUnit>(&wire::encode(&unit)), Ok(older));
}

#[test]
fn an_old_reader_skips_new_header_extensions() {
    let frame =
        Frame { header: Header::new(Kind::Reply, Encoding::MessagePack), body: Bytes::from_static(b"x") };
    let mut bytes = frame.encode().to_vec();
    // Extension 200 of three bytes, before the body.
    bytes.splice(28..30, [0, 5, 200, 3, 1, 2, 3]);
    assert_eq!(Frame::decode(&bytes.into()), Ok(frame));
}
