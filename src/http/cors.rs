//! CORS: the web origins of `server.cors_origins` that may call the server from a browser.

use std::time::Duration;

use axum::http::{HeaderName, HeaderValue, Method, Uri, header};
use tower_http_7::cors::{AllowHeaders, AllowOrigin, CorsLayer};

use super::access_log::REQUEST_ID;
use super::auth::{LIMIT, REMAINING, RESET};
use super::rank::{SERVER_TIMING, TRUNCATED_DOCUMENTS, WARNING, WARNINGS};

/// How long a browser may cache the answer to a preflight request.
const MAX_AGE: Duration = Duration::from_secs(600);

/// Valid values of the setting, for its error message.
const ORIGINS: &str = "* or a list of origins separated by commas, each a scheme, a host and optionally a port in lower \
                       case, such as https://app.example.com";

/// The layer that answers preflight requests and adds CORS headers; `None` for no origins.
/// Credentials (cookies) are never allowed: a page sends its API key in a header.
///
/// # Errors
/// The valid values, if `origins` is not one.
pub fn cors_layer(origins: &str) -> Result<Option<CorsLayer>, String> {
    let origins: Vec<&str> = origins.split(',').map(str::trim).filter(|origin| !origin.is_empty()).collect();
    let allowed = match origins[..] {
        [] => return Ok(None),
        ["*"] => AllowOrigin::any(),
        _ if origins.iter().all(|origin| is_origin(origin)) => {
            let values = origins.iter().map(|origin| HeaderValue::from_str(origin));
            AllowOrigin::list(values.collect::<Result<Vec<_>, _>>().map_err(|_| ORIGINS.to_owned())?)
        }
        _ => return Err(ORIGINS.to_owned()),
    };
    let warnings = [TRUNCATED_DOCUMENTS, WARNINGS, WARNING];
    let limits = [REQUEST_ID, header::RETRY_AFTER, LIMIT, REMAINING, RESET, SERVER_TIMING];
    let exposed: Vec<HeaderName> = limits.into_iter().chain(warnings).collect();
    let layer = CorsLayer::new().allow_origin(allowed).allow_methods([Method::GET, Method::POST]);
    Ok(Some(layer.allow_headers(AllowHeaders::mirror_request()).expose_headers(exposed).max_age(MAX_AGE)))
}

/// Whether a browser can send this text as its origin. Origins are compared as text, and browsers
/// write each in one way.
fn is_origin(text: &str) -> bool {
    let Ok(uri) = text.parse::<Uri>() else { return false };
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else { return false };
    let usual_port = matches!((scheme, authority.port_u16()), ("http", Some(80)) | ("https", Some(443)));
    let canonical = format!("{scheme}://{authority}").to_ascii_lowercase();
    canonical == text && !usual_port && !text.contains(['@', '*']) && !authority.host().is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_schemes_hosts_and_ports() {
        for good in [
            "https://app.example.com",
            "http://localhost:3000",
            "http://[::1]:8000",
            "chrome-extension://abcdefghijklmnop",
        ] {
            assert!(is_origin(good), "{good}");
        }
        for bad in [
            "app.example.com",
            "https://app.example.com/",
            "https://app.example.com/path",
            "https://app.example.com?x",
            "https://App.example.com",
            "https://app.example.com:443",
            "https://user@app.example.com",
            "https://*.example.com",
            "https://",
            "//host",
            "null",
            "*",
            "https://a b",
        ] {
            assert!(!is_origin(bad), "{bad}");
        }
    }

    #[test]
    fn the_setting_is_empty_a_star_or_a_list() {
        for nothing in ["", " ", ","] {
            assert!(cors_layer(nothing).unwrap().is_none());
        }
        for something in ["*", " * ", "https://a.example", "https://a.example, http://b.example:81"] {
            assert!(cors_layer(something).unwrap().is_some(), "{something}");
        }
        for wrong in ["*, https://a.example", "https://a.example https://b.example", "https://a.example,b.example"] {
            assert_eq!(cors_layer(wrong).unwrap_err(), ORIGINS, "{wrong}");
        }
    }
}
