//! The program itself: exit codes, and what goes to which stream.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Output, Stdio};

fn podium(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_podium"))
        .args(arguments)
        .env_clear()
        .env("PODIUM__LIMITS__MAX_DOCUMENTS", "7")
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn check_prints_what_is_in_effect_and_why() {
    let output = podium(&["check", "--no-model", "--device", "cpu"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let printed = text(&output.stdout);
    let line = |start: &str| printed.lines().find(|line| line.starts_with(start)).unwrap_or_default().to_owned();
    assert!(line("max_documents = 7 ").ends_with("# environment PODIUM__LIMITS__MAX_DOCUMENTS"), "{printed}");
    assert!(line("device = \"cpu\" ").ends_with("# flag --device"), "{printed}");
    assert!(line("listen = ").ends_with("# default"), "{printed}");
    assert_eq!(text(&output.stderr), "");
}

#[test]
fn a_wrong_setting_is_named_once_and_exits_with_2() {
    let output = podium(&["serve", "--listen", "nowhere"]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(text(&output.stdout), "");
    assert_eq!(
        text(&output.stderr),
        "error: `server.listen` must be an address with a port, such as 127.0.0.1:8080, not \"nowhere\" (flag --listen)\n"
    );
}

#[test]
fn a_configuration_file_that_is_not_there_exits_with_2() {
    let output = podium(&["check", "--config", "/no/such/podium.toml"]);
    assert_eq!(output.status.code(), Some(2));
    let printed = text(&output.stderr);
    assert!(printed.starts_with("error: cannot read the configuration file /no/such/podium.toml: "), "{printed}");
    assert_eq!(printed.matches("No such file").count(), 1);
}

#[test]
fn an_unknown_flag_exits_with_2_and_help_with_0() {
    assert_eq!(podium(&["serve", "--no-such-flag"]).status.code(), Some(2));
    let help = podium(&["rerank", "--help"]);
    assert_eq!(help.status.code(), Some(0));
    let printed = text(&help.stdout);
    for flag in ["--query", "--document", "--instruction", "--top-n", "--mode", "--json", "--explain", "--model"] {
        assert!(printed.contains(flag), "{flag} is not in\n{printed}");
    }
}

#[test]
fn a_query_that_is_missing_exits_with_2() {
    let output = podium(&["rerank", "-d", "one"]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(text(&output.stderr), "error: no query: give one with -q\n");
}

#[cfg(unix)]
#[test]
fn a_server_takes_requests_until_sigterm_and_logs_none_of_their_words() {
    let mut server = Command::new(env!("CARGO_BIN_EXE_podium"))
        .args(["serve", "--listen", "127.0.0.1:0", "--device", "cpu"])
        .env("PODIUM__TELEMETRY__LOG_LEVEL", "trace")
        .env("PODIUM__TELEMETRY__LOG_FORMAT", "json")
        .env_remove("RUST_LOG")
        .env_remove("PODIUM_CONFIG")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(server.stderr.take().unwrap());
    let mut lines = String::new();
    let address = loop {
        assert!(log.read_line(&mut lines).unwrap() > 0, "the server ended: {lines}");
        if let Some((_, rest)) = lines.split_once("listening on http://") {
            break rest.split('"').next().unwrap().to_owned();
        }
    };

    let body = r#"{"query": "zebrafish", "instruction": "walrusmode", "documents": ["okapidoc", "two"], "mode": 1}"#;
    for (body, status) in [(body.replace(", \"mode\": 1", ""), 200), (body.to_owned(), 422)] {
        let mut stream = TcpStream::connect(&address).unwrap();
        let head =
            "POST /v1/rerank?q=zebrafish HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json";
        write!(stream, "{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    }

    let asked = Command::new("kill").args(["-TERM", &server.id().to_string()]).status().unwrap();
    assert!(asked.success());
    assert_eq!(server.wait().unwrap().code(), Some(0));
    log.read_to_string(&mut lines).unwrap();
    assert_eq!(lines.matches("\"route\":\"/v1/rerank\"").count(), 2, "{lines}");
    assert!(lines.contains("every accepted request is answered"), "{lines}");
    for word in ["zebrafish", "walrusmode", "okapidoc"] {
        assert!(!lines.contains(word), "{lines}");
    }
}
