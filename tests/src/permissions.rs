//! A nats-server's users with exactly the rights that the protocol gives to each: one for the hub, one per instance.

use std::fmt::Write as _;

use towline_protocol::InstanceId;
use towline_protocol::subject::Root;

use crate::chain::instance;
use crate::nats::NatsServer;

/// The user with every right, for a test to look on.
pub const OBSERVER: &str = "observer";

/// The hub's user.
pub const HUB: &str = "hub";

/// The user of an instance's agent.
#[must_use]
pub fn user(instance: &InstanceId) -> String {
    format!("agent-{}-{}", instance.tenant, instance.name)
}

/// Where such a user finds the server.
#[must_use]
pub fn url(server: &NatsServer, user: &str) -> String {
    format!("nats://{user}:{user}@{}", server.address())
}

/// Users for a hub, for these instances, and for an observer; each has its own name as password.
#[must_use]
pub fn users(instances: &[&str]) -> String {
    let root = Root::default();
    let mut text = format!(
        "authorization {{ users: [\n\
         {{ user: {OBSERVER}, password: {OBSERVER} }}\n\
         {{ user: {HUB}, password: {HUB}, permissions: {{\n\
         publish: [\"tl.c.>\", \"tl.k.>\", \"tl.i.>\", \"tl.b.>\"]\n\
         subscribe: [\"tl.r.>\", \"tl.e.>\", \"tl.q.>\"] }} }}\n"
    );
    for name in instances {
        let instance = instance(name);
        let user = user(&instance);
        let (publish, subscribe) = (root.agent_may_publish(&instance), root.agent_may_subscribe(&instance));
        // A list of subjects is printed as NATS reads one.
        let entry = format!(
            "{{ user: {user}, password: {user}, permissions: {{ publish: {publish:?}, subscribe: {subscribe:?} }} }}"
        );
        writeln!(text, "{entry}").expect("a String takes all that is written to it");
    }
    text + "] }\n"
}
