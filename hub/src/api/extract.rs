//! What the handlers take out of a request: ids, parameters, bodies. What is wrong with one is told at the door, with
//! where it stands and what is allowed.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use bytes::Bytes;
use futures::StreamExt as _;
use serde::de::DeserializeOwned;
use tokio::sync::OwnedSemaphorePermit;
use towline_protocol::{Code, InstanceId, RequestId, limits as wire_limits};

use super::problem::{Refusal, door};
use super::{Api, BODY_UNIT};
use crate::limits;
use crate::time::parse_duration;

/// The instance that the path names.
pub(super) struct AtInstance(pub(super) InstanceId);

impl FromRequestParts<Arc<Api>> for AtInstance {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Refusal> {
        let Path((tenant, name)) =
            Path::<(String, String)>::from_request_parts(parts, api).await.map_err(|rejection| {
                Refusal::malformed(format!("the path cannot be read: {}", rejection.body_text()))
            })?;
        format!("{tenant}/{name}").parse().map(Self).map_err(|error| Refusal::malformed(format!("{error}")))
    }
}

/// What the path names below an instance: a bundle, or a job.
pub(super) struct Below<T> {
    pub(super) instance: InstanceId,
    pub(super) what: T,
}

impl<T> FromRequestParts<Arc<Api>> for Below<T>
where
    T: FromStr<Err: std::fmt::Display> + Send,
{
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Refusal> {
        let Path((tenant, name, what)) =
            Path::<(String, String, String)>::from_request_parts(parts, api).await.map_err(|rejection| {
                Refusal::malformed(format!("the path cannot be read: {}", rejection.body_text()))
            })?;
        let wrong = |error: &dyn std::fmt::Display| Refusal::malformed(error.to_string());
        let instance = format!("{tenant}/{name}").parse().map_err(|error| wrong(&error))?;
        Ok(Self { instance, what: what.parse().map_err(|error| wrong(&error))? })
    }
}

/// The parameters of the query, in order.
pub(super) struct Params(Vec<(String, String)>);

impl FromRequestParts<Arc<Api>> for Params {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _api: &Arc<Api>) -> Result<Self, Refusal> {
        Self::of(&parts.uri)
    }
}

impl Params {
    pub(super) fn of(uri: &Uri) -> Result<Self, Refusal> {
        let Query(pairs) = Query::try_from_uri(uri).map_err(|rejection| {
            Refusal::malformed(format!("the query cannot be read: {}", rejection.body_text()))
        })?;
        Ok(Self(pairs))
    }

    /// Refuses parameters that the route does not have: a misspelled one would be ignored otherwise, and with it what
    /// its author meant.
    pub(super) fn only(self, known: &[&str]) -> Result<Self, Refusal> {
        match self.0.iter().find(|(name, _)| !known.contains(&name.as_str())) {
            None => Ok(self),
            Some((name, _)) => {
                let name: String = name.chars().take(80).collect();
                let allowed = match known {
                    [] => "it takes none".to_owned(),
                    known => format!("it takes `{}`", known.join("`, `")),
                };
                Err(Refusal::malformed(format!("this route has no parameter `{name}`: {allowed}")))
            }
        }
    }

    /// A parameter that may stand once. What is empty is refused: leaving it out says the same more clearly.
    pub(super) fn one(&self, name: &str) -> Result<Option<&str>, Refusal> {
        let mut values = self.0.iter().filter(|(found, _)| found == name).map(|(_, value)| value.as_str());
        match (values.next(), values.next()) {
            (None, _) => Ok(None),
            (Some(""), _) => {
                Err(Refusal::malformed(format!("the parameter `{name}` is empty: leave it out")))
            }
            (Some(value), None) => Ok(Some(value)),
            (Some(_), Some(_)) => {
                Err(Refusal::malformed(format!("the parameter `{name}` stands more than once")))
            }
        }
    }

    /// A parameter that may stand once, parsed.
    pub(super) fn parsed<T, E: std::fmt::Display>(
        &self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<Option<T>, Refusal> {
        let wrong = |error| Refusal::malformed(format!("the parameter `{name}` is wrong: {error}"));
        self.one(name)?.map(|text| parse(text).map_err(wrong)).transpose()
    }

    /// A parameter that is `true` or `false`.
    pub(super) fn flag(&self, name: &str) -> Result<Option<bool>, Refusal> {
        self.parsed(name, |text| match text {
            "true" => Ok(true),
            "false" => Ok(false),
            other => {
                Err(format!("`{}` is neither `true` nor `false`", other.chars().take(80).collect::<String>()))
            }
        })
    }

    /// A parameter that may stand more than once, or once with commas.
    pub(super) fn many<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let values = self.0.iter().filter(move |(found, _)| found == name);
        values.flat_map(|(_, value)| value.split(',')).filter(|value| !value.is_empty())
    }
}

