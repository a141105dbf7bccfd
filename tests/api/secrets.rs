//! Passwords in URLs are in no output of the program.

use std::process::{Command, Output};

/// `podium` with these arguments and environment variables alone.
fn podium(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_podium"));
    command.args(arguments).env_clear().envs(variables.iter().copied()).output().unwrap()
}

/// Everything that was printed, and whether it held the password.
fn printed(output: &Output) -> String {
    let printed = [&output.stdout[..], &output.stderr[..]].concat();
    let printed = String::from_utf8(printed).unwrap();
    assert!(!printed.contains("hunter2"), "{printed}");
    printed
}

#[test]
fn check_masks_the_password_of_a_url() {
    let endpoint = ("PODIUM__TELEMETRY__OTLP_ENDPOINT", "http://user:hunter2@127.0.0.1:4318");
    let output = podium(&["check", "--no-model"], &[endpoint]);
    assert_eq!(output.status.code(), Some(0));
    let printed = printed(&output);
    assert!(printed.contains("otlp_endpoint = \"http://***@127.0.0.1:4318\""), "{printed}");
}

#[test]
fn an_error_about_a_setting_masks_the_password_of_a_url() {
    for wrong in ["ftp://user:hunter2@host", "http://user:hun/ter2@host"] {
        let output = podium(&["check", "--no-model"], &[("PODIUM__TELEMETRY__OTLP_ENDPOINT", wrong)]);
        assert_eq!(output.status.code(), Some(2));
        assert!(!printed(&output).contains("ter2"));
    }
}

#[test]
fn a_hub_that_cannot_be_reached_masks_the_password_of_its_url() {
    let cache = tempfile::tempdir().unwrap();
    let variables = [
        ("HF_ENDPOINT", "http://user:hunter2@127.0.0.1:9"),
        ("HF_HOME", cache.path().to_str().unwrap()),
        ("PODIUM__MODEL__SOURCE", "vendor/model"),
    ];
    let output = podium(&["check"], &variables);
    assert_eq!(output.status.code(), Some(1));
    assert!(printed(&output).contains("127.0.0.1:9"));
}
