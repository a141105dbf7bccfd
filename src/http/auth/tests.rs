//! Keys as they are written, found and kept; which routes need one; which header it is taken from.

use axum::http::HeaderValue;

use super::*;

const KEYS: &str = "\u{feff}# who may ask\r\n\n  search-key-1  name=search requests_per_minute=600 # theirs\r\n\
                    batch-key-02 requests_per_minute=0\n#old-key-000\nabcd#efgh==\n";

fn parse(text: &str) -> Result<Vec<Key>, KeyError> {
    Key::parse_file(text.as_bytes(), Path::new("keys"))
}

fn ring(text: &str, default_limit: u32, before: &KeyRing) -> KeyRing {
    KeyRing::new(&parse(text).unwrap(), default_limit, before).unwrap()
}

fn settings(keys_file: &Path) -> AuthSettings {
    AuthSettings {
        keys_file: keys_file.display().to_string(),
        requests_per_minute: 10,
        protect_metrics: false,
        admin_keys_file: String::new(),
    }
}

fn limit(ring: &KeyRing, key: &str) -> Option<u32> {
    ring.find(key.as_bytes()).unwrap().bucket.as_ref().map(|bucket| bucket.per_minute())
}

#[test]
fn a_file_has_one_key_a_line_with_attributes_and_comments() {
    let ring = ring(KEYS, 10, &KeyRing::default());
    assert_eq!(ring.len(), 3);
    let found = |key: &str| ring.find(key.as_bytes()).map(|client| client.name.to_string());
    assert_eq!(found("search-key-1").unwrap(), "search");
    assert_eq!(found("batch-key-02").unwrap(), "unnamed-1");
    assert_eq!(found("abcd#efgh==").unwrap(), "unnamed-2", "they take turns with each other");
    for wrong in ["", "search-key", "search-key-12", "Search-key-1", "old-key-000", "#old-key-000", "name=search"] {
        assert_eq!(found(wrong), None, "{wrong}");
    }
    assert_eq!(limit(&ring, "search-key-1"), Some(600));
    assert_eq!(limit(&ring, "batch-key-02"), None);
    assert_eq!(limit(&ring, "abcd#efgh=="), Some(10));
}

#[test]
fn the_last_of_many_keys_is_found_and_none_beside_it() {
    let lines: Vec<String> = (0..300).map(|number| format!("key-number-{number} name=n{number}")).collect();
    let ring = ring(&lines.join("\n"), 0, &KeyRing::default());
    for number in [0, 1, 255, 256, 299] {
        assert_eq!(*ring.find(format!("key-number-{number}").as_bytes()).unwrap().name, format!("n{number}"));
    }
    assert!(ring.find(b"key-number-300").is_none());
}

#[test]
fn what_is_wrong_in_a_file_is_said_with_its_line_and_without_the_key() {
    const FOLLOW: &str = "only name=… and requests_per_minute=…, each once, may follow a key on its line";
    const NAME: &str = "name must be 1 to 64 letters (a-z, A-Z), digits, dots, hyphens or underscores";
    const LIMIT: &str = "requests_per_minute must be a whole number between 0 (no limit) and 1000000";
    for (line, problem) in [
        ("s3cret7", "a key must have 8 to 1024 characters, not 7"),
        (&"s3cret".repeat(171), "a key must have 8 to 1024 characters, not 1026"),
        ("s3cret-ü-ü", "a key may hold only visible ASCII characters, and no comma"),
        ("s3cret\u{7f}s3cret", "a key may hold only visible ASCII characters, and no comma"),
        ("s3cret,s3cret", "a key may hold only visible ASCII characters, and no comma"),
        ("s3cretkey1 s3cretkey2", FOLLOW),
        ("s3cretkey1 s3cret=s3cret", FOLLOW),
        ("s3cretkey1 name=a name=b", FOLLOW),
        ("s3cretkey1 name=", NAME),
        ("s3cretkey1 name=s3cret\"", NAME),
        ("s3cretkey1 requests_per_minute=s3cret", LIMIT),
        ("s3cretkey1 requests_per_minute=-1", LIMIT),
        ("s3cretkey1 requests_per_minute=1000001", LIMIT),
        ("name=search s3cretkey1", "the key must stand before its attributes"),
    ] {
        let error = parse(&format!("fine-key-1\n\n{line}\n")).unwrap_err();
        assert_eq!(error.to_string(), format!("keys line 3: {problem}"));
        assert!(!format!("{error:?}").contains("s3cret"), "{error:?}");
    }
    let twice = parse("s3cretkey1\ns3cretkey2\ns3cretkey1 name=other\n").unwrap();
    let error = KeyRing::new(&twice, 0, &KeyRing::default()).err().unwrap();
    assert_eq!(error.to_string(), "keys line 3: this is the same key as keys line 1");
    assert!(!format!("{twice:?}").contains("s3cret"), "{twice:?}");
}