/// What a caller says about a call beside its arguments.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    /// Its `Idempotency-Key`, if it chose one.
    pub(super) id: Option<RequestId>,
    /// How long it waits, if it said so.
    pub(super) time: Option<Duration>,
}

const TIME_HEADER: &str = "towline-timeout";
const KEY_HEADER: &str = "idempotency-key";

impl Asked {
    pub(super) fn from(headers: &HeaderMap, params: &Params) -> Result<Self, Refusal> {
        let id = text_header(headers, KEY_HEADER)?.map(str::parse).transpose();
        let id = id
            .map_err(|error| Refusal::malformed(format!("the header `Idempotency-Key` is wrong: {error}")))?;
        let time = match params.one("timeout")? {
            Some(text) => Some((text, "parameter `timeout`")),
            None => text_header(headers, TIME_HEADER)?.map(|text| (text, "header `Towline-Timeout`")),
        };
        let time = time.map(|(text, place)| parse_time(text, place)).transpose()?;
        Ok(Self { id, time })
    }
}

fn parse_time(text: &str, place: &str) -> Result<Duration, Refusal> {
    let time =
        parse_duration(text).map_err(|error| Refusal::malformed(format!("the {place} is wrong: {error}")))?;
    if time > wire_limits::CALL_TIME_MAX {
        let detail = format!("the {place} is {text}, and the longest allowed call takes 20m");
        return Err(Refusal::malformed(detail));
    }
    Ok(time)
}

pub(super) fn text_header<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Refusal> {
    let mut values = headers.get_all(name).iter();
    let (first, second) = (values.next(), values.next());
    if second.is_some() {
        return Err(Refusal::malformed(format!("the header `{name}` stands more than once")));
    }
    let text = first.map(|value| value.to_str()).transpose();
    text.map_err(|_| Refusal::malformed(format!("the header `{name}` is not visible ASCII")))
}

/// A body in JSON of at most `MAX` bytes. Its memory is accounted for until the value is dropped.
pub(super) struct Body<T, const MAX: usize> {
    pub(super) value: T,
    /// Held as long as the value is in use.
    pub(super) memory: OwnedSemaphorePermit,
}

impl<T: DeserializeOwned + Send + 'static, const MAX: usize> FromRequest<Arc<Api>> for Body<T, MAX> {
    type Rejection = Refusal;

    async fn from_request(request: Request, api: &Arc<Api>) -> Result<Self, Refusal> {
        require_json(request.headers())?;
        let (bytes, memory) = held_body(request, api, MAX).await?;
        let value = parse_away(bytes).await?;
        Ok(Self { value, memory })
    }
}

/// The documents of a bundle, verbatim. Their memory is accounted for until they are dropped.
pub(super) struct Documents {
    pub(super) bytes: Bytes,
    /// Held as long as the bytes are in use.
    pub(super) memory: OwnedSemaphorePermit,
}

impl FromRequest<Arc<Api>> for Documents {
    type Rejection = Refusal;

    async fn from_request(request: Request, api: &Arc<Api>) -> Result<Self, Refusal> {
        // What clients that know no type for YAML, or an old one, send of themselves.
        require_type(
            request.headers(),
            &[
                "application/yaml",
                "application/x-yaml",
                "text/yaml",
                "text/plain",
                "application/octet-stream",
            ],
        )?;
        let (bytes, memory) = held_body(request, api, wire_limits::CONTENT_BYTES_MAX).await?;
        Ok(Self { bytes: bytes.into(), memory })
    }
}

/// A body of at most `max` bytes, and the memory that it may take.
async fn held_body(
    request: Request,
    api: &Arc<Api>,
    max: usize,
) -> Result<(Vec<u8>, OwnedSemaphorePermit), Refusal> {
    let announced = announced_length(request.headers());
    if announced.is_some_and(|bytes| bytes > max) {
        return Err(too_large(max));
    }
    let units = announced.unwrap_or(max).div_ceil(BODY_UNIT).max(1);
    let memory = u32::try_from(units)
        .ok()
        .and_then(|units| Arc::clone(&api.bodies).try_acquire_many_owned(units).ok());
    let memory = memory.ok_or_else(|| {
        Refusal::new(
            StatusCode::TOO_MANY_REQUESTS,
            Code::Busy.as_str(),
            "the hub holds as many large bodies as it can",
        )
        .with_help("repeat the call a little later")
    })?;
    Ok((read_body(request, announced.unwrap_or(0), max).await?, memory))
}

pub(super) fn require_json(headers: &HeaderMap) -> Result<(), Refusal> {
    require_type(headers, &["application/json"])
}

