//! Reloading settings with SIGHUP: what changes, and what the log says.

#![cfg(unix)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};

struct Process {
    child: Child,
    log: BufReader<ChildStderr>,
    lines: String,
    address: String,
}

impl Process {
    fn start(config: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_podium"))
            .args(["serve", "--listen", "127.0.0.1:0", "--device", "cpu", "--config", config.to_str().unwrap()])
            .env_remove("RUST_LOG")
            .env_remove("PODIUM_API_KEYS")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let mut process = Self { child, log, lines: String::new(), address: String::new() };
        process.wait_for_log("listening on http://");
        let address = process.lines.split_once("listening on http://").unwrap().1;
        process.address = address.split_whitespace().next().unwrap().to_owned();
        process
    }

    /// Reads the log until it contains `words`; returns the new lines.
    fn wait_for_log(&mut self, words: &str) -> String {
        let start = self.lines.len();
        while !self.lines[start..].contains(words) {
            assert!(self.log.read_line(&mut self.lines).unwrap() > 0, "the process ended: {}", self.lines);
        }
        self.lines[start..].to_owned()
    }

    fn signal(&mut self, name: &str) {
        assert!(Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap().success());
    }

    /// Ranks two documents and returns the status.
    fn rerank(&self, fields: &str) -> u16 {
        let body = format!(r#"{{"query": "q", "documents": ["one", "two"]{fields}}}"#);
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let head = "POST /v1/rerank HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json";
        write!(stream, "{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.split(' ').nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail if the process has already ended.
        let _killed = self.child.kill();
        let _waited = self.child.wait();
    }
}

#[test]
fn sighup_reloads_limits_and_instructions_and_an_invalid_file_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (config, profiles) = (folder.path().join("podium.toml"), folder.path().join("profiles.toml"));
    let write_config = |limits: &str, rest: &str| {
        let text = format!("instructions.file = {profiles:?}\nlimits.max_documents = {limits}\n{rest}\n");
        std::fs::write(&config, text).unwrap();
    };
    std::fs::write(&profiles, "[house]\ntext = \"Prefer our own pages.\"\n").unwrap();
    write_config("100", "");
    let mut process = Process::start(&config);
    assert_eq!((process.rerank(""), process.rerank(r#", "profile": "house""#)), (200, 200));
    assert_eq!(process.rerank(r#", "profile": "guest""#), 422);

    // A valid file: the log names what has changed, and what needs a restart.
    std::fs::write(&profiles, "[guest]\ntext = \"Prefer pages for guests.\"\n").unwrap();
    write_config("1", "schedule.max_queued_requests = 3\nserver.max_body_bytes = 2048");
    process.signal("-HUP");
    let log = process.wait_for_log("the settings were read again");
    for words in [
        r#"changed setting="limits.max_documents" from="100" to="1""#,
        r#"changed setting="schedule.max_queued_requests" from="256" to="3""#,
        "the instructions' file has changed",
        r#"a change of this setting requires a restart setting="server.max_body_bytes" running="16777216" wanted="2048""#,
    ] {
        assert!(log.contains(words), "{words:?} is not in\n{log}");
    }
    assert_eq!(process.rerank(""), 422, "two documents are over the new limit");

    // An invalid limit: nothing changes, and the log names the file, the key and the range.
    write_config("0", "");
    process.signal("-HUP");
    let log = process.wait_for_log("nothing has changed");
    for words in ["limits.max_documents", "podium.toml", "between 1 and 100000"] {
        assert!(log.contains(words), "{words:?} is not in\n{log}");
    }
    assert_eq!(process.rerank(""), 422);

    // Invalid profiles beside a valid limit: nothing changes.
    write_config("50", "");
    std::fs::write(&profiles, "[guest]\ntext = \"\"\n").unwrap();
    process.signal("-HUP");
    let log = process.wait_for_log("nothing has changed");
    assert!(log.contains("profiles.toml") && log.contains("its text is empty"), "{log}");
    assert_eq!(process.rerank(""), 422);

    std::fs::write(&profiles, "[guest]\ntext = \"Prefer pages for guests.\"\n").unwrap();
    process.signal("-HUP");
    process.wait_for_log("the settings were read again");
    assert_eq!((process.rerank(r#", "profile": "guest""#), process.rerank(r#", "profile": "house""#)), (200, 422));
    process.signal("-TERM");
    assert_eq!(process.child.wait().unwrap().code(), Some(0));
}
