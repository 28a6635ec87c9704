//! Bundles as they stand. What comes in pages is fetched to its end, and shown as one.

use serde::Serialize;
use serde::de::DeserializeOwned;
use towline_bus::clock;
use towline_hub::api::types::{BundleContent, BundleList, BundleRecords, BundleStanding};
use towline_protocol::Method;
use towline_protocol::limits::PAGE_ITEMS_MAX;

use super::Session;
use super::bundles::path;
use crate::args::{At, BundleArgs, ChangesArgs, GetArgs};
use crate::client::Request;
use crate::failure::Failure;
use crate::show::{bundle_table, bundles_table, changes_table};

pub(super) async fn get(session: &Session, args: GetArgs) -> Result<(), Failure> {
    let GetArgs { at: BundleArgs { instance, bundle }, at_version } = args;
    let request = Request::get(path(&instance, &bundle, ""))
        .with_some("version", at_version.map(|version| version.to_string()))
        .within(Method::GetBundle.default_time());
    let reply = session.client.fetch(&request).await?;
    if session.screen.is_json() {
        return session.screen.answer(&reply, |_| Ok(String::new()));
    }
    // Byte for byte: what is put again must have the same digest.
    session.screen.write(&reply.read::<BundleContent>()?.content.0)
}

pub(super) async fn list(session: &Session, at: At) -> Result<(), Failure> {
    let instance = session.target.instance(at)?;
    let request = Request::get(Request::path_of(&instance, "/bundles"));
    let list: BundleList = whole(session, &request, Method::ListBundles, 0).await?;
    let style = session.screen.style();
    session.screen.item(&list, |list| bundles_table(list, clock::unix_ms(), style))
}

pub(super) async fn changes(session: &Session, args: ChangesArgs) -> Result<(), Failure> {
    let ChangesArgs { at: BundleArgs { instance, bundle }, after } = args;
    let request = Request::get(path(&instance, &bundle, "/changes"));
    let records: BundleRecords = whole(session, &request, Method::BundleChanges, after).await?;
    let style = session.screen.style();
    session.screen.item(&records, |records| changes_table(records, style))
}

pub(super) async fn status(session: &Session, args: BundleArgs) -> Result<(), Failure> {
    let BundleArgs { instance, bundle } = args;
    let request = Request::get(path(&instance, &bundle, "/status"));
    let standing: BundleStanding = whole(session, &request, Method::BundleStatus, 0).await?;
    let style = session.screen.style();
    session.screen.item(&standing, |standing| bundle_table(standing, clock::unix_ms(), style))
}

/// A page of something.
trait Page: DeserializeOwned + Serialize {
    /// The `after` of the page that follows, if one does; forgets it.
    fn take_next(&mut self) -> Option<String>;
    /// Takes the items of the page that follows.
    fn append(&mut self, following: Self);
}

macro_rules! page {
    ($type:ty, $items:ident) => {
        impl Page for $type {
            fn take_next(&mut self) -> Option<String> {
                self.next.take().map(|next| next.to_string())
            }

            fn append(&mut self, following: Self) {
                self.$items.extend(following.$items);
            }
        }
    };
}

page!(BundleList, bundles);
page!(BundleRecords, changes);
page!(BundleStanding, workloads);

/// All pages, as one. An agent bounds what it keeps, and with it their number.
async fn whole<P: Page>(
    session: &Session,
    first: &Request,
    method: Method,
    after: u64,
) -> Result<P, Failure> {
    let first = first.clone().with("limit", PAGE_ITEMS_MAX.to_string()).within(method.default_time());
    let begin = first.clone().with_some("after", (after > 0).then(|| after.to_string()));
    let mut all: P = session.client.fetch(&begin).await?.read()?;
    let mut next = all.take_next();
    while let Some(after) = next {
        let mut following: P = session.client.fetch(&first.clone().with("after", after)).await?.read()?;
        next = following.take_next();
        all.append(following);
    }
    Ok(all)
}
