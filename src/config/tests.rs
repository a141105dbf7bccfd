//! Precedence of sources, and refused configurations.

use std::fmt;
use std::io::Write;

use super::*;
use crate::models::{LoadWhen, NamedModel, ShadowSettings};
use crate::rerank::Keep;

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
fn the_defaults_are_a_valid_configuration() {
    let settings = Configuration::load(&Sources::default()).unwrap().settings;
    assert_eq!(settings.server.listen, "127.0.0.1:8080");
    assert_eq!(settings.server.max_body_bytes, 16 * 1024 * 1024);
    assert_eq!(settings.model.source, "podium-mini");
    assert_eq!(settings.limits.max_documents, 1000);
    assert_eq!(settings.schedule.timeout_seconds, 120);
}

#[test]
fn flags_win_over_the_environment_over_the_file_over_the_defaults() {
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
fn an_unknown_key_is_refused_with_its_origin_and_the_nearest_key() {
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
    assert!(message(load_file("[server]\nport = 9000\n")).ends_with("did you mean `server.listen`?"));
    assert!(message(load_environment("PODIUM__MODEL__NAME", "a/b")).ends_with("did you mean `model.source`?"));
    assert!(message(load_file("[server.tls.more]\nkey = 1\n")).contains("`server.tls.more.key`"));
}

#[test]
fn an_empty_section_is_accepted() {
    assert!(load_file("[server]\n").is_ok());
}

#[test]
fn a_value_of_another_type_is_refused() {
    let text = message(load_file("[server]\nmax_body_bytes = \"big\"\n"));
    assert!(text.starts_with("`server.max_body_bytes` must be a whole number, not \"big\" (file /"), "{text}");
    assert!(message(load_file("server = 3\n")).contains("unknown configuration key `server`"));
    assert_eq!(
        message(load_environment("PODIUM__MODEL__OFFLINE", "yes")),
        "`model.offline` must be true or false, not \"yes\" (environment PODIUM__MODEL__OFFLINE)"
    );
}

#[test]
fn a_value_out_of_range_is_refused_with_the_range() {
    for (name, value, allowed) in [
        ("PODIUM__LIMITS__MAX_DOCUMENTS", "0", "between 1 and 100000, not 0"),
        ("PODIUM__SCHEDULE__TIMEOUT_SECONDS", "-1", "between 0 and 86400, not -1"),
        ("PODIUM__MODEL__DEVICE", "tpu", "one of auto, cpu, cuda, cuda:N, metal, not \"tpu\""),
        ("PODIUM__MODEL__DEVICE", "cuda:", "one of auto, cpu, cuda, cuda:N, metal, not \"cuda:\""),
        ("PODIUM__MODEL__SOURCE", " ", "a text that is not empty, not \" \""),
        ("PODIUM__SERVER__LISTEN", "8080", "an address with a port, such as 127.0.0.1:8080, not \"8080\""),
        ("PODIUM__SERVER__LISTEN", "localhost:port", "an address with a port"),
        ("PODIUM__SERVER__CORS_ORIGINS", "a.example", "* or a list of origins separated by commas"),
        ("PODIUM__AUTH__REQUESTS_PER_MINUTE", "-1", "between 0 and 1000000, not -1"),
    ] {
        let text = message(load_environment(name, value));
        assert!(text.contains(allowed), "{text}");
        assert!(text.contains(name), "{text}");
    }
}

#[test]
fn text_from_the_environment_is_parsed_as_the_type_of_the_key() {
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
fn a_named_model_has_its_own_values_the_shared_device_and_the_defaults() {
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
    let source_and_device = |model: &NamedModel| (model.model.source.clone(), model.model.device.clone());
    assert_eq!(source_and_device(legal), ("b/legal".to_owned(), "cpu".to_owned()));
    assert_eq!(source_and_device(qwen), ("c/qwen".to_owned(), "cuda".to_owned()));
    assert_eq!((legal.model.served_names.as_str(), legal.model.family.as_str()), ("", "auto"));
}

#[test]
fn an_error_in_a_named_model_names_the_key() {
    for (text, words) in [
        ("[models.legal]\n", "`models.legal.source` is missing"),
        ("[models.legal]\nload = \"off\"\n", "`models.legal.source` is missing"),
        ("[models.legal]\nsource = \"a/b\"\nload = \"later\"\n", "one of start, on_demand, off, not \"later\""),
        ("[models.legal]\nsource = \"a/b\"\nsorce = \"a/b\"\n", "unknown configuration key `models.legal.sorce`"),
        ("[models.legal]\nsource = 1\n", "`models.legal.source` must be a string"),
        ("[models.legal]\nsource = \"\"\n", "`models.legal.source` must be a text that is not empty"),
        (
            "[models.\"a b\"]\nsource = \"a/b\"\n",
            "`models.a b`: a model's name has 1 to 64 letters (a-z, A-Z), digits, dots",
        ),
        ("[models]\nmax_memory_bytes = -1\n", "`models.max_memory_bytes` must be between 0"),
    ] {
        let message = message(load_file(text));
        assert!(message.contains(words), "{words:?} is not in {message:?}");
    }
}

#[test]
fn a_cascade_has_stages_that_keep_numbers_or_shares() {
    let configuration = load_file(
        "[models.large]\nsource = \"a/large\"\n\
         [models.careful]\nstop_when_sure = 0.95\nserved_names = \"vendor/careful\"\n\
         cascade = [ { model = \"podium-mini\", keep = 32 }, { model = \"large\", keep = 0.5 }, { model = \"large\" } ]\n\
         [models.scored]\ncascade = [ { scores = true, keep = 100 }, { model = \"careful\", keep = 5 }, { model = \"large\" } ]\n",
    );
    let models = configuration.unwrap().settings.models;
    let stages = |name: &str| {
        let stages = models.cascades[name].stages.iter();
        stages.map(|stage| (stage.model.clone().unwrap_or_default(), stage.keep)).collect::<Vec<_>>()
    };
    let large = |keep| ("large".to_owned(), keep);
    let mini = ("podium-mini".to_owned(), Keep::Count(32));
    let careful = [mini.clone(), large(Keep::Share(0.5)), large(Keep::Share(1.0))];
    assert_eq!(stages("careful"), careful);
    // A cascade in a cascade: its last stage keeps what the outer one says.
    let of_caller = (String::new(), Keep::Count(100));
    let scored = [of_caller, mini, large(Keep::Share(0.5)), large(Keep::Count(5)), large(Keep::Share(1.0))];
    assert_eq!(stages("scored"), scored);
    assert!((models.cascades["careful"].stop_when_sure - 0.95).abs() < 1e-9);
    assert_eq!(models.cascades["careful"].served().collect::<Vec<_>>(), ["vendor/careful"]);
    assert_eq!(models.named.keys().collect::<Vec<_>>(), ["large"]);
}

#[test]
fn an_error_in_a_cascade_names_key_and_value() {
    let two = "{ model = \"b\" }";
    for (stages, more, words) in [
        ("", "", "`models.a.cascade`: has 0 stages; a cascade has at least 2"),
        (two, "", "`models.a.cascade`: has 1 stages; a cascade has at least 2"),
        (
            format!("{{ model = \"b\", keep = 0 }}, {two}").as_str(),
            "",
            "`models.a.cascade[0].keep`: is 0; give a whole number of at least 1, or a share",
        ),
        (format!("{{ model = \"b\", keep = 1.5 }}, {two}").as_str(), "", "`models.a.cascade[0].keep`: is 1.5; give"),
        (format!("{{ model = \"b\" }}, {two}").as_str(), "", "`models.a.cascade[0].keep`: is missing"),
        (format!("{two}, {{ model = \"b\", keep = 3 }}").as_str(), "", "`models.a.cascade[0].keep`: is missing"),
        (
            "{ model = \"b\", keep = 3 }, { model = \"b\", keep = 3 }",
            "",
            "`models.a.cascade[1].keep`: has no effect, because the last stage passes nothing on",
        ),
        (
            format!("{{ modl = \"b\", keep = 3 }}, {two}").as_str(),
            "",
            "`models.a.cascade[0].modl`: is unknown; a stage has model",
        ),
        (
            format!("{{ keep = 3 }}, {two}").as_str(),
            "",
            "`models.a.cascade[0]`: needs `model` with the name of a model",
        ),
        (format!("3, {two}").as_str(), "", "`models.a.cascade[0]`: is 3; give a table"),
        (
            format!("{{ model = \"b\", keep = 3 }}, {{ scores = true, keep = 2 }}, {two}").as_str(),
            "",
            "`models.a.cascade[1].scores`: the caller's scores can only be the first of several stages",
        ),
        (
            format!("{{ model = \"a\", keep = 3 }}, {two}").as_str(),
            "",
            "`models.a.cascade[0].model`: is a cycle: a > a",
        ),
        (
            format!("{{ model = \"c\", keep = 3 }}, {two}").as_str(),
            "[models.c]\ncascade = [ { model = \"b\", keep = 1 }, { model = \"a\" } ]\n",
            "`models.c.cascade[1].model`: is a cycle: a > c > a",
        ),
        (
            format!("{{ model = \"b\", keep = 3 }}, {two}").as_str(),
            "stop_when_sure = 1.5\n",
            "`models.a.stop_when_sure` must be a number between 0 and 1, not 1.5",
        ),
        (
            format!("{{ model = \"b\", keep = 3 }}, {two}").as_str(),
            "source = \"x/y\"\n",
            "`models.a.source`: a cascade has no source: set it in the tables of its models",
        ),
    ] {
        let (own, others) = if more.starts_with('[') { ("", more) } else { (more, "") };
        let text = format!("[models.b]\nsource = \"x/b\"\n[models.a]\ncascade = [ {stages} ]\n{own}{others}");
        let message = message(load_file(&text));
        assert!(message.contains(words), "{words:?} is not in {message:?}");
    }
}

#[test]
fn a_cascade_is_an_array() {
    let message = message(load_file("[models.a]\ncascade = 3\n"));
    assert!(message.starts_with("`models.a.cascade` must be an array, not 3"), "{message}");
}

#[test]
fn a_shadow_has_a_model_and_a_share() {
    let configuration = load_file("[models.b]\nsource = \"x/b\"\nshadow_of = \"podium-mini\"\nshare = 0.05\n");
    let models = configuration.unwrap().settings.models;
    assert_eq!(models.shadows["b"], ShadowSettings { of: "podium-mini".to_owned(), share: 0.05 });
    for (more, words) in [
        ("shadow_of = \"podium-mini\"\n", "`models.b.share`: is missing"),
        ("share = 0.5\n", "`models.b.shadow_of`: is missing"),
        ("shadow_of = \"b\"\nshare = 0.5\n", "`models.b.shadow_of`: a model cannot be its own shadow"),
        ("shadow_of = \"m\"\nshare = 2.0\n", "`models.b.share` must be a number between 0 and 1, not 2.0"),
        ("stop_when_sure = 0.5\n", "`models.b.stop_when_sure`: is for cascades; this model is none"),
    ] {
        let message = message(load_file(&format!("[models.b]\nsource = \"x/b\"\n{more}")));
        assert!(message.contains(words), "{words:?} is not in {message:?}");
    }
}

#[test]
fn two_configurations_are_compared_and_combined_by_key() {
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
    let combined = before.with(&after, |key| key.starts_with("limits.")).unwrap();
    assert_eq!((combined.settings.limits.max_documents, combined.settings.server.max_body_bytes), (6, 2048));
    assert!(combined.settings.models.named.is_empty());
}

#[test]
fn an_empty_path_of_a_keys_file_is_refused() {
    for (variable, key) in
        [("PODIUM__AUTH__KEYS_FILE", "auth.keys_file"), ("PODIUM__AUTH__ADMIN_KEYS_FILE", "auth.admin_keys_file")]
    {
        for empty in ["", " "] {
            assert_eq!(
                message(load_environment(variable, empty)),
                format!(
                    "`{key}` is empty (environment {variable}): give the path of a keys file, or remove this setting"
                )
            );
        }
    }
    let flag = FlagValue { flag: "--api-keys-file", key: "auth.keys_file", value: Value::from("") };
    let flags = Configuration::load(&Sources { flags: vec![flag], ..Sources::default() });
    assert!(message(flags).starts_with("`auth.keys_file` is empty (flag --api-keys-file)"));
    assert!(load_file("auth.keys_file = \"\"\n").is_ok(), "the defaults say it like this");
}

#[test]
fn a_limit_that_never_takes_effect_is_refused() {
    let text = message(load_file("schedule.max_wait_seconds = 60\nschedule.timeout_seconds = 30\n"));
    assert!(text.starts_with("`schedule.max_wait_seconds` = 60 (file "), "{text}");
    assert!(text.contains(" never takes effect, because `schedule.timeout_seconds` = 30 (file "), "{text}");
    assert!(load_environment("PODIUM__SCHEDULE__TIMEOUT_SECONDS", "30").is_ok(), "the default is not the operator's");
}

#[test]
fn secrets_in_urls_are_masked_in_entries_changes_and_errors() {
    let url = "https://user:secret@collector.example:4318/?key=secret";
    let masked = "https://***@collector.example:4318/?key=***";
    let configuration = load_environment("PODIUM__TELEMETRY__OTLP_ENDPOINT", url).unwrap();
    assert_eq!(configuration.settings.telemetry.otlp_endpoint, url);
    let entry = configuration.entries().find(|entry| entry.0 == "telemetry.otlp_endpoint").unwrap();
    assert_eq!(entry.1, format!("\"{masked}\""));

    let defaults = Configuration::load(&Sources::default()).unwrap();
    let changes = defaults.changes_in(&configuration);
    assert_eq!(changes[0].to.as_deref(), Some(format!("\"{masked}\"").as_str()));
    let other = load_environment("PODIUM__TELEMETRY__OTLP_ENDPOINT", &url.replace("secret@", "secret2@")).unwrap();
    assert_eq!(configuration.changes_in(&other).len(), 1, "a changed secret is a change");

    let refused = message(load_environment("PODIUM__TELEMETRY__OTLP_ENDPOINT", "ftp://user:secret@host"));
    assert!(refused.contains("ftp://***@host") && !refused.contains("secret"), "{refused}");
}
