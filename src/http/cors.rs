//! Which web pages may call the server: the origins of `server.cors_origins`, and what is allowed to them.

use std::time::Duration;

use axum::http::{HeaderName, HeaderValue, Method, Uri, header};
use tower_http_cors::cors::{AllowHeaders, AllowOrigin, CorsLayer};

use super::access_log::REQUEST_ID;
use super::auth::{LIMIT, REMAINING, RESET};
use super::rank::{SERVER_TIMING, TRUNCATED_DOCUMENTS, WARNINGS};

/// How long a browser may remember what it is allowed.
const MAX_AGE: Duration = Duration::from_secs(600);

/// What an entry of the setting may be.
const ORIGINS: &str = "* or a list of origins with commas between them, each a scheme, a host and perhaps a port in \
                       lower case, such as https://app.example.com";

/// The layer that answers preflights and marks answers for the pages of these origins; nothing for none. Keys are
/// headers that a page sets itself, so cookies and their like are never allowed.
///
/// # Errors
/// What the setting has to be, where it is not.
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
    let told: [HeaderName; 8] =
        [REQUEST_ID, header::RETRY_AFTER, LIMIT, REMAINING, RESET, SERVER_TIMING, TRUNCATED_DOCUMENTS, WARNINGS];
    let layer = CorsLayer::new().allow_origin(allowed).allow_methods([Method::GET, Method::POST]);
    Ok(Some(layer.allow_headers(AllowHeaders::mirror_request()).expose_headers(told).max_age(MAX_AGE)))
}

/// Whether a browser could send this as an origin: it compares as text, and browsers write it in one way only.
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
    fn the_setting_is_nothing_everyone_or_a_list() {
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
