//! API keys of a `podium` process: sources, SIGHUP, and that no output shows a key.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

fn podium(arguments: &[&str], keys: Option<&str>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_podium"));
    command.args(arguments).env_clear();
    if let Some(keys) = keys {
        command.env("PODIUM_API_KEYS", keys);
    }
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn check_counts_the_keys_of_all_sources_and_prints_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys");
    std::fs::write(&path, "secret-in-file name=search\n").unwrap();
    let file = path.to_str().unwrap();
    let arguments = ["check", "--no-model", "--api-keys-file", file, "--api-key", "-secret-of-flag"];
    let output = podium(&arguments, Some("secret-of-env-1,secret-of-env-2"));
    let printed = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(printed.contains("\n# API keys: 4 (not printed)\n"), "{printed}");
    assert!(
        printed.contains(&format!("keys_file = \"{file}\"")) && printed.contains("# flag --api-keys-file"),
        "{printed}"
    );
    assert!(!printed.contains("secret"), "{printed}");
    assert!(
        text(&podium(&["check", "--no-model"], None).stdout).contains("\n# API keys: none; requests need no key\n")
    );
}

#[test]
fn an_invalid_key_exits_with_2_and_is_not_printed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys");
    std::fs::write(&path, "\nsecret-in-file secret\n").unwrap();
    let file = path.to_str().unwrap();
    let in_file = format!(
        "error: {file} line 2: only name=… and requests_per_minute=…, each at most once, may follow a key on its line\n"
    );
    let short = "a key must have 8 to 1024 characters, not 6";
    for (arguments, keys, message) in [
        (&["--api-keys-file", file][..], None, in_file),
        (&["--api-key", "secret"], None, format!("error: key 1 of --api-key: {short}\n")),
        (&[], Some("long-enough,secret"), format!("error: key 2 in PODIUM_API_KEYS: {short}\n")),
        (
            &[],
            Some(""),
            "error: PODIUM_API_KEYS contains no API keys; remove the setting to disable authentication\n".to_owned(),
        ),
        (
            &["--api-keys-file", "/no/such/keys"],
            None,
            "error: cannot read the keys file /no/such/keys: No such file or directory (os error 2)\n".to_owned(),
        ),
        (
            &["--api-keys-file", ""],
            None,
            "error: `auth.keys_file` is empty (flag --api-keys-file): give the path of a keys file, or remove this \
             setting\n"
                .to_owned(),
        ),
    ] {
        for command in [&["check", "--no-model"][..], &["serve", "--listen", "127.0.0.1:0"]] {
            let output = podium(&[command, arguments].concat(), keys);
            assert_eq!(output.status.code(), Some(2), "{arguments:?}");
            assert_eq!(text(&output.stderr), message);
            assert_eq!(text(&output.stdout), "");
        }
    }
}

#[test]
fn a_setting_that_needs_keys_exits_with_2_without_any() {
    for (name, value, setting) in [
        ("PODIUM__AUTH__PROTECT_METRICS", "true", "`auth.protect_metrics = true` has no effect without API keys"),
        ("PODIUM__AUTH__REQUESTS_PER_MINUTE", "5", "`auth.requests_per_minute = 5` has no effect without API keys"),
        ("PODIUM__AUTH__KEYS_FILE", "", "`auth.keys_file` is empty (environment PODIUM__AUTH__KEYS_FILE)"),
    ] {
        for command in [&["check", "--no-model"][..], &["serve", "--listen", "127.0.0.1:0"]] {
            let output =
                Command::new(env!("CARGO_BIN_EXE_podium")).args(command).env_clear().env(name, value).output().unwrap();
            let printed = text(&output.stderr);
            assert!(printed.starts_with(&format!("error: {setting}")), "{printed}");
            assert_eq!(output.status.code(), Some(2));
        }
    }
}

#[test]
fn an_invalid_cors_origin_exits_with_2() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_podium"));
    let output =
        command.args(["check", "--no-model"]).env_clear().env("PODIUM__SERVER__CORS_ORIGINS", "https://a.example/x");
    let output = output.output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let printed = text(&output.stderr);
    assert!(printed.starts_with("error: `server.cors_origins` must be * or a list of origins"), "{printed}");
    assert!(printed.ends_with("not \"https://a.example/x\" (environment PODIUM__SERVER__CORS_ORIGINS)\n"), "{printed}");
}

/// The status of a rerank with this key.
#[cfg(unix)]
fn status(address: &str, key: &str) -> u16 {
    let body = r#"{"query": "q", "documents": ["one", "two"]}"#;
    let mut stream = TcpStream::connect(address).unwrap();
    let head = "POST /v1/rerank HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json";
    write!(stream, "{head}\r\nx-api-key: {key}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

#[cfg(unix)]
#[test]
fn sighup_reloads_the_keys_and_no_log_line_contains_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys");
    std::fs::write(&path, "secret-number-1 name=search\n").unwrap();
    let mut server = Command::new(env!("CARGO_BIN_EXE_podium"))
        .args(["serve", "--listen", "127.0.0.1:0", "--device", "cpu", "--api-keys-file", path.to_str().unwrap()])
        .env("PODIUM_API_KEYS", "secret-number-0")
        .env("PODIUM__TELEMETRY__LOG_LEVEL", "trace")
        .env_remove("RUST_LOG")
        .env_remove("PODIUM_CONFIG")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(server.stderr.take().unwrap());
    let mut lines = String::new();
    let mut read_until = |lines: &mut String, words: &str| {
        while !lines.contains(words) {
            assert!(log.read_line(lines).unwrap() > 0, "the server ended: {lines}");
        }
    };
    read_until(&mut lines, "listening on http://");
    assert!(lines.contains("requests need an API key"), "{lines}");
    let address = lines.split_once("listening on http://").unwrap().1.split_whitespace().next().unwrap().to_owned();
    let signal =
        |name: &str| assert!(Command::new("kill").args([name, &server.id().to_string()]).status().unwrap().success());

    assert_eq!([0, 1, 2].map(|number| status(&address, &format!("secret-number-{number}"))), [200, 200, 401]);
    std::fs::write(&path, "secret-number-1\nsecret-number-2 secret-number-3\n").unwrap();
    signal("-HUP");
    read_until(&mut lines, "nothing has changed");
    assert_eq!([0, 1, 2].map(|number| status(&address, &format!("secret-number-{number}"))), [200, 200, 401]);
    std::fs::write(&path, "secret-number-2\n").unwrap();
    signal("-HUP");
    read_until(&mut lines, "the keys were read again");
    assert_eq!([0, 1, 2].map(|number| status(&address, &format!("secret-number-{number}"))), [200, 401, 200]);

    // Without a signal: within seconds.
    std::fs::write(&path, "secret-number-4\n").unwrap();
    let began = Instant::now();
    while status(&address, "secret-number-4") != 200 {
        assert!(began.elapsed() < Duration::from_secs(60), "the new file was not read");
        std::thread::sleep(Duration::from_millis(50));
    }

    signal("-TERM");
    read_until(&mut lines, "every accepted request is answered");
    assert_eq!(server.wait().unwrap().code(), Some(0));
    assert!(lines.contains("line 2: only name=…"), "{lines}");
    assert!(lines.contains("key=\"search\"") || lines.contains("key=search"), "{lines}");
    assert!(!lines.contains("secret"), "{lines}");
}
