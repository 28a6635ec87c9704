//! Who may ask: whoever shows the hub's token.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use super::Api;
use super::problem::{Refusal, door};

pub(super) async fn require_token(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    match check(&api, request.headers()) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

fn check(api: &Api, headers: &HeaderMap) -> Result<(), Refusal> {
    let refuse = |detail: &str| {
        Err(Refusal::new(StatusCode::UNAUTHORIZED, door::UNAUTHORIZED, detail)
            .with_help("send `Authorization: Bearer <token>`; the hub's log says where its token file is"))
    };
    let mut shown = headers.get_all(header::AUTHORIZATION).iter();
    match (shown.next().map(|value| bearer(value.as_bytes())), shown.next()) {
        (None, _) => refuse("this route needs a token, and none was sent"),
        (Some(None), _) | (Some(_), Some(_)) => refuse("the header `Authorization` is not one bearer token"),
        (Some(Some(token)), None) if api.token.admits(token) => Ok(()),
        (Some(Some(_)), None) => refuse("the token is not this hub's"),
    }
}

/// The token of `Bearer <token>`; the scheme's case does not matter (RFC 9110).
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scheme_is_bearer() {
        assert_eq!(bearer(b"Bearer abc"), Some(&b"abc"[..]));
        assert_eq!(bearer(b"bearer  abc"), Some(&b"abc"[..]));
        for bad in [&b""[..], b"abc", b"Basic abc", b"Bearer"] {
            assert_eq!(bearer(bad), None);
        }
    }
}
