//! The program itself: exit codes, and what goes to which stream. Nothing here loads a model.

use std::process::{Command, Output};

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
