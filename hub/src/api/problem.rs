//! Every refusal, in one shape: `application/problem+json`.

use std::collections::BTreeMap;

use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use towline_protocol::{CallError, Code, Effect};

use super::types::{ItemProblem, Problem};
use crate::registry::{CreateInstanceError, DeleteInstanceError};
use crate::store::StoreError;

/// Codes of the API's own door, beside those of calls.
pub(super) mod door {
    /// The request cannot be read.
    pub(in crate::api) const MALFORMED: &str = "malformed";
    /// No token, or a wrong one.
    pub(in crate::api) const UNAUTHORIZED: &str = "unauthorized";
    /// The route has no such method.
    pub(in crate::api) const METHOD_NOT_ALLOWED: &str = "method_not_allowed";
    /// The body is of another type than the route reads.
    pub(in crate::api) const UNSUPPORTED_MEDIA_TYPE: &str = "unsupported_media_type";
    /// The body did not come in time.
    pub(in crate::api) const REQUEST_TIMEOUT: &str = "request_timeout";
    /// The hub cannot work now.
    pub(in crate::api) const NOT_READY: &str = "not_ready";
    /// The hub failed.
    pub(in crate::api) const INTERNAL: &str = "internal";
}

/// Marks a response as a problem, for the one place that counts them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Refused(pub(super) &'static str);

/// How long to wait before repeating a call that was refused as `busy`, in seconds.
const RETRY_AFTER_S: HeaderValue = HeaderValue::from_static("1");

/// What a caller without a token should show.
const CHALLENGE: HeaderValue = HeaderValue::from_static("Bearer realm=\"towline\"");

/// The HTTP status of a call's error.
#[must_use]
pub fn status_of(code: &Code) -> StatusCode {
    match code {
        Code::Denied => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::Conflict | Code::Fenced | Code::Kicked => StatusCode::CONFLICT,
        Code::Expired => StatusCode::GONE,
        Code::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Code::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
        Code::Busy => StatusCode::TOO_MANY_REQUESTS,
        // Nginx' word for a caller that went away; no standard one fits.
        Code::Cancelled => StatusCode::from_u16(499).expect("499 is within 100 to 999"),
        Code::UpgradeNeeded | Code::Unsupported => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::UnknownOutcome => StatusCode::GATEWAY_TIMEOUT,
        // A code of a newer agent is told as what it is: something that went wrong over there.
        _ => StatusCode::BAD_GATEWAY,
    }
}

/// A problem on its way out. Boxed: it is large, and the way it takes is the rare one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal(pub(super) Box<Problem>);

impl Refusal {
    /// A refusal that did nothing.
    pub(super) fn new(status: StatusCode, code: &str, detail: impl Into<String>) -> Self {
        Self(Box::new(Problem {
            kind: format!("urn:towline:problem:{code}"),
            title: title(code),
            status: status.as_u16(),
            code: code.to_owned(),
            effect: Effect::None,
            detail: detail.into(),
            help: None,
            errors: BTreeMap::new(),
        }))
    }

    /// The request cannot be read.
    pub(super) fn malformed(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, door::MALFORMED, detail)
    }

    pub(super) fn with_help(mut self, help: impl Into<String>) -> Self {
        self.0.help = Some(help.into());
        self
    }

    pub(super) fn with_effect(mut self, effect: Effect) -> Self {
        self.0.effect = effect;
        self
    }
}

/// `too_large` becomes `Too large`.
fn title(code: &str) -> String {
    let mut title = code.replace('_', " ");
    if let Some(first) = title.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    title
}

impl From<CallError> for Refusal {
    fn from(CallError { code, effect, message, help, errors }: CallError) -> Self {
        let mut refusal = Self::new(status_of(&code), code.as_str(), message).with_effect(effect);
        refusal.0.help = help;
        refusal.0.errors = errors.into_iter().map(|(id, error)| (id, ItemProblem::from(error))).collect();
        refusal
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        if error == StoreError::Closed {
            return Self::new(StatusCode::SERVICE_UNAVAILABLE, door::NOT_READY, error.to_string())
                .with_help("nothing was done; repeat the request once the hub is back");
        }
        let effect = if matches!(error, StoreError::Unknown { .. }) { Effect::Unknown } else { Effect::None };
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, door::INTERNAL, error.to_string())
            .with_effect(effect)
            .with_help("see the hub's log, and the disk that holds its data directory")
    }
}

impl From<CreateInstanceError> for Refusal {
    fn from(error: CreateInstanceError) -> Self {
        let detail = error.to_string();
        match error {
            CreateInstanceError::Exists { .. } => {
                Self::new(StatusCode::CONFLICT, Code::Conflict.as_str(), detail)
            }
            CreateInstanceError::Full => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, Code::Busy.as_str(), detail)
                    .with_help("delete instances that are gone for good")
            }
            CreateInstanceError::Store(error) => error.into(),
        }
    }
}

