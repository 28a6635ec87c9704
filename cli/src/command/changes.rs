//! Calls that change things. All input is read and checked before anything is sent; each request bears a key, so that it
//! can be repeated without being done twice.

use std::io::IsTerminal as _;

use towline_hub::api::types::{Apply, DefinitionInfo, Sync};
use towline_protocol::Method;

use super::Session;
use crate::actions::actions;
use crate::args::{ApplyArgs, ImportArgs, SyncArgs};
use crate::client::{Attempt, Request};
use crate::failure::{Exit, Failure};
use crate::input::{Input, ReadInputError, Resource, Source, read_sources, resources};

impl From<ReadInputError> for Failure {
    fn from(error: ReadInputError) -> Self {
        match error {
            ReadInputError::Malformed { complaints } => {
                Failure::error("the input is wrong; nothing was sent").with_details([complaints])
            }
            other => Failure::error(other.to_string()),
        }
    }
}

pub(super) async fn apply(session: &Session, args: ApplyArgs) -> Result<(), Failure> {
    let sources = read_sources(&args.files)?;
    apply_all(session, args, &sources).await
}

/// Applies what was exported: where nothing was, that is none.
pub(super) async fn import(session: &Session, args: ImportArgs) -> Result<(), Failure> {
    let ImportArgs { at, mut files, is_async, retry } = args;
    if files.is_empty() {
        // Whoever typed this and nothing before it would wait for us, as we for him.
        if std::io::stdin().is_terminal() {
            let failure = Failure::new(Exit::Usage, "found no input: name a file with -f, or pipe an export");
            return Err(failure.with_help("towline export I | towline import I"));
        }
        files.push(Input::Stdin);
    }
    let sources = read_sources(&files)?;
    if sources.iter().all(|source| source.bytes.trim_ascii().is_empty()) {
        session.screen.note("nothing to import");
        return Ok(());
    }
    apply_all(session, ApplyArgs { at, files, is_async, retry }, &sources).await
}

async fn apply_all(session: &Session, args: ApplyArgs, sources: &[Source]) -> Result<(), Failure> {
    let ApplyArgs { at, files: _, is_async, retry } = args;
    let instance = session.target.instance(at)?;
    let found = resources(sources)?;
    let attempt = Attempt::new(&instance, retry.key);
    let body = Apply { definitions: found.iter().map(|resource| definition(resource, is_async)).collect() };
    let request = Request::post(Request::path_of(&instance, "/apply"), &body)
        .within(Method::Apply.default_time())
        .changing(attempt);
    let progress =
        session.screen.progress(format!("applying {} to {instance}", count(found.len(), "resource")));
    let reply = session.client.fetch(&request).await;
    drop(progress);
    let reply = reply.map_err(|error| Failure::from(error).with_origins(|id| origin_of(&found, id)))?;
    session.screen.answer(&reply, |_| {
        let done = if is_async { "accepted" } else { "applied" };
        Ok(found.iter().map(|resource| format!("{done}  {}\n", resource.id)).collect())
    })
}

/// A resource as the API takes it.
pub(crate) fn definition(resource: &Resource, is_async: bool) -> DefinitionInfo {
    DefinitionInfo { id: resource.id.clone(), definition: resource.bytes.clone().into(), is_async }
}

/// Where the resource of this id was written.
pub(crate) fn origin_of(resources: &[Resource], id: &str) -> Option<String> {
    resources.iter().find(|resource| resource.id.as_str() == id).map(|resource| resource.origin.to_string())
}

/// `1 resource`, `2 resources`.
pub(crate) fn count(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

pub(super) async fn sync(session: &Session, args: SyncArgs) -> Result<(), Failure> {
    let SyncArgs { at, files, retry } = args;
    let instance = session.target.instance(at)?;
    let found = actions(&read_sources(&files)?)?;
    let body = Sync { actions: found.iter().map(|action| action.info.clone()).collect() };
    let attempt = Attempt::new(&instance, retry.key);
    let request = Request::post(Request::path_of(&instance, "/sync"), &body)
        .within(Method::Sync.default_time())
        .changing(attempt);
    let progress =
        session.screen.progress(format!("running {} on {instance}", count(body.actions.len(), "action")));
    let reply = session.client.fetch(&request).await;
    drop(progress);
    let place_of = |id: &str| {
        // Errors come by id: of several actions on one, any may be meant.
        let places =
            found.iter().filter(|action| action.info.id.as_str() == id).map(|action| action.place.as_str());
        Some(places.collect::<Vec<_>>().join(", ")).filter(|places| !places.is_empty())
    };
    let reply = reply.map_err(|error| Failure::from(error).with_origins(place_of))?;
    session.screen.answer(&reply, |_| {
        let lines = body.actions.iter().map(|action| {
            let done = match (&action.delete, &action.apply) {
                (Some(_), Some(_)) => "replaced",
                (Some(_), None) => "deleted",
                (None, _) => "applied",
            };
            format!("{done}  {}\n", action.id)
        });
        Ok(lines.collect())
    })
}
