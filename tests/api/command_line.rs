//! The `podium` program: exit codes, messages, and which stream they go to.

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
fn check_prints_every_setting_with_its_source() {
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
fn check_names_the_instructions_that_multiply() {
    let instructions = |limit: &str| {
        let mut podium = Command::new(env!("CARGO_BIN_EXE_podium"));
        podium.args(["check", "--model", "podium-nano", "--device", "cpu", "--dtype", "f32"]);
        let output = podium.env("PODIUM_CPU_INSTRUCTIONS", limit).output().unwrap();
        let printed = text(&output.stdout);
        let line = printed.lines().find_map(|line| line.strip_prefix("instructions "));
        line.unwrap_or_else(|| panic!("{printed}\n{}", text(&output.stderr))).trim().to_owned()
    };
    assert_eq!(instructions("plain"), "plain");
    // Every processor that these tests run on has vector instructions.
    assert_ne!(instructions("all"), "plain");
}

#[test]
fn an_invalid_setting_is_reported_once_and_exits_with_2() {
    let output = podium(&["serve", "--listen", "nowhere"]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(text(&output.stdout), "");
    assert_eq!(
        text(&output.stderr),
        "error: `server.listen` must be an address with a port, such as 127.0.0.1:8080, not \"nowhere\" (flag --listen)\n"
    );
}

#[test]
fn a_missing_configuration_file_exits_with_2() {
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
fn check_and_serve_both_refuse_a_setting_that_names_something_missing() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("mine.toml"), "name = 3").unwrap();
    let folder = folder.path().display().to_string();
    for (flags, settings, problem) in [
        (
            vec!["--family", "nope"],
            vec![],
            "error: `model.family`: there is no family `nope`; there are: podium-mini, ",
        ),
        (
            vec![],
            vec![("INSTRUCTIONS__DEFAULT", "nope")],
            "error: `instructions.default`: there is no profile \"nope\"; there are ",
        ),
        (
            vec![],
            vec![("INSTRUCTIONS__FILE", "/nope.toml")],
            "error: `instructions.file`: cannot read /nope.toml: No such file",
        ),
        (vec![], vec![("PROMPTS__FOLDER", "/nope")], "error: `prompts.folder`: cannot read /nope: No such file"),
        (vec![], vec![("PROMPTS__FOLDER", folder.as_str())], &format!("error: `prompts.folder`: {folder}/mine.toml: ")),
        (
            vec![],
            vec![("MODELS__LEGAL__SOURCE", "/nope"), ("MODELS__LEGAL__FAMILY", "nope")],
            "error: `models.legal.family`: there is no family `nope`",
        ),
    ] {
        for command in [&["check", "--no-model"][..], &["check"], &["serve", "--listen", "127.0.0.1:0"]] {
            let variables = settings.iter().map(|(key, value)| (format!("PODIUM__{key}"), value));
            let mut podium = Command::new(env!("CARGO_BIN_EXE_podium"));
            let output = podium.args(command).args(&flags).env_clear().envs(variables).output().unwrap();
            let printed = text(&output.stderr);
            assert!(printed.contains(problem), "{command:?}: {printed}");
            assert_eq!(output.status.code(), Some(2), "{command:?}: {printed}");
        }
    }
}

#[test]
fn check_and_serve_both_refuse_a_stage_or_a_shadow_of_an_unknown_model() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().display().to_string();
    let large = "[models.large]\nsource = \"owner/large\"\nload = \"off\"\nserved_names = \"vendor/large\"\n";
    let stages = |first: &str| {
        format!("[models.careful]\ncascade = [ {{ model = \"{first}\", keep = 9 }}, {{ model = \"vendor/large\" }} ]\n")
    };
    let shadow = |of: &str| format!("shadow_of = \"{of}\"\nshare = 0.5\n");
    for (models, problem) in [
        (
            format!("{large}{}", stages("podium-nimi")),
            "`models.careful.cascade`: there is no model `podium-nimi`; did you mean `podium-mini`? There are \
             podium-mini, large, vendor/large",
        ),
        (
            format!("{large}{}", stages("zebra")),
            "`models.careful.cascade`: there is no model `zebra`; there are podium-mini, large, vendor/large",
        ),
        (
            format!("{large}{}{}", shadow("carefull"), stages("podium-mini")),
            "`models.large.shadow_of`: there is no model `carefull`; did you mean `careful`? There are podium-mini, \
             large, vendor/large, careful",
        ),
        (
            "[models.podium-mini]\nsource = \"owner/other\"\n".to_owned(),
            "`models.podium-mini`: the name `podium-mini` is taken by the default model",
        ),
    ] {
        std::fs::write(&path, models).unwrap();
        for command in [&["check", "--no-model"][..], &["check"], &["serve", "--listen", "127.0.0.1:0"]] {
            let output = podium(&[command, &["--config", &path]].concat());
            let printed = text(&output.stderr);
            assert!(printed.contains(&format!("error: {problem}\n")), "{command:?}: {printed}");
            assert_eq!(output.status.code(), Some(2), "{command:?}");
        }
    }
    std::fs::write(&path, format!("{large}{}{}", shadow("careful"), stages("podium-mini"))).unwrap();
    let output = podium(&["check", "--no-model", "--config", &path]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
}

#[test]
fn a_family_from_a_folder_can_be_served() {
    let folder = tempfile::tempdir().unwrap();
    for file in ["podium-nano.toml", "podium-nano.jinja"] {
        let built_in = concat!(env!("CARGO_MANIFEST_DIR"), "/prompts/").to_owned() + file;
        let own = std::fs::read_to_string(built_in).unwrap().replace("name = \"podium-nano\"", "name = \"mine\"");
        std::fs::write(folder.path().join(file), own).unwrap();
    }
    let mut podium = Command::new(env!("CARGO_BIN_EXE_podium"));
    podium.args(["check", "--model", "podium-nano", "--family", "mine", "--device", "cpu"]).env_clear();
    let output = podium.env("PODIUM__PROMPTS__FOLDER", folder.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let printed = text(&output.stdout);
    assert!(printed.contains("\nfamily        mine\n"), "{printed}");
    assert!(printed.contains("\ncontext       2048 tokens: query, instruction and one document\n"), "{printed}");
}

#[test]
fn a_misspelt_variable_is_refused_and_another_unknown_one_is_warned_of() {
    let run = |command: &[&str], name: &str, value: &str| {
        let mut podium = Command::new(env!("CARGO_BIN_EXE_podium"));
        podium.args(command).env_clear().env(name, value).output().unwrap()
    };
    for command in [&["serve", "--listen", "127.0.0.1:0"][..], &["check", "--no-model"]] {
        for (name, value, meant) in [
            ("PODIUM_API_KEY", "12345678", "PODIUM_API_KEYS"),
            ("PODIUM_PORT", "9000", "PODIUM__SERVER__LISTEN"),
            ("PODIUM_MODEL", "a/b", "PODIUM__MODEL__SOURCE"),
        ] {
            let output = run(command, name, value);
            let problem = format!("error: unknown environment variable {name}; did you mean {meant}?\n");
            assert_eq!((output.status.code(), text(&output.stderr)), (Some(2), problem));
        }
    }
    for (name, value, warned) in [
        ("PODIUM_ZEBRA", "1", true),
        ("PODIUM_CPU_INSTRUCTIONS", "plain", false),
        ("PODIUM_PORT_8080_TCP_ADDR", "tcp://10.0.0.7:8080", false),
        ("PODIUM_SERVICE_HOST", "tcp://10.0.0.7:8080", false),
    ] {
        let output = run(&["check", "--no-model"], name, value);
        assert_eq!(output.status.code(), Some(0), "{name}");
        assert_eq!(text(&output.stderr).contains("unknown environment variable"), warned, "{name}");
    }
}

#[test]
fn a_missing_query_exits_with_2() {
    let output = podium(&["rerank", "-d", "one"]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(text(&output.stderr), "error: no query; give one with -q TEXT\n");
}

#[cfg(unix)]
#[test]
fn a_server_runs_until_sigterm_and_logs_no_text_of_its_requests() {
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

    let killed = Command::new("kill").args(["-TERM", &server.id().to_string()]).status().unwrap();
    assert!(killed.success());
    assert_eq!(server.wait().unwrap().code(), Some(0));
    log.read_to_string(&mut lines).unwrap();
    assert_eq!(lines.matches("\"route\":\"/v1/rerank\"").count(), 2, "{lines}");
    assert!(lines.contains("every accepted request is answered"), "{lines}");
    let start = lines.lines().find(|line| line.contains("models loaded")).unwrap();
    for fact in ["version", "configuration", "device", "dtype", "threads", "memory_bytes"] {
        assert!(start.contains(&format!("\"{fact}\":")), "{fact} is not in {start}");
    }
    for word in ["zebrafish", "walrusmode", "okapidoc"] {
        assert!(!lines.contains(word), "{lines}");
    }
}
