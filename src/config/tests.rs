//! The precedence of sources, and what is refused.

use std::io::Write;

use super::*;
use crate::models::{LoadWhen, NamedModel};

fn load_file(text: &str) -> Result<Configuration, ConfigError> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    Configuration::load(&Sources { file: Some(file.path().to_owned()), ..Sources::default() })
}

fn load_environment(name: &str, value: &str) -> Result<Configuration, ConfigError> {
    Configuration::load(&Sources { environment: vec![(name.to_owned(), value.to_owned())], ..Sources::default() })
}

fn message<T: fmt::Debug>(result: Result<T, ConfigError>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn the_defaults_alone_are_a_configuration() {
    let settings = Configuration::load(&Sources::default()).unwrap().settings;
    assert_eq!(settings.server.listen, "127.0.0.1:8080");
    assert_eq!(settings.server.max_body_bytes, 16 * 1024 * 1024);
    assert_eq!(settings.model.source, "podium-nano");
    assert_eq!(settings.limits.max_documents, 1000);
    assert_eq!(settings.schedule.timeout_seconds, 120);
}

#[test]
fn a_flag_beats_the_environment_beats_the_file_beats_the_default() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"[server]\nlisten = \"0.0.0.0:1\"\nshutdown_seconds = 1\n[limits]\nmax_documents = 7\n").unwrap();
    let environment =
        [("PODIUM__SERVER__LISTEN", "0.0.0.0:2"), ("PODIUM__SERVER__SHUTDOWN_SECONDS", "2"), ("HOME", "/")];
    let configuration = Configuration::load(&Sources {
        file: Some(file.path().to_owned()),
        environment: environment.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
        flags: vec![FlagValue { flag: "--listen", key: "server.listen", value: Value::from("0.0.0.0:3") }],
    })
    .unwrap();
    let settings = &configuration.settings;
    assert_eq!(settings.server.listen, "0.0.0.0:3");
    assert_eq!(settings.server.shutdown_seconds, 2);
    assert_eq!(settings.limits.max_documents, 7);
    let origin = |key| configuration.entries().find(|entry| entry.0 == key).map(|entry| entry.2.to_string()).unwrap();
    assert_eq!(origin("server.listen"), "flag --listen");
    assert_eq!(origin("server.shutdown_seconds"), "environment PODIUM__SERVER__SHUTDOWN_SECONDS");
    assert_eq!(origin("limits.max_documents"), format!("file {}", file.path().display()));
    assert_eq!(origin("model.source"), "default");
}

#[test]
fn an_unknown_key_is_named_with_its_source_and_the_nearest_one() {
    let text = message(load_file("[server]\nlisten_on = \"x\"\n"));
    assert!(text.starts_with("unknown configuration key `server.listen_on` (file /"), "{text}");
    assert!(text.ends_with("; did you mean `server.listen`?"), "{text}");
    assert_eq!(
        message(load_environment("PODIUM__LIMITS__MAX_DOCUMENT", "1")),
        "unknown configuration key `limits.max_document` (environment PODIUM__LIMITS__MAX_DOCUMENT); \
         did you mean `limits.max_documents`?"
    );
    assert!(message(load_file("[server]\nmax_documents = 3\n")).ends_with("did you mean `limits.max_documents`?"));
    assert!(message(load_file("[limit]\nmax_documents = 3\n")).ends_with("did you mean `limits.max_documents`?"));
    assert!(message(load_file("listen = \"x\"\n")).ends_with("did you mean `server.listen`?"));
    assert!(message(load_file("[zebra]\n")).contains("unknown configuration key `zebra`"));
    assert!(message(load_file("[zebra]\n")).ends_with("`podium check` lists all keys"));
    assert!(message(load_file("[server.tls.more]\nkey = 1\n")).contains("`server.tls.more.key`"));
}

#[test]
fn an_empty_section_changes_nothing() {
    assert!(load_file("[server]\n").is_ok());
}

#[test]
fn a_value_of_another_type_is_refused() {
    let text = message(load_file("[server]\nmax_body_bytes = \"big\"\n"));
    assert!(text.starts_with("`server.max_body_bytes` must be of type integer, not \"big\" (file /"), "{text}");
    assert!(message(load_file("server = 3\n")).contains("unknown configuration key `server`"));
    assert_eq!(
        message(load_environment("PODIUM__MODEL__OFFLINE", "yes")),
        "`model.offline` must be of type boolean, not \"yes\" (environment PODIUM__MODEL__OFFLINE)"
    );
}

