//! Property tests: whatever this crate prints, it reads back the same; and hostile bytes end in an error, not a panic.

use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use towline_protocol::frame::{Encoding, Frame, Header, Kind, Total, TraceContext};
use towline_protocol::subject::{MethodName, Root, Subject, Verb};
use towline_protocol::{
    AttemptId, BootId, CallError, ContentDigest, Epoch, InstanceId, JobId, Name, ReplicaId, RequestId,
    ResourceId, WorkloadId, wire,
};
use towline_protocol::{Code, Effect, ItemError, bundle, job, limits, platform};

fn name() -> impl Strategy<Value = Name> {
    "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?".prop_map(|text| text.parse().expect("the pattern is the rule"))
}

fn instance() -> impl Strategy<Value = InstanceId> {
    (name(), name()).prop_map(|(tenant, name)| InstanceId { tenant, name })
}

fn epoch() -> impl Strategy<Value = Epoch> {
    (1..=limits::EPOCH_MAX).prop_map(|n| Epoch::new(n).expect("in range"))
}

fn uuid() -> impl Strategy<Value = uuid::Uuid> {
    any::<u128>().prop_map(uuid::Uuid::from_u128)
}

fn subject() -> impl Strategy<Value = Subject> {
    let verb = prop_oneof![Just(Verb::Claim), Just(Verb::Ready), Just(Verb::StandDown), Just(Verb::Goodbye)];
    let method = "[a-z_]{1,32}".prop_map(|text| text.parse::<MethodName>().expect("the pattern is the rule"));
    prop_oneof![
        (instance(), epoch(), method).prop_map(|(instance, epoch, method)| Subject::Call {
            instance,
            epoch,
            method
        }),
        (instance(), epoch(), any::<u64>()).prop_map(|(instance, epoch, n)| Subject::Control {
            instance,
            epoch,
            attempt: AttemptId(n)
        }),
        (instance(), epoch()).prop_map(|(instance, epoch)| Subject::Session { instance, epoch }),
        (instance(), uuid(), any::<u64>()).prop_map(|(instance, replica, n)| Subject::Reply {
            instance,
            replica: ReplicaId::new(replica),
            attempt: AttemptId(n)
        }),
        instance().prop_map(|instance| Subject::Heartbeat { instance }),
        (instance(), verb).prop_map(|(instance, verb)| Subject::Ask { instance, verb }),
        (instance(), uuid(), any::<u32>()).prop_map(|(instance, boot, number)| Subject::Answer {
            instance,
            boot: BootId::new(boot),
            number
        }),
        Just(Subject::Broadcast),
    ]
}

prop_compose! {
    fn header()(
        kind in 0_u8..=20,
        compressed: bool,
        encoding in prop_oneof![Just(Encoding::Empty), Just(Encoding::MessagePack), Just(Encoding::Raw), Just(Encoding::Unknown(9))],
        epoch in proptest::option::of(epoch()),
        sequence: u32,
        time_left in proptest::option::of(1_u64..=u64::from(u32::MAX)),
        not_after_unix_ms in proptest::option::of(1_u64..),
        trace in proptest::option::of(any::<[u8; 26]>()),
        total in proptest::option::of((any::<u64>(), any::<u64>(), any::<[u8; 32]>())),
    ) -> Header {
        // A kind that is known has one byte only: what is read from a byte is what is written to it.
        let bare = Frame::bare(Header::new(Kind::Unknown(kind), encoding)).encode();
        let kind = Frame::decode(&bare).expect("a bare frame").header.kind;
        Header {
            kind,
            compressed,
            encoding,
            epoch,
            sequence,
            time_left: time_left.map(Duration::from_millis),
            not_after_unix_ms,
            trace: trace.map(TraceContext),
            total: total.map(|(sent_bytes, full_bytes, digest)| Total { sent_bytes, full_bytes, digest }),
        }
    }
}

fn word() -> impl Strategy<Value = String> {
    "[a-z_]{1,40}"
}

prop_compose! {
    fn call_error()(
        code in word(),
        effect in word(),
        message: String,
        help in proptest::option::of(any::<String>()),
        errors in proptest::collection::btree_map(any::<String>(), (word(), any::<String>()), 0..4),
    ) -> CallError {
        let item = |(code, message): (String, String)| ItemError::new(Code::from_word(&code), message);
        CallError {
            code: Code::from_word(&code),
            effect: Effect::from_word(&effect),
            message,
            help,
            errors: errors.into_iter().map(|(id, error)| (id, item(error))).collect(),
        }
    }
}

