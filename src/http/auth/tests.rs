//! Parsing, lookup and reloading of keys; which routes need one; which headers may carry one.

use std::path::Path;

use axum::http::{HeaderValue, Method};

use super::*;

const KEYS: &str = "\u{feff}# who may ask\r\n\n  search-key-1  name=search requests_per_minute=600 # theirs\r\n\
                    batch-key-02 requests_per_minute=0\n#old-key-000\nabcd#efgh==\n";

fn parse(text: &str) -> Result<Vec<Key>, KeyError> {
    Key::parse_file(text.as_bytes(), Path::new("keys"))
}

fn table(text: &str, default_limit: u32, previous: &KeyTable) -> KeyTable {
    KeyTable::new(&parse(text).unwrap(), default_limit, previous).unwrap()
}

fn settings(keys_file: &Path) -> AuthSettings {
    AuthSettings {
        keys_file: keys_file.display().to_string(),
        requests_per_minute: 10,
        protect_metrics: false,
        admin_keys_file: String::new(),
    }
}

fn given_key(text: &str) -> Key {
    Key::parse(text, KeySource::Environment("KEYS", 1)).unwrap()
}

fn limit(table: &KeyTable, key: &str) -> Option<u32> {
    table.find(key.as_bytes()).unwrap().limiter.as_ref().map(|limiter| limiter.requests_per_minute())
}

#[test]
fn a_file_has_one_key_a_line_with_attributes_and_comments() {
    let table = table(KEYS, 10, &KeyTable::default());
    assert_eq!(table.len(), 3);
    let found = |key: &str| table.find(key.as_bytes()).map(|entry| entry.name.to_string());
    assert_eq!(found("search-key-1").unwrap(), "search");
    assert_eq!(found("batch-key-02").unwrap(), "unnamed-1");
    assert_eq!(found("abcd#efgh==").unwrap(), "unnamed-2");
    for wrong in ["", "search-key", "search-key-12", "Search-key-1", "old-key-000", "#old-key-000", "name=search"] {
        assert_eq!(found(wrong), None, "{wrong}");
    }
    assert_eq!(limit(&table, "search-key-1"), Some(600));
    assert_eq!(limit(&table, "batch-key-02"), None);
    assert_eq!(limit(&table, "abcd#efgh=="), Some(10));
}

#[test]
fn each_of_many_keys_is_found_and_no_other() {
    let lines: Vec<String> = (0..300).map(|number| format!("key-number-{number} name=n{number}")).collect();
    let table = table(&lines.join("\n"), 0, &KeyTable::default());
    for number in [0, 1, 255, 256, 299] {
        assert_eq!(*table.find(format!("key-number-{number}").as_bytes()).unwrap().name, format!("n{number}"));
    }
    assert!(table.find(b"key-number-300").is_none());
}