#[test]
fn a_value_out_of_range_is_refused_with_the_range() {
    for (name, value, allowed) in [
        ("PODIUM__LIMITS__MAX_DOCUMENTS", "0", "between 1 and 100000, not 0"),
        ("PODIUM__SCHEDULE__TIMEOUT_SECONDS", "-1", "between 0 and 86400, not -1"),
        ("PODIUM__MODEL__DEVICE", "tpu", "one of auto, cpu, cuda, metal, not \"tpu\""),
        ("PODIUM__MODEL__SOURCE", " ", "a text that is not empty, not \" \""),
        ("PODIUM__SERVER__LISTEN", "8080", "an address with a port, such as 127.0.0.1:8080, not \"8080\""),
        ("PODIUM__SERVER__LISTEN", "localhost:port", "an address with a port"),
        ("PODIUM__SERVER__CORS_ORIGINS", "a.example", "* or a list of origins with commas between them"),
        ("PODIUM__AUTH__REQUESTS_PER_MINUTE", "-1", "between 0 and 1000000, not -1"),
    ] {
        let text = message(load_environment(name, value));
        assert!(text.contains(allowed), "{text}");
        assert!(text.contains(name), "{text}");
    }
}

#[test]
fn text_from_the_environment_is_read_as_the_keys_type() {
    let settings = load_environment("PODIUM__MODEL__OFFLINE", "True").unwrap().settings;
    assert!(settings.model.offline);
    let settings = load_environment("PODIUM__MODEL__REVISION", "12").unwrap().settings;
    assert_eq!(settings.model.revision, "12");
}

#[test]
fn a_file_that_is_missing_or_not_toml_is_named() {
    let missing = Sources { file: Some("/no/such/podium.toml".into()), ..Sources::default() };
    assert_eq!(message(Configuration::load(&missing)), "cannot read the configuration file /no/such/podium.toml");
    assert!(message(load_file("[server\n")).contains("line 1"));
}

#[test]
fn a_named_model_has_what_it_says_and_the_defaults_and_the_houses_device() {
    let configuration = load_file(
        "[model]\nsource = \"a/main\"\ndevice = \"cpu\"\nserved_names = \"main\"\n\
         [models]\nmax_memory_bytes = 5\n\
         [models.legal]\nsource = \"b/legal\"\nload = \"on_demand\"\n\
         [models.\"qwen3-0.6b\"]\nsource = \"c/qwen\"\ndevice = \"cuda\"\n",
    );
    let models = configuration.unwrap().settings.models;
    assert_eq!(models.max_memory_bytes, 5);
    let (legal, qwen) = (&models.named["legal"], &models.named["qwen3-0.6b"]);
    assert_eq!((legal.load, qwen.load), (LoadWhen::OnDemand, LoadWhen::Start));
    let of = |model: &NamedModel| (model.model.source.clone(), model.model.device.clone());
    assert_eq!(of(legal), ("b/legal".to_owned(), "cpu".to_owned()));
    assert_eq!(of(qwen), ("c/qwen".to_owned(), "cuda".to_owned()));
    assert_eq!((legal.model.served_names.as_str(), legal.model.family.as_str()), ("", "auto"));
}

#[test]
fn what_is_wrong_with_a_named_model_is_named() {
    for (text, words) in [
        ("[models.legal]\n", "`models.legal.source` is missing"),
        ("[models.legal]\nload = \"off\"\n", "`models.legal.source` is missing"),
        ("[models.legal]\nsource = \"a/b\"\nload = \"later\"\n", "one of start, on_demand, off, not \"later\""),
        ("[models.legal]\nsource = \"a/b\"\nsorce = \"a/b\"\n", "unknown configuration key `models.legal.sorce`"),
        ("[models.legal]\nsource = 1\n", "`models.legal.source` must be of type string"),
        ("[models.legal]\nsource = \"\"\n", "`models.legal.source` must be a text that is not empty"),
        ("[models.\"a b\"]\nsource = \"a/b\"\n", "letters, digits, dots, hyphens or underscores"),
        ("[models]\nmax_memory_bytes = -1\n", "`models.max_memory_bytes` must be between 0"),
    ] {
        let said = message(load_file(text));
        assert!(said.contains(words), "{words:?} is not in {said:?}");
    }
}

#[test]
fn two_configurations_are_compared_and_mixed_key_by_key() {
    let before = load_file("limits.max_documents = 5\nserver.max_body_bytes = 2048\n").unwrap();
    let after = load_file("limits.max_documents = 6\n[models.legal]\nsource = \"a/b\"\n").unwrap();
    let changes = before.changes_in(&after);
    let changes: Vec<(&str, Option<&str>, Option<&str>)> =
        changes.iter().map(|change| (change.key.as_str(), change.from.as_deref(), change.to.as_deref())).collect();
    let expected = [
        ("limits.max_documents", Some("5"), Some("6")),
        ("models.legal.source", None, Some("\"a/b\"")),
        ("server.max_body_bytes", Some("2048"), Some("16777216")),
    ];
    assert_eq!(changes, expected);
    let mixed = before.with(&after, |key| key.starts_with("limits.")).unwrap();
    assert_eq!((mixed.settings.limits.max_documents, mixed.settings.server.max_body_bytes), (6, 2048));
    assert!(mixed.settings.models.named.is_empty());
}
