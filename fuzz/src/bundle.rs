use std::collections::BTreeSet;

use bytes::Bytes;
use towline_agent::doors::{self, Member};
use towline_agent::manifest::split;

/// A bundle's content, with every kind of workload: each is its document, verbatim, and starts after what it depends on.
/// What is refused, is refused with a sentence.
pub fn bundle(data: &[u8]) {
    let name = "shop".parse().expect("a name");
    let content = Bytes::copy_from_slice(data);
    let members = match doors::bundle(&name, &content) {
        Ok(members) => members,
        Err(error) => return assert!(!error.message.trim().is_empty(), "refused without a word"),
    };
    let documents: Vec<_> = split(data).into_iter().map(|document| document.bytes).collect();
    let mut started = BTreeSet::new();
    for Member { id, resource, depends_on, bytes, digest } in &members {
        assert!(documents.contains(&&bytes[..]), "{id} is no document of the content");
        assert_eq!(*digest, towline_protocol::ContentDigest::of(bytes));
        assert!(resource.as_str().ends_with(&format!("/{id}")), "{id} defines {resource}");
        assert!(depends_on.iter().all(|needed| started.contains(needed)), "{id} starts too early");
        assert!(started.insert(id.clone()), "{id} twice");
    }
    // The agent keeps the content, and reads it again when it starts.
    assert_eq!(doors::bundle(&name, &content).as_deref(), Ok(&members[..]));
}
