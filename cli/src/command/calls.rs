//! Calls that only read.

use towline_bus::clock;
use towline_hub::api::types::{AddressList, CapacityInfo, Lookup, Pong, ServiceList, Version};
use towline_protocol::{InstanceId, Method};

use super::Session;
use crate::args::{At, ServicesArgs};
use crate::client::{Reply, Request};
use crate::failure::Failure;
use crate::ids::AppId;
use crate::show::{addresses_table, capacity_table, services_table};

/// What `instance` tells at a path of its own.
async fn look(
    session: &Session,
    instance: &InstanceId,
    path: &str,
    method: Method,
) -> Result<Reply, Failure> {
    let request = Request::get(Request::path_of(instance, path)).within(method.default_time());
    Ok(session.client.fetch(&request).await?)
}

pub(super) async fn ping(session: &Session, at: At) -> Result<(), Failure> {
    let instance = session.target.instance(at)?;
    let reply = look(session, &instance, "/ping", Method::Ping).await?;
    session.screen.answer(&reply, |reply| {
        let microseconds = reply.read::<Pong>()?.round_trip_us;
        Ok(format!("{instance} answered in {}.{:03} ms", microseconds / 1_000, microseconds % 1_000))
    })
}

pub(super) async fn version(session: &Session, at: At) -> Result<(), Failure> {
    let instance = session.target.instance(at)?;
    let reply = look(session, &instance, "/version", Method::Version).await?;
    session.screen.answer(&reply, |reply| Ok(reply.read::<Version>()?.version))
}

pub(super) async fn services(session: &Session, args: ServicesArgs) -> Result<(), Failure> {
    let ServicesArgs { at, ids, namespace, ignore } = args;
    let instance = session.target.instance(at)?;
    let request = if ids.is_empty() {
        let ignored = ignore.iter().map(AppId::as_str);
        let all = Request::get(Request::path_of(&instance, "/services")).with_some("namespace", namespace);
        ignored.fold(all, |request, id| request.with("ignore", id)).within(Method::AllServices.default_time())
    } else {
        let ids = ids.iter().map(|id| id.as_resource().clone()).collect();
        Request::post(Request::path_of(&instance, "/services:lookup"), &Lookup { ids })
            .within(Method::SomeServices.default_time())
    };
    let reply = session.client.fetch(&request).await?;
    let style = session.screen.style();
    session
        .screen
        .answer(&reply, |reply| Ok(services_table(&reply.read::<ServiceList>()?, clock::unix_ms(), style)))
}

pub(super) async fn capacity(session: &Session, at: At) -> Result<(), Failure> {
    let instance = session.target.instance(at)?;
    let reply = look(session, &instance, "/capacity", Method::Capacity).await?;
    let style = session.screen.style();
    session.screen.answer(&reply, |reply| Ok(capacity_table(&reply.read::<CapacityInfo>()?, style)))
}

pub(super) async fn addresses(session: &Session, at: At) -> Result<(), Failure> {
    let instance = session.target.instance(at)?;
    let reply = look(session, &instance, "/addresses", Method::Addresses).await?;
    let style = session.screen.style();
    session.screen.answer(&reply, |reply| Ok(addresses_table(&reply.read::<AddressList>()?, style)))
}

pub(super) async fn export(session: &Session, at: At) -> Result<(), Failure> {
    let instance = session.target.instance(at)?;
    let request = Request::get(Request::path_of(&instance, "/export")).within(Method::Export.default_time());
    session.client.pour(&request, |piece| session.screen.write(piece)).await
}