/// A body without a type is taken for what the route reads.
fn require_type(headers: &HeaderMap, read: &[&str]) -> Result<(), Refusal> {
    let wanted = read.first().copied().unwrap_or_default();
    let found = text_header(headers, header::CONTENT_TYPE.as_str())?.unwrap_or(wanted);
    let essence = found.split(';').next().unwrap_or("").trim();
    if read.iter().any(|read| essence.eq_ignore_ascii_case(read)) {
        return Ok(());
    }
    let shown: String = found.chars().take(80).collect();
    let detail = format!("the body is `{shown}`, and this route reads {wanted}");
    Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, door::UNSUPPORTED_MEDIA_TYPE, detail)
        .with_help(format!("send `Content-Type: {wanted}`")))
}

pub(super) fn announced_length(headers: &HeaderMap) -> Option<usize> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn too_large(max: usize) -> Refusal {
    let detail = format!("the body exceeds the {max} bytes that this route takes");
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, Code::TooLarge.as_str(), detail)
        .with_help(Code::TooLarge.help().unwrap_or_default())
}

async fn read_body(request: Request, announced: usize, max: usize) -> Result<Vec<u8>, Refusal> {
    let mut chunks = request.into_body().into_data_stream();
    // What was announced was paid for in permits; only what comes is kept.
    let mut bytes = Vec::with_capacity(announced);
    loop {
        let Ok(chunk) = tokio::time::timeout(limits::BODY_STALL_MAX, chunks.next()).await else {
            let detail = "the body stood still for 30 seconds";
            return Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, door::REQUEST_TIMEOUT, detail));
        };
        match chunk {
            None => return Ok(bytes),
            Some(Ok(chunk)) if bytes.len() + chunk.len() > max => return Err(too_large(max)),
            Some(Ok(chunk)) => bytes.extend_from_slice(&chunk),
            Some(Err(error)) => {
                return Err(Refusal::malformed(format!("the body ended before its end: {error}")));
            }
        }
    }
}

async fn parse_away<T: DeserializeOwned + Send + 'static>(bytes: Vec<u8>) -> Result<T, Refusal> {
    if bytes.len() <= limits::PARSE_INLINE_BYTES_MAX {
        return parse(&bytes);
    }
    let parsing = tokio::task::spawn_blocking(move || parse(&bytes));
    parsing.await.map_err(|_| {
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, door::INTERNAL, "the body could not be parsed")
    })?
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Refusal> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let reason = error.into_inner();
        match path.as_str() {
            "." => Refusal::malformed(format!("the body is wrong: {reason}")),
            path => Refusal::malformed(format!("the body is wrong at `{path}`: {reason}")),
        }
    })?;
    json.end().map_err(|error| Refusal::malformed(format!("the body is wrong: {error}")))?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::super::types::Sync;
    use super::*;

    #[test]
    fn malformed_json_is_told_with_path_line_and_column() {
        let wrong = |text: &str| parse::<Sync>(text.as_bytes()).unwrap_err().0.detail;
        let detail = wrong("{\"actions\": [\n  {\"id\": 7}]}");
        assert!(detail.contains("`actions[0].id`"), "{detail}");
        assert!(detail.contains("line 2 column"), "{detail}");
        assert!(wrong("{\"actions\": [}").contains("line 1 column 14"), "{}", wrong("{\"actions\": [}"));
        assert!(wrong("{\"actions\": []} x").contains("trailing characters"));
        assert!(wrong("{\"action\": []}").contains("unknown field `action`"));
        assert!(wrong("").contains("EOF"));
    }

    #[test]
    fn parameters_are_checked() {
        let pairs = [("a", "1"), ("b", "x,y"), ("b", "z"), ("c", "")];
        let pairs = || pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let params = Params(pairs());
        assert_eq!(params.one("a").unwrap(), Some("1"));
        assert_eq!(params.one("missing").unwrap(), None);
        assert!(params.one("b").unwrap_err().0.detail.contains("more than once"));
        assert!(params.one("c").unwrap_err().0.detail.contains("leave it out"));
        assert_eq!(params.many("b").collect::<Vec<_>>(), ["x", "y", "z"]);
        assert!(params.flag("a").is_err());
        let refused = params.only(&["a", "b"]).err().unwrap();
        assert!(refused.0.detail.contains("no parameter `c`"), "{}", refused.0.detail);
    }

    #[test]
    fn times_are_bounded() {
        let params = |text: &str| Params(vec![("timeout".to_owned(), text.to_owned())]);
        let asked = Asked::from(&HeaderMap::new(), &params("20m")).unwrap();
        assert_eq!(asked.time, Some(wire_limits::CALL_TIME_MAX));
        assert!(Asked::from(&HeaderMap::new(), &params("20m 1s")).unwrap_err().0.detail.contains("20m"));
        assert!(Asked::from(&HeaderMap::new(), &params("0s")).is_err());
        let mut headers = HeaderMap::new();
        headers.insert("idempotency-key", "no spaces".parse().unwrap());
        assert!(Asked::from(&headers, &Params(Vec::new())).unwrap_err().0.detail.contains("request id"));
    }
}
