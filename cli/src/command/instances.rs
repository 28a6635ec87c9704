//! Which instances there are, and how each stands.

use std::collections::BTreeMap;

use towline_hub::api::types::{CreateInstance, Instance, InstanceList};

use super::Session;
use crate::args::{InstanceCommand, InstancesArgs};
use crate::client::{Reply, Request};
use crate::failure::{Exit, Failure};
use crate::show::{instance_table, instances_table};

pub(super) async fn list(session: &Session, args: InstancesArgs) -> Result<(), Failure> {
    let request =
        Request::get("/v1/instances").with_some("tenant", args.tenant).with_some("state", args.state);
    let reply = session.client.fetch(&request).await?;
    let style = session.screen.style();
    session.screen.answer(&reply, |reply| Ok(instances_table(&reply.read::<InstanceList>()?, style)))
}

pub(super) async fn one(session: &Session, command: InstanceCommand) -> Result<(), Failure> {
    let Session { client, screen, .. } = session;
    let table = |reply: &Reply| Ok(instance_table(&reply.read::<Instance>()?, screen.style()));
    match command {
        InstanceCommand::Create { name, labels } => {
            let labels: BTreeMap<String, String> = labels.into_iter().collect();
            let body = CreateInstance { id: name.to_string(), labels };
            let reply = client.fetch(&Request::post("/v1/instances", &body)).await?;
            screen.answer(&reply, table)
        }
        InstanceCommand::Show { name } => {
            let reply = client.fetch(&Request::get(Request::path_of(&name, ""))).await?;
            screen.answer(&reply, table)
        }
        InstanceCommand::Delete { name, force } => {
            let request =
                Request::delete(Request::path_of(&name, "")).with_some("force", force.then_some("true"));
            client.fetch(&request).await.map_err(|error| in_our_words(error.into()))?;
            // The API answers without a body; a program sees the exit code.
            if screen.is_json() { Ok(()) } else { screen.line(&format!("{name} is off the record")) }
        }
    }
}

/// The hub speaks of the parameters of its API.
fn in_our_words(failure: Failure) -> Failure {
    match failure.exit() {
        Exit::Conflict => failure
            .with_help("stop its agent first, which would put it on record again; or repeat with --force"),
        _ => failure,
    }
}