#[test]
fn an_error_in_a_file_names_the_line_and_does_not_repeat_the_key() {
    const FOLLOW: &str = "only name=… and requests_per_minute=…, each at most once, may follow a key on its line";
    const NAME: &str = "name must be 1 to 64 letters (a-z, A-Z), digits, dots, hyphens or underscores";
    const LIMIT: &str = "requests_per_minute must be a whole number between 0 (no limit) and 1000000";
    for (line, problem) in [
        ("s3cret7", "a key must have 8 to 1024 characters, not 7"),
        (&"s3cret".repeat(171), "a key must have 8 to 1024 characters, not 1026"),
        ("s3cret-ü-ü", "a key may contain only visible ASCII characters, and no comma"),
        ("s3cret\u{7f}s3cret", "a key may contain only visible ASCII characters, and no comma"),
        ("s3cret,s3cret", "a key may contain only visible ASCII characters, and no comma"),
        ("s3cretkey1 s3cretkey2", FOLLOW),
        ("s3cretkey1 s3cret=s3cret", FOLLOW),
        ("s3cretkey1 name=a name=b", FOLLOW),
        ("s3cretkey1 name=", NAME),
        ("s3cretkey1 name=s3cret\"", NAME),
        ("s3cretkey1 requests_per_minute=s3cret", LIMIT),
        ("s3cretkey1 requests_per_minute=-1", LIMIT),
        ("s3cretkey1 requests_per_minute=1000001", LIMIT),
        ("name=search s3cretkey1", "the key must come first on its line, before name=… and requests_per_minute=…"),
    ] {
        let error = parse(&format!("fine-key-1\n\n{line}\n")).unwrap_err();
        assert_eq!(error.to_string(), format!("keys line 3: {problem}"));
        assert!(!format!("{error:?}").contains("s3cret"), "{error:?}");
    }
    let twice = parse("s3cretkey1\ns3cretkey2\ns3cretkey1 name=other\n").unwrap();
    let error = KeyTable::new(&twice, 0, &KeyTable::default()).err().unwrap();
    assert_eq!(error.to_string(), "keys line 3: this is the same key as keys line 1");
    assert!(!format!("{twice:?}").contains("s3cret"), "{twice:?}");
}

#[test]
fn a_source_without_keys_is_refused() {
    for text in ["", "\n \n", "# key-number-1\n"] {
        assert_eq!(
            parse(text).unwrap_err().to_string(),
            "keys contains no API keys; remove the setting to disable authentication"
        );
    }
    for text in ["", " , "] {
        let error = Key::parse_list(text, "KEYS").unwrap_err();
        assert_eq!(error.to_string(), "KEYS contains no API keys; remove the setting to disable authentication");
    }
}

#[test]
fn a_list_is_separated_by_commas_and_errors_number_the_key() {
    let keys = Key::parse_list(" key-number-1, key-number-2,", "KEYS").unwrap();
    assert_eq!(keys.len(), 2);
    let error = Key::parse_list("key-number-1,short", "KEYS").unwrap_err();
    assert_eq!(error.to_string(), "key 2 in KEYS: a key must have 8 to 1024 characters, not 5");
    let error = Key::parse("short", KeySource::Flag("--api-key", 1)).unwrap_err();
    assert_eq!(error.to_string(), "key 1 of --api-key: a key must have 8 to 1024 characters, not 5");
}

#[test]
fn a_reloaded_key_keeps_its_used_requests_unless_its_limit_changes() {
    let before = table("key-number-1\nkey-number-2\nkey-number-3\n", 5, &KeyTable::default());
    let take = |table: &KeyTable, key: &str| {
        table.find(key.as_bytes()).unwrap().limiter.clone().unwrap().try_acquire().remaining
    };
    for key in ["key-number-1", "key-number-2", "key-number-3"] {
        assert_eq!(take(&before, key), 4);
    }
    let after = table("key-number-2 name=two\nkey-number-1 requests_per_minute=6\nkey-number-4\n", 5, &before);
    assert_eq!(take(&after, "key-number-2"), 3);
    assert_eq!(take(&after, "key-number-1"), 5);
    assert_eq!(take(&after, "key-number-4"), 4);
    assert!(after.find(b"key-number-3").is_none());
}

#[test]
fn keys_of_all_sources_are_valid_and_a_repeated_key_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys");
    std::fs::write(&path, "key-in-file-1\n").unwrap();
    let authenticator = Authenticator::new(&settings(&path), vec![given_key("key-given-1")]).unwrap();
    assert_eq!(authenticator.key_count(), 2);
    assert_eq!(limit(&authenticator.table(), "key-given-1"), Some(10));
    let error = Authenticator::new(&settings(&path), vec![given_key("key-in-file-1")]).err().unwrap();
    assert_eq!(error.to_string(), format!("{} line 1: this is the same key as key 1 in KEYS", path.display()));
}

