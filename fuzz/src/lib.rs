//! Invariants for arbitrary input: no panic, no unbounded memory, and errors of the right kind. The
//! fuzz targets call these functions with generated input, `tests/fuzz_corpus.rs` with the files of
//! `corpus/`.
//!
//! Each function returns whether the input was accepted.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use podium::app;
use podium::config::{Configuration, Sources};
use podium::http::ErrorShape;
use podium::http::dialects::ROUTES;
use podium::pipeline::{InstructionSettings, load_instructions};
use podium::prompt::{LexicalTable, PodiumConfig, Prompter, Tokenizer};
use podium::rerank::{LimitSettings, Mode, RerankError, RerankRequest};
use podium::runtime::fake::FakeRuntime;
use podium::runtime::packed::{ComputeSettings, PackedRuntime};
use podium::runtime::{Checkpoint, ForwardPass, Runtime};
use podium::scoring::Rounds;
use podium::telemetry::mask_url_secrets;
use serde_json::Value;
use tempfile::TempDir;

/// Maximum length of an error message for a client, in bytes.
const MAX_MESSAGE_BYTES: usize = 1500;

/// The separator between the texts in the input of [`prompts`].
const SEPARATOR: char = '\u{1e}';

/// The body of a request. The first byte selects the route (`0` is the first route).
pub fn requests(data: &[u8]) -> bool {
    let Some((first, body)) = data.split_first() else { return false };
    if let Ok(text) = str::from_utf8(body) {
        let _masked = mask_url_secrets(text);
    }
    match ROUTES[usize::from(*first) % ROUTES.len()].read(body) {
        Ok(call) => {
            assert!(!call.requests.is_empty());
            // A query may be paired with many texts, but never with more than the body has bytes.
            assert!(call.requests.len() <= body.len());
            true
        }
        Err(failure) => {
            let (spec, message) = (failure.spec(), failure.to_string());
            assert!(spec.status.is_client_error(), "{message}");
            assert!(message.len() < MAX_MESSAGE_BYTES, "{message}");
            for shape in [ErrorShape::Podium, ErrorShape::Voyage, ErrorShape::Tei] {
                let written: Value = serde_json::from_slice(&shape.body(&failure, "id")).expect("an error is JSON");
                assert!(written.is_object());
            }
            false
        }
    }
}

static PROMPTER: LazyLock<Arc<Prompter>> = LazyLock::new(|| {
    let prompter = app::prompter(&Checkpoint::podium_nano(), FakeRuntime::new().facts(), "auto");
    Arc::new(prompter.expect("the embedded model has a prompt"))
});

/// The embedded model's control tokens by id. The `<|embed_N|>` tokens, which encode how many words
/// a document shares with the query, count as one token.
static CONTROLS: LazyLock<HashMap<u64, String>> = LazyLock::new(|| {
    let json: Value = serde_json::from_slice(&Checkpoint::podium_nano().tokenizer).expect("a tokenizer is JSON");
    let tokens = json["added_tokens"].as_array().expect("it has control tokens");
    let named = tokens.iter().filter_map(|token| Some((token["id"].as_u64()?, token["content"].as_str()?)));
    named.map(|(id, name)| (id, if name.starts_with("<|embed_") { "<|embed|>" } else { name }.to_owned())).collect()
});

/// Texts separated by `\x1e`: instruction, query, documents. Whatever they contain, the prompt has
/// the same control tokens in the same order as a prompt of harmless texts, and one output row for
/// each document and one for the query in each pass.
pub fn prompts(data: &[u8]) -> bool {
    let text = String::from_utf8_lossy(data);
    let mut texts = text.split(SEPARATOR).map(ToOwned::to_owned);
    let (instruction, query) = (texts.next().map(Into::into), texts.next());
    let documents: Vec<String> = texts.take(8).collect();
    let (Some(query), false) = (query, documents.is_empty()) else { return false };
    let mode = if data.len().is_multiple_of(2) { Mode::Auto } else { Mode::Pointwise };
    let count = documents.len();
    let request = RerankRequest { instruction, mode, ..RerankRequest::new(query, documents) };
    let passes = match build_passes(&request) {
        Ok(passes) => passes,
        Err(RerankError::InvalidField { field, .. }) => {
            assert_eq!(field, "query");
            return false;
        }
        Err(error) => panic!("{error:?}"),
    };
    let has_instruction = passes.iter().any(|pass| control_tokens(pass).contains(&"<|instruct|>"));
    let harmless = RerankRequest {
        query: "harmless".to_owned(),
        instruction: has_instruction.then(|| "harmless".into()),
        documents: vec!["harmless".to_owned(); count],
        ..request
    };
    let harmless = build_passes(&harmless).expect("harmless texts have a prompt");
    let shape = |passes: &[ForwardPass]| -> Vec<(Vec<&str>, usize)> {
        passes.iter().map(|pass| (control_tokens(pass), pass.output_rows())).collect()
    };
    assert_eq!(shape(&passes), shape(&harmless));
    let output_rows: usize = passes.iter().map(ForwardPass::output_rows).sum();
    assert_eq!(output_rows, count + passes.len());
    true
}

