use towline_protocol::subject::MethodName;
use towline_protocol::{
    AttemptId, BootId, Epoch, InstanceId, Name, ReplicaId, RequestId, ResourceId, StoreId,
};

use crate::text_reads_back;

/// A name or a number that somebody typed, or that stands in a path or a subject: it has one spelling, and a name that
/// becomes a token of a subject is one token of plain characters.
pub fn id(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let one_token = |printed: &str| {
        assert!(printed.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'), "{printed:?}");
        assert_eq!(printed, text);
    };
    text_reads_back::<Name>(text).inspect(|name| one_token(name.as_str()));
    text_reads_back::<Epoch>(text).inspect(|epoch| one_token(&epoch.to_string()));
    text_reads_back::<AttemptId>(text).inspect(|attempt| one_token(&attempt.to_string()));
    text_reads_back::<BootId>(text).inspect(|boot| one_token(&boot.to_string()));
    text_reads_back::<StoreId>(text).inspect(|store| one_token(&store.to_string()));
    text_reads_back::<ReplicaId>(text).inspect(|replica| one_token(&replica.to_string()));
    text_reads_back::<RequestId>(text).inspect(|request| one_token(request.as_str()));
    text_reads_back::<ResourceId>(text).inspect(|resource| assert_eq!(resource.as_str(), text));
    text.parse::<MethodName>().ok().inspect(|method| one_token(method.as_str()));
    if let Some(instance) = text_reads_back::<InstanceId>(text) {
        let printed = instance.to_string();
        let bare = printed.strip_prefix("default/");
        assert!(printed == text || bare == Some(text), "{text:?} is printed as {printed:?}");
    }
}