proptest! {
    #[test]
    fn subjects_read_back(subject in subject()) {
        let root = Root::default();
        let text = root.subject(&subject);
        prop_assert_eq!(root.parse(&text), Ok(subject), "{}", text);
    }

    #[test]
    fn an_instances_own_reader_agrees(subject in subject(), other in instance()) {
        let root = Root::default();
        let text = root.subject(&subject);
        let instance = match &subject {
            Subject::Call { instance, .. } | Subject::Reply { instance, .. } => instance.clone(),
            _ => other.clone(),
        };
        let own = root.of_instance(&instance);
        let call = own.call(&text).map(|(epoch, method)| (epoch, method.to_owned()));
        match &subject {
            Subject::Call { epoch, method, .. } => {
                prop_assert_eq!(call, Some((*epoch, method.as_str().to_owned())));
                prop_assert_eq!(own.reply(&text), None);
            }
            Subject::Reply { attempt, .. } => {
                prop_assert_eq!(own.reply(&text), Some(*attempt));
                prop_assert_eq!(Root::attempt_of(&text), Some(*attempt));
                prop_assert_eq!(call, None);
            }
            _ => prop_assert_eq!((call, own.reply(&text)), (None, None)),
        }
        if other != instance {
            prop_assert_eq!((root.of_instance(&other).call(&text), root.of_instance(&other).reply(&text)), (None, None));
        }
    }

    #[test]
    fn a_subject_has_one_spelling(text in "tl\\.[a-z]\\.[a-z0-9.*>-]{0,60}") {
        let root = Root::default();
        if let Ok(subject) = root.parse(&text) {
            prop_assert_eq!(root.subject(&subject), text);
        }
    }

    #[test]
    fn instance_ids_read_back(id in instance()) {
        prop_assert_eq!(id.to_string().parse(), Ok(id));
    }

    #[test]
    fn epochs_read_back(id in epoch()) {
        prop_assert_eq!(id.to_string().parse(), Ok(id));
        prop_assert_eq!(wire::decode(&wire::encode(&id)), Ok(id));
    }

    #[test]
    fn random_ids_read_back(n in uuid()) {
        prop_assert_eq!(BootId::new(n).to_string().parse(), Ok(BootId::new(n)));
        prop_assert_eq!(ReplicaId::new(n).to_string().parse(), Ok(ReplicaId::new(n)));
    }

    #[test]
    fn free_ids_read_back(request in "[A-Za-z0-9_-]{1,64}", resource in "[^\\p{Cc}]{1,60}") {
        prop_assert_eq!(request.parse::<RequestId>().unwrap().to_string(), request);
        prop_assert_eq!(resource.parse::<ResourceId>().unwrap().to_string(), resource);
    }

    #[test]
    fn ids_of_bundles_read_back(n in uuid(), kind in "[A-Za-z]{1,20}", own in name(), content: Vec<u8>) {
        prop_assert_eq!(JobId::new(n).to_string().parse(), Ok(JobId::new(n)));
        let workload: WorkloadId = format!("{kind}/{own}").parse().unwrap();
        prop_assert_eq!((workload.kind(), workload.name()), (kind.as_str(), own.as_str()));
        let digest = ContentDigest::of(&content);
        prop_assert_eq!(digest.to_string().parse(), Ok(digest));
    }

    #[test]
    fn ids_never_panic(text: String) {
        let _ = text.parse::<InstanceId>();
        let _ = text.parse::<Epoch>();
        let _ = text.parse::<BootId>();
        let _ = text.parse::<RequestId>();
        let _ = text.parse::<ResourceId>();
        let _ = text.parse::<WorkloadId>();
        let _ = text.parse::<JobId>();
        let _ = text.parse::<ContentDigest>();
        let _ = Root::default().parse(&text);
    }

    #[test]
    fn frames_read_back(header in header(), body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let frame = Frame { header, body: body.into() };
        prop_assert_eq!(Frame::decode(&frame.encode()), Ok(frame));
    }

    #[test]
    fn hostile_frames_end_in_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = Frame::decode(&Bytes::from(bytes.clone()));
        let mut ours = bytes;
        if let Some(first) = ours.first_mut() {
            *first = 1;
        }
        let _ = Frame::decode(&Bytes::from(ours));
    }

    #[test]
    fn errors_read_back(error in call_error()) {
        prop_assert_eq!(wire::decode(&wire::encode(&error)), Ok(error));
    }

    #[test]
    fn definitions_read_back(id in "[^\\p{Cc}]{1,60}", definition in proptest::collection::vec(any::<u8>(), 0..200), is_async: bool) {
        let sent = platform::Definition { id: id.parse().unwrap(), definition: definition.into(), is_async };
        prop_assert_eq!(wire::decode(&wire::encode(&sent)), Ok(sent));
    }

    #[test]
    fn hostile_bodies_end_in_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = wire::decode::<CallError>(&bytes);
        let _ = wire::decode::<platform::ServicesResponse>(&bytes);
        let _ = wire::decode::<platform::SyncRequest>(&bytes);
        let _ = wire::decode::<bundle::PutBundleRequest>(&bytes);
        let _ = wire::decode::<bundle::BundleStatusResponse>(&bytes);
        let _ = wire::decode::<job::GetJobResponse>(&bytes);
        let _ = wire::decode::<towline_protocol::session::Claim>(&bytes);
    }
}