#[test]
fn a_source_without_a_key_does_not_open_the_server() {
    for text in ["", "\n \n", "# key-number-1\n"] {
        assert_eq!(parse(text).unwrap_err().to_string(), "keys holds no key; leave it out where everyone may ask");
    }
    for text in ["", " , "] {
        let error = Key::parse_list(text, "KEYS").unwrap_err();
        assert_eq!(error.to_string(), "KEYS holds no key; leave it out where everyone may ask");
    }
}

#[test]
fn a_list_has_commas_and_its_errors_a_number() {
    let keys = Key::parse_list(" key-number-1, key-number-2,", "KEYS").unwrap();
    assert_eq!(keys.len(), 2);
    let error = Key::parse_list("key-number-1,short", "KEYS").unwrap_err();
    assert_eq!(error.to_string(), "key 2 in KEYS: a key must have 8 to 1024 characters, not 5");
    let error = Key::parse("short", Place::Flag("--api-key", 1)).unwrap_err();
    assert_eq!(error.to_string(), "key 1 of --api-key: a key must have 8 to 1024 characters, not 5");
}

#[test]
fn a_key_keeps_what_it_has_used_unless_its_limit_changes() {
    let now = Instant::now();
    let before = ring("key-number-1\nkey-number-2\nkey-number-3\n", 5, &KeyRing::default());
    let take =
        |ring: &KeyRing, key: &str| ring.find(key.as_bytes()).unwrap().bucket.clone().unwrap().take(now).remaining;
    for key in ["key-number-1", "key-number-2", "key-number-3"] {
        assert_eq!(take(&before, key), 4);
    }
    let after = ring("key-number-2 name=two\nkey-number-1 requests_per_minute=6\nkey-number-4\n", 5, &before);
    assert_eq!(take(&after, "key-number-2"), 3);
    assert_eq!(take(&after, "key-number-1"), 5);
    assert_eq!(take(&after, "key-number-4"), 4);
    assert!(after.find(b"key-number-3").is_none());
}

#[test]
fn keys_of_all_sources_count_and_none_may_repeat() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys");
    std::fs::write(&path, "key-in-file-1\n").unwrap();
    let given = |text: &str| vec![Key::parse(text, Place::Environment("KEYS", 1)).unwrap()];
    let authenticator = Authenticator::new(&settings(&path), given("key-given-1")).unwrap();
    assert_eq!(authenticator.key_count(), 2);
    assert_eq!(limit(&authenticator.ring(), "key-given-1"), Some(10));
    let error = Authenticator::new(&settings(&path), given("key-in-file-1")).err().unwrap();
    assert_eq!(error.to_string(), format!("{} line 1: this is the same key as key 1 in KEYS", path.display()));
}

#[test]
fn a_file_that_is_wrong_or_gone_changes_nothing_until_it_is_right_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys");
    std::fs::write(&path, "key-number-1\n").unwrap();
    let authenticator = Authenticator::new(&settings(&path), Vec::new()).unwrap();
    assert_eq!(authenticator.reload().unwrap(), Reloaded::Unchanged);
    for wrong in ["key-number-2\nshort\n", "", "key-number-2\nkey-number-2\n"] {
        std::fs::write(&path, wrong).unwrap();
        for _again in 0..2 {
            authenticator.reload().unwrap_err();
            assert!(authenticator.ring().find(b"key-number-1").is_some());
            assert!(authenticator.ring().find(b"key-number-2").is_none());
        }
    }
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(authenticator.reload(), Err(KeyError::File { .. })));
    assert_eq!(authenticator.key_count(), 1);
    std::fs::write(&path, "key-number-2\nkey-number-3\n").unwrap();
    assert_eq!(authenticator.reload().unwrap(), Reloaded::Keys(2));
    assert!(authenticator.ring().find(b"key-number-1").is_none());
    assert!(authenticator.ring().find(b"key-number-2").is_some());
}