impl From<DeleteInstanceError> for Refusal {
    fn from(error: DeleteInstanceError) -> Self {
        let detail = error.to_string();
        match error {
            DeleteInstanceError::NotFound { .. } => {
                Self::new(StatusCode::NOT_FOUND, Code::NotFound.as_str(), detail)
            }
            DeleteInstanceError::Connected { .. } => {
                Self::new(StatusCode::CONFLICT, Code::Conflict.as_str(), detail).with_help(
                    "stop its agent first, which would put it on record again; or repeat with `?force=true`",
                )
            }
            DeleteInstanceError::Authority(_) => {
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, door::INTERNAL, detail)
            }
            DeleteInstanceError::Store(error) => error.into(),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let Self(problem) = self;
        let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&problem).expect("a problem is made of maps with text keys");
        let mut response =
            (status, [(header::CONTENT_TYPE, "application/problem+json")], body).into_response();
        let headers = response.headers_mut();
        match status {
            StatusCode::TOO_MANY_REQUESTS => {
                headers.insert(header::RETRY_AFTER, RETRY_AFTER_S);
            }
            StatusCode::UNAUTHORIZED => {
                headers.insert(header::WWW_AUTHENTICATE, CHALLENGE);
            }
            _ => {}
        }
        response.extensions_mut().insert(Refused(label(&problem.code)));
        response
    }
}

/// The code as a label: from a closed set, so that no agent's word grows the metrics.
fn label(code: &str) -> &'static str {
    static CALL_CODES: &[Code] = Code::KNOWN;
    let own = [
        door::MALFORMED,
        door::UNAUTHORIZED,
        door::METHOD_NOT_ALLOWED,
        door::UNSUPPORTED_MEDIA_TYPE,
        door::REQUEST_TIMEOUT,
        door::NOT_READY,
        door::INTERNAL,
    ];
    let known = own.into_iter().chain(CALL_CODES.iter().map(Code::as_str));
    known.into_iter().find(|known| *known == code).unwrap_or("other")
}

/// Nothing is routed here.
pub(super) async fn no_such_route(method: Method, uri: Uri) -> Refusal {
    let path: String = uri.path().chars().take(200).collect();
    Refusal::new(
        StatusCode::NOT_FOUND,
        Code::NotFound.as_str(),
        format!("there is no route `{method} {path}`"),
    )
    .with_help("`GET /openapi.json` describes all routes")
}

/// The path is routed, the method is not. The `Allow` header says which ones are.
pub(super) async fn method_not_allowed(method: Method, uri: Uri) -> Refusal {
    let path: String = uri.path().chars().take(200).collect();
    let detail = format!("the route `{path}` has no method {method}");
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, door::METHOD_NOT_ALLOWED, detail)
        .with_help("the `Allow` header names the methods that it has")
}

#[cfg(test)]
mod tests {
    use super::*;
    use towline_protocol::ItemError;

    #[test]
    fn each_code_has_the_status_that_the_surface_names() {
        let expected = [
            ("denied", 403),
            ("not_found", 404),
            ("conflict", 409),
            ("fenced", 409),
            ("kicked", 409),
            ("expired", 410),
            ("too_large", 413),
            ("invalid", 422),
            ("cancelled", 499),
            ("busy", 429),
            ("upgrade_needed", 501),
            ("unsupported", 501),
            ("cluster", 502),
            ("fatal", 502),
            ("unavailable", 503),
            ("unknown_outcome", 504),
        ];
        assert_eq!(expected.len(), Code::KNOWN.len());
        for (word, status) in expected {
            assert_eq!(status_of(&Code::from_word(word)).as_u16(), status, "{word}");
            assert_eq!(label(word), word);
        }
        assert_eq!(label("a word of a newer agent"), "other");
    }

    #[test]
    fn a_hub_that_stops_is_no_broken_disk() {
        let Refusal(problem) = Refusal::from(StoreError::Closed);
        assert_eq!((problem.status, problem.code.as_str(), problem.effect), (503, "not_ready", Effect::None));
        let Refusal(problem) = Refusal::from(StoreError::Failed { reason: "no space".to_owned() });
        assert_eq!((problem.status, problem.code.as_str()), (500, "internal"));
    }

    #[test]
    fn an_error_survives_the_way_through_http() {
        let item =
            ItemError::new(Code::Invalid, "spec.units is -1, and 0 to 1000 is allowed").with_help("fix it");
        let error = CallError::cluster([("default/App/web".to_owned(), item)].into(), Effect::Partial);
        let Refusal(problem) = Refusal::from(error.clone());
        let json = serde_json::to_string(&problem).unwrap();
        assert_eq!(serde_json::from_str::<Problem>(&json).unwrap().into_call_error(), error);
        assert_eq!(problem.title, "Cluster");
        assert_eq!(title("too_large"), "Too large");
    }
}
