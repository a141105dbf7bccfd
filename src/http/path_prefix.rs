//! The prefix under which a proxy shows the server: `/rerankers/v1/rerank` for `/v1/rerank`.
//!
//! It is `server.path_prefix`, or else what the proxy says in `X-Forwarded-Prefix`. A path that
//! begins with it is served without it, whether or not the proxy has removed it already.

use axum::extract::Request;
use axum::http::uri::PathAndQuery;
use axum::http::{HeaderMap, Uri};

const FORWARDED_PREFIX: &str = "x-forwarded-prefix";

/// The longest prefix that is taken from a header.
const MAX_PREFIX_BYTES: usize = 256;

/// The prefix of a request, for pages that link to this server. Empty, or `/` and more.
#[derive(Debug, Clone, Default)]
pub struct PathPrefix(pub String);

/// Removes the prefix from a request's path, and notes it in the request's extensions.
pub fn remove_prefix(configured: &str, mut request: Request) -> Request {
    let prefix = if configured.is_empty() { forwarded(request.headers()) } else { Some(configured.to_owned()) };
    let Some(prefix) = prefix else { return request };
    if let Some(uri) = without_prefix(request.uri(), &prefix) {
        *request.uri_mut() = uri;
    }
    request.extensions_mut().insert(PathPrefix(prefix));
    request
}

/// The prefix of the header, without a slash at its end; `None` if it is empty or not one.
fn forwarded(headers: &HeaderMap) -> Option<String> {
    let prefix = headers.get(FORWARDED_PREFIX)?.to_str().ok()?.trim().trim_end_matches('/');
    (!prefix.is_empty() && is_prefix(prefix)).then(|| prefix.to_owned())
}

/// Whether a text can be a prefix: empty, or a path of plain segments without a slash at its end.
pub fn is_prefix(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    let is_segment = |segment: &str| !segment.is_empty() && segment.bytes().all(is_plain);
    let is_path = text.strip_prefix('/').is_some_and(|path| path.split('/').all(is_segment));
    text.is_empty() || (is_path && text.len() <= MAX_PREFIX_BYTES)
}

fn without_prefix(uri: &Uri, prefix: &str) -> Option<Uri> {
    let rest = uri.path().strip_prefix(prefix).filter(|rest| rest.is_empty() || rest.starts_with('/'))?;
    let path = if rest.is_empty() { "/" } else { rest };
    let query = uri.query().map_or_else(String::new, |query| format!("?{query}"));
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(format!("{path}{query}")).ok()?);
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_removed_from_paths_that_have_it() {
        for (path, expected) in [
            ("/p/v1/rerank?a=b", Some("/v1/rerank?a=b")),
            ("/p/", Some("/")),
            ("/p", Some("/")),
            ("/p//rerank", Some("//rerank")),
            ("/pp/rerank", None),
            ("/v1/rerank", None),
            ("http://host/p/rerank", Some("http://host/rerank")),
        ] {
            let found = without_prefix(&path.parse().unwrap(), "/p").map(|uri| uri.to_string());
            assert_eq!(found.as_deref(), expected, "{path}");
        }
    }

    #[test]
    fn a_prefix_is_a_plain_path() {
        for good in ["", "/p", "/a/b-c_d.e~1"] {
            assert!(is_prefix(good), "{good}");
        }
        for bad in ["/", "p", "/p/", "//p", "/a b", "/<script>", "/p?q", "/\"", &format!("/{}", "a".repeat(256))] {
            assert!(!is_prefix(bad), "{bad}");
        }
    }
}
