use towline_protocol::subject::{Root, Subject};

/// The subject of a message from the bus: one that is ours has one spelling, and the quick readers of one instance say of
/// it what the parser says.
pub fn subject(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let root = Root::default();
    match root.parse(text) {
        Ok(subject) => {
            assert_eq!(root.subject(&subject), text);
            quick_readers_agree(&root, &subject, text);
        }
        Err(error) => {
            assert!(!error.reason.is_empty(), "{text:?} is refused without a word");
            // They see only what the bus delivered under their own prefix; what the parser refuses, they refuse.
            if let Some(instance) = instance_of(text) {
                let own = root.of_instance(&instance);
                assert_eq!((own.call(text), own.reply(text)), (None, None), "{error}");
            }
        }
    }
}

fn quick_readers_agree(root: &Root, subject: &Subject, text: &str) {
    let (instance, call, reply) = match subject {
        Subject::Call { instance, epoch, method } => (instance, Some((*epoch, method.as_str())), None),
        Subject::Reply { instance, attempt, .. } => (instance, None, Some(*attempt)),
        Subject::Control { instance, .. }
        | Subject::Session { instance, .. }
        | Subject::Heartbeat { instance }
        | Subject::Ask { instance, .. }
        | Subject::Answer { instance, .. } => (instance, None, None),
        Subject::Broadcast => return,
    };
    let own = root.of_instance(instance);
    assert_eq!((own.call(text), own.reply(text)), (call, reply));
    if reply.is_some() {
        assert_eq!(Root::attempt_of(text), reply);
    }
}

fn instance_of(text: &str) -> Option<towline_protocol::InstanceId> {
    let mut tokens = text.split('.').skip(2);
    format!("{}/{}", tokens.next()?, tokens.next()?).parse().ok()
}
