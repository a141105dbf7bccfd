//! The whole module: a request in, token sequences out.

mod added;
mod bytes;
mod encoders;
mod injection;
mod nano;
mod passages;
mod plans;
mod qwen;
mod truncation;

use super::family::Layout;
use super::{Plan, PreparedTexts, Prompter, Rendering};
use crate::rerank::{LimitSettings, Mode, RerankRequest};

pub(super) const LISTWISE: [&str; 4] = ["jina-v3", "jina-v3.5", "first", "podium-nano"];
pub(super) const FAMILIES: [&str; 12] = [
    "podium-nano",
    "jina-v3",
    "jina-v3.5",
    "qwen3-reranker",
    "mxbai-v2",
    "zerank",
    "contextual",
    "bge-gemma",
    "bge-layerwise",
    "e2rank",
    "first",
    "yes-no",
];

pub(super) fn limits() -> LimitSettings {
    LimitSettings { max_documents: 1000, max_passages: 10_000, max_slate_documents: 64, max_slate_tokens: 32_768 }
}

pub(super) fn request(query: &str, documents: &[&str]) -> RerankRequest {
    RerankRequest::new(query, documents.iter().map(|document| (*document).to_owned()).collect())
}

pub(super) fn instructed(query: &str, instruction: &str, documents: &[&str]) -> RerankRequest {
    RerankRequest { instruction: Some(instruction.into()), ..request(query, documents) }
}

/// The documents of each pass of the first round, in the request's order.
pub(super) fn passes(prepared: &PreparedTexts) -> Vec<Vec<usize>> {
    match &prepared.plan {
        Plan::Slates(slates) | Plan::Pairs(slates) | Plan::BiEncoder(slates) => {
            slates.iter().map(|slate| slate.clone().collect()).collect()
        }
        Plan::Windows(window) => {
            let windows = crate::rerank::slates::windows(prepared.documents.len(), *window);
            windows.into_iter().map(Iterator::collect).collect()
        }
    }
}

/// All of a request's documents in one pass.
pub(super) fn render(prompter: &Prompter, request: &RerankRequest) -> Rendering {
    let prepared = prompter.tokenize(request, &limits(), &|| false).unwrap();
    let all: Vec<usize> = (0..prepared.documents.len()).collect();
    prompter.render(&prepared, &all).unwrap()
}

/// A causal slate's whole sequence, also the part after the query's mark.
pub(super) fn whole_slate(prompter: &Prompter, request: &RerankRequest) -> Vec<u32> {
    let prepared = prompter.tokenize(request, &limits(), &|| false).unwrap();
    let listwise = prompter.listwise.as_ref().unwrap();
    assert_eq!(listwise.facts.layout, Layout::Causal);
    let frame = prompter.causal_frame(listwise, prepared.documents.len(), prepared.short_texts()).unwrap();
    frame.fill(&prompter.tokenizer, |place| &prepared.documents[place].text, |_| 0).unwrap().ids
}

/// Each document's whole pointwise sequence.
pub(super) fn pair_sequences(prompter: &Prompter, request: &RerankRequest) -> Vec<Vec<u32>> {
    let request = RerankRequest { mode: Mode::Pointwise, ..request.clone() };
    let rendering = render(prompter, &request);
    if rendering.suffixes.is_empty() {
        return vec![rendering.prefix];
    }
    rendering.suffixes.iter().map(|suffix| [rendering.prefix.as_slice(), suffix].concat()).collect()
}
