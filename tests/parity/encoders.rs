//! Cross-encoders against sentence-transformers' `CrossEncoder`, and decoders with a classifier against
//! transformers: token ids, token types, logits and relevances, from a request's texts.

use podium::rerank::RerankRequest;
use podium::runtime::{Checkpoint, ForwardPass, Runtime, TokenTypes};
use serde::Deserialize;

use crate::deviation::{Table, largest_of_row};
use crate::fixtures::{folder, golden};
use crate::requests::{Loaded, usual_limits};

/// Checkpoints, and the family of each.
const CASES: [(&str, &str); 7] = [
    ("cross-encoder-bert", "auto"),
    ("cross-encoder-xlm-roberta", "auto"),
    ("cross-encoder-roberta", "auto"),
    ("cross-encoder-modernbert", "auto"),
    ("cross-encoder-modules", "auto"),
    ("qwen3-reranker-seq-cls", "qwen3-reranker"),
    ("nemotron", "auto"),
];

const TOLERANCE: f32 = 1e-4;

/// `golden.json` of a cross-encoder.
#[derive(Deserialize)]
struct EncoderGolden {
    shape: String,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    query: String,
    documents: Vec<String>,
    /// One for each document.
    prompts: Vec<GoldenPair>,
    /// Logits.
    raw: Vec<f32>,
    /// The result of `predict`: the logits after the checkpoint's activation.
    predicted: Vec<f32>,
}

#[derive(Deserialize)]
struct GoldenPair {
    token_ids: Vec<u32>,
    /// Where tokens of type 1 begin.
    second_start: Option<usize>,
}

impl Case {
    fn request(&self) -> RerankRequest {
        RerankRequest::new(self.query.as_str(), self.documents.clone())
    }
}

fn load((case, family): (&str, &str)) -> Loaded {
    let checkpoint = Checkpoint::folder(&folder(case)).unwrap_or_else(|error| panic!("{case}: {error}"));
    Loaded::new(&checkpoint, family)
}

#[test]
fn pairs_have_the_token_ids_and_types_of_the_reference() {
    for (name, family) in CASES {
        let loaded = load((name, family));
        for case in golden::<EncoderGolden>(name).cases {
            let (ran, _) = loaded.run(&case.request(), &usual_limits());
            let mut pairs = case.prompts.iter();
            for (planned, _) in &ran {
                let ForwardPass { prefix, suffixes, .. } = &planned.pass;
                let is_causal = loaded.runtime.facts().causal;
                assert!(is_causal || prefix.is_empty(), "{name}: every token sees the document");
                let alone = [Vec::new()];
                let suffixes = if suffixes.is_empty() { &alone } else { suffixes.as_slice() };
                for (at, suffix) in suffixes.iter().enumerate() {
                    let expected = pairs.next().unwrap_or_else(|| panic!("{name}, {}: too many", case.name));
                    let ids = [prefix.as_slice(), suffix].concat();
                    assert_eq!(ids, expected.token_ids, "{name}, {}, pair {at}", case.name);
                    let second_start = match &planned.pass.token_types {
                        TokenTypes::Zero => None,
                        TokenTypes::Pairs(starts) => Some(starts[at]),
                    };
                    assert_eq!(second_start, expected.second_start, "{name}, {}, pair {at}", case.name);
                }
            }
            assert!(pairs.next().is_none(), "{name}, {}: too few", case.name);
        }
    }
}

#[test]
fn logits_and_relevances_are_those_of_the_reference() {
    let mut table = Table::default();
    for (name, family) in CASES {
        let (golden, loaded) = (golden::<EncoderGolden>(name), load((name, family)));
        for case in &golden.cases {
            let (_, scores) = loaded.run(&case.request(), &usual_limits());
            table.note(name, &golden.shape, "logits", largest_of_row(&scores.raw, &case.raw));
            // An identity leaves the logit; Podium's relevance is then its sigmoid.
            let predicted: Vec<f32> = if case.predicted == case.raw {
                case.raw.iter().map(|logit| 1. / (1. + (-logit).exp())).collect()
            } else {
                case.predicted.clone()
            };
            table.note(name, &golden.shape, "relevance", largest_of_row(&scores.relevance, &predicted));
        }
    }
    println!("\nlargest deviation from sentence-transformers in f32\n{}", table.to_text());
    table.assert_within(TOLERANCE);
}

#[test]
fn a_cut_document_is_reported() {
    let loaded = load(("cross-encoder-bert", "auto"));
    let golden = golden::<EncoderGolden>("cross-encoder-bert");
    let case = golden.cases.iter().find(|case| case.name == "a cut document").expect("it is a case");
    let prepared = loaded.prompter.tokenize(&case.request(), &usual_limits(), &|| false).expect("it fits");
    let [long, short] = prepared.documents.as_slice() else { panic!("two documents") };
    // 130 positions less [CLS], the query and two [SEP].
    let read = 130 - case.prompts[0].second_start.expect("BERT has types") - 1;
    assert_eq!((long.tokens_read, short.tokens_read), (read, short.tokens));
    assert!(long.tokens > read);
    assert_eq!(prepared.warnings, [format!("1 of 2 documents was cut to {read} tokens: index 0")]);
}