/// As Kubernetes mounts a secret: `keys` links to `..data/keys`, and `..data` is swapped for another link.
#[cfg(unix)]
#[test]
fn a_swapped_link_above_the_file_is_noticed() {
    use std::os::unix::fs::symlink;
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for (version, key) in [("v1", "key-number-1"), ("v2", "key-number-2")] {
        std::fs::create_dir(at(version)).unwrap();
        std::fs::write(at(version).join("keys"), key).unwrap();
    }
    symlink("v1", at("..data")).unwrap();
    symlink("..data/keys", at("keys")).unwrap();
    let authenticator = Authenticator::new(&settings(&at("keys")), Vec::new()).unwrap();
    symlink("v2", at("..next")).unwrap();
    std::fs::rename(at("..next"), at("..data")).unwrap();
    assert_eq!(authenticator.reload().unwrap(), Reloaded::Keys(1));
    assert!(authenticator.ring().find(b"key-number-2").is_some());
}

#[test]
fn every_route_needs_a_key_but_those_that_are_open() {
    let protects = |protect_metrics, route| {
        let settings = AuthSettings {
            keys_file: String::new(),
            requests_per_minute: 0,
            protect_metrics,
            admin_keys_file: String::new(),
        };
        Authenticator::new(&settings, Vec::new()).unwrap().protects(&Method::GET, route)
    };
    for open in ["/", "/health", "/ready", "/ping", "/version", "/docs", "/docs/{file}", "/openapi.json", "/metrics"] {
        assert!(!protects(false, Some(open)), "{open}");
    }
    for closed in ["/v1/rerank", "/v1/models", "/v1/models/{id}", "/info", "/docsx", "/health/x", "/anything/new"] {
        assert!(protects(false, Some(closed)), "{closed}");
    }
    assert!(protects(true, Some("/metrics")));
    assert!(!protects(true, None));
    let authenticator = Authenticator::new(&settings(Path::new("")), Vec::new()).unwrap();
    assert!(authenticator.protects(&Method::POST, Some("/")), "POST / ranks");
}

#[test]
fn a_key_is_taken_from_each_of_three_headers() {
    let ring = ring("key-number-1\nkey-number-2\n", 0, &KeyRing::default());
    let outcome = |headers: &[(&'static str, &str)]| {
        let headers = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap()))
            .collect();
        identify(&ring, &headers).map_or_else(|failure| failure.spec().code.as_str(), |_client| "ok")
    };
    for headers in [
        &[("authorization", "Bearer key-number-1")][..],
        &[("authorization", "bEARER   key-number-1  ")],
        &[("api-key", "key-number-1")],
        &[("x-api-key", " key-number-1 ")],
        &[("x-api-key", "key-number-1"), ("authorization", "Bearer key-number-1"), ("api-key", "key-number-1")],
        &[("x-api-key", "key-number-1"), ("authorization", "Basic a2V5OmtleQ==")],
        &[("x-api-key", ""), ("authorization", "Bearer key-number-1")],
    ] {
        assert_eq!(outcome(headers), "ok", "{headers:?}");
    }
    for headers in [
        &[][..],
        &[("authorization", "")],
        &[("authorization", "Bearer")],
        &[("authorization", "Bearer ")],
        &[("authorization", "Basic key-number-1")],
        &[("authorization", "key-number-1")],
        &[("x-api-key", " ")],
        &[("cookie", "key-number-1")],
    ] {
        assert_eq!(outcome(headers), "missing_api_key", "{headers:?}");
    }
    for headers in [
        &[("authorization", "Bearer key-number-3")][..],
        &[("authorization", "Bearer Bearer key-number-1")],
        &[("api-key", "Bearer key-number-1")],
        &[("x-api-key", "key-number-1,key-number-2")],
    ] {
        assert_eq!(outcome(headers), "invalid_api_key", "{headers:?}");
    }
    for headers in [
        &[("authorization", "Bearer key-number-1"), ("x-api-key", "key-number-2")][..],
        &[("authorization", "Bearer key-number-1"), ("api-key", "wrong-key-1")],
        &[("x-api-key", "key-number-1"), ("x-api-key", "key-number-2")],
    ] {
        assert_eq!(outcome(headers), "conflicting_api_keys", "{headers:?}");
    }
}