fn build_passes(request: &RerankRequest) -> Result<Vec<ForwardPass>, RerankError> {
    let limits =
        LimitSettings { max_documents: 1000, max_passages: 10_000, max_slate_documents: 64, max_slate_tokens: 131_072 };
    let prepared = Arc::new(PROMPTER.tokenize(request, &limits, &|| false)?);
    let passes = Rounds::begin(Arc::clone(&PROMPTER), prepared)?.next_round()?.unwrap_or_default();
    Ok(passes.into_iter().map(|planned| planned.pass).collect())
}

/// The control tokens of a pass, in order. They are compared by id, because ordinary tokens may
/// spell a control token (after lower-casing, for example), and the model reads those as text.
fn control_tokens(pass: &ForwardPass) -> Vec<&'static str> {
    let ids = std::iter::once(&pass.prefix).chain(&pass.suffixes).flatten();
    ids.filter_map(|id| CONTROLS.get(&u64::from(*id)).map(String::as_str)).collect()
}

/// A folder with a valid checkpoint; inputs replace one of its files.
static CHECKPOINT: LazyLock<Mutex<TempDir>> = LazyLock::new(|| {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let fixture = root.ancestors().map(|folder| folder.join("tests/parity/fixtures/qwen3-mha-f32"));
    let fixture: PathBuf = fixture.into_iter().find(|folder| folder.is_dir()).expect("the fixture is there");
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["config.json", "tokenizer.json", "model.safetensors"] {
        fs::copy(fixture.join(name), folder.path().join(name)).expect("a copy");
    }
    Mutex::new(folder)
});

/// A file of a checkpoint. The first byte selects the file: `0` config.json, `1` tokenizer.json,
/// `2` model.safetensors, `3` lexical.safetensors, `4` model.safetensors.index.json, `5` Podium's
/// section of config.json.
pub fn checkpoints(data: &[u8]) -> bool {
    let Some((first, bytes)) = data.split_first() else { return false };
    match first % 6 {
        0 => loads_with("config.json", bytes),
        1 => Tokenizer::from_bytes(bytes, "tokenizer.json").is_ok(),
        2 => loads_with("model.safetensors", bytes),
        3 => LexicalTable::from_bytes(bytes).is_ok(),
        4 => loads_with("model.safetensors.index.json", bytes),
        _ => serde_json::from_slice(bytes)
            .is_ok_and(|config: Value| PodiumConfig::from_config(&config, "config.json").is_ok()),
    }
}

/// Whether the checkpoint loads with one file replaced. Restores the file afterwards.
fn loads_with(name: &str, bytes: &[u8]) -> bool {
    let folder = CHECKPOINT.lock().unwrap_or_else(PoisonError::into_inner);
    let path = folder.path().join(name);
    let before = fs::read(&path).ok();
    fs::write(&path, bytes).expect("the file is written");
    let loaded = Checkpoint::folder(folder.path())
        .and_then(|checkpoint| PackedRuntime::load(&checkpoint, &ComputeSettings::reference()));
    match before {
        Some(before) => fs::write(&path, before),
        None => fs::remove_file(&path),
    }
    .expect("the file is restored");
    loaded.is_ok()
}

/// The file that configurations are written to and loaded from.
static CONFIG_FILE: LazyLock<Mutex<tempfile::NamedTempFile>> =
    LazyLock::new(|| Mutex::new(tempfile::NamedTempFile::new().expect("a file")));

/// A configuration file, or a file of stored instructions if the first line is `#instructions`.
pub fn settings(data: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(data) else { return false };
    if let Some(profiles) = text.strip_prefix("#instructions\n") {
        return load_instructions(&InstructionSettings::default(), Some(profiles)).is_ok();
    }
    let file = CONFIG_FILE.lock().unwrap_or_else(PoisonError::into_inner);
    fs::write(file.path(), text).expect("the file is written");
    let sources = Sources { file: Some(file.path().to_owned()), ..Sources::default() };
    match Configuration::load(&sources) {
        Ok(configuration) => {
            assert!(configuration.entries().count() > 20);
            true
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            false
        }
    }
}
