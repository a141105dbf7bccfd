//! Helpers of the benches: requests of a fixed size, and a reranker with the embedded model's
//! prompts and a fake runtime.

use podium::app;
use podium::bench::workload::{Grid, Length, read_tokenizer};
use podium::config::{Configuration, Settings, Sources};
use podium::pipeline::Reranker;
use podium::prompt::Prompter;
use podium::rerank::{Mode, RerankRequest};
use podium::runtime::fake::FakeRuntime;
use podium::runtime::{Checkpoint, Runtime};
use podium::schedule::AdmissionControl;

/// A request with this number of documents, each of 100 tokens.
pub fn request(documents: usize) -> RerankRequest {
    let tokenizer = read_tokenizer(None, "embedded").expect("the embedded tokenizer is valid");
    let grid = Grid {
        documents: vec![documents],
        lengths: vec![Length { low: 100, high: 100 }],
        instruction: Some("Prefer recent sources.".to_owned()),
        mode: Mode::Auto,
        set_limit: false,
        seed: 1,
    };
    grid.generate(&tokenizer).expect("texts are generated")[0].requests[0].clone()
}

/// The default settings.
pub fn settings() -> Settings {
    Configuration::load(&Sources::default()).expect("the defaults are valid").settings
}

/// The embedded model's prompts.
pub fn prompter() -> Prompter {
    app::prompter(&Checkpoint::podium_nano(), FakeRuntime::new().facts(), "auto")
        .expect("the embedded prompts are valid")
}

/// A complete reranker whose model takes no time.
pub fn reranker() -> Reranker {
    let settings = settings();
    let policy = app::policy(&settings).expect("the built-in instructions are valid");
    let names = vec!["podium-nano".to_owned()];
    Reranker::new(names, prompter(), FakeRuntime::new(), policy, &AdmissionControl::new(&settings.schedule))
}