#[test]
fn an_invalid_or_missing_file_leaves_the_previous_keys_in_force() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys");
    std::fs::write(&path, "key-number-1\n").unwrap();
    let authenticator = Authenticator::new(&settings(&path), Vec::new()).unwrap();
    assert_eq!(authenticator.reload(None).unwrap(), Reloaded::Unchanged);
    for wrong in ["key-number-2\nshort\n", "", "key-number-2\nkey-number-2\n"] {
        std::fs::write(&path, wrong).unwrap();
        for _again in 0..2 {
            authenticator.reload(None).unwrap_err();
            assert!(authenticator.table().find(b"key-number-1").is_some());
            assert!(authenticator.table().find(b"key-number-2").is_none());
        }
    }
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(authenticator.reload(None), Err(KeyError::File { .. })));
    assert_eq!(authenticator.key_count(), 1);
    std::fs::write(&path, "key-number-2\nkey-number-3\n").unwrap();
    assert_eq!(authenticator.reload(None).unwrap(), Reloaded::Keys(2));
    assert!(authenticator.table().find(b"key-number-1").is_none());
    assert!(authenticator.table().find(b"key-number-2").is_some());
}

/// Kubernetes mounts a secret like this: `keys` links to `..data/keys`, and an update replaces the
/// link `..data`.
#[cfg(unix)]
#[test]
fn a_swapped_symbolic_link_above_the_file_is_noticed() {
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
    assert_eq!(authenticator.reload(None).unwrap(), Reloaded::Keys(1));
    assert!(authenticator.table().find(b"key-number-2").is_some());
}

#[test]
fn a_setting_that_needs_keys_is_refused_without_any() {
    let message = |requests_per_minute, protect_metrics| {
        let settings = AuthSettings { requests_per_minute, protect_metrics, ..settings(Path::new("")) };
        Authenticator::new(&settings, Vec::new()).err().map(|error| error.to_string())
    };
    let advice = "has no effect without API keys: give keys with auth.keys_file, PODIUM_API_KEYS or --api-key, or \
                  remove the setting";
    assert_eq!(message(0, true), Some(format!("`auth.protect_metrics = true` {advice}")));
    assert_eq!(message(600, false), Some(format!("`auth.requests_per_minute = 600` {advice}")));
    assert_eq!(message(0, false), None);

    let open = AuthSettings { requests_per_minute: 0, ..settings(Path::new("")) };
    let error = Authenticator::new(&open, Vec::new()).unwrap().reload(Some(5)).unwrap_err();
    assert_eq!(error.to_string(), format!("`auth.requests_per_minute = 5` {advice}"));
}

#[test]
fn every_route_except_the_open_ones_needs_a_key() {
    let authenticator = |protect_metrics| {
        let settings = AuthSettings { protect_metrics, ..settings(Path::new("")) };
        Authenticator::new(&settings, vec![given_key("key-number-1")]).unwrap()
    };
    let needs_key = |protect_metrics, route| authenticator(protect_metrics).needs_key(&Method::GET, route);
    for open in ["/", "/health", "/ready", "/ping", "/version", "/docs", "/docs/{file}", "/openapi.json", "/metrics"] {
        assert!(!needs_key(false, Some(open)), "{open}");
    }
    for closed in ["/v1/rerank", "/v1/models", "/v1/models/{id}", "/info", "/docsx", "/health/x", "/anything/new"] {
        assert!(needs_key(false, Some(closed)), "{closed}");
    }
    assert!(needs_key(true, Some("/metrics")));
    assert!(!needs_key(true, None));
    assert!(authenticator(false).needs_key(&Method::POST, Some("/")), "POST / ranks");
}

#[test]
fn a_key_is_read_from_each_of_three_headers() {
    let table = table("key-number-1\nkey-number-2\n", 0, &KeyTable::default());
    let outcome = |headers: &[(&'static str, &str)]| {
        let headers = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap()))
            .collect();
        identify(&table, &headers).map_or_else(|failure| failure.spec().code.as_str(), |_entry| "ok")
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
