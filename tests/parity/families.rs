//! The families against transcriptions of their vendors' code: token ids, marks and scores, from a
//! request's texts through the prompt room, the runtime and the scorers.

use std::collections::BTreeMap;

use podium::rerank::{LimitSettings, RerankRequest};
use podium::runtime::packed::ComputeSettings;
use podium::runtime::{Checkpoint, ForwardPass, Head, Runtime};
use podium::scoring::PlannedPass;
use serde::Deserialize;

use crate::deviation::{Table, largest, largest_of_row, largest_relative_of_row};
use crate::fixtures::{folder, golden, load_as};
use crate::requests::{Loaded, Text, usual_limits};

const FAMILIES: [&str; 13] = [
    "jina-v3",
    "jina-v3.5",
    "first",
    "qwen3-reranker",
    "mxbai-v2",
    "zerank",
    "contextual",
    "e2rank",
    "first-chat",
    "yes-no",
    "logit-score",
    "bge-gemma",
    "bge-layerwise",
];
const TOLERANCE: f32 = 1e-4;

/// `golden.json` of a family.
#[derive(Deserialize)]
struct FamilyGolden {
    shape: String,
    cases: Vec<Case>,
}

/// A request, the prompts that the reference makes of it, and the scores.
#[derive(Deserialize)]
struct Case {
    name: String,
    query: Text,
    instruction: Option<String>,
    documents: Vec<Text>,
    /// Documents in one block at most; the reference's own number if absent.
    block: Option<usize>,
    /// Documents in one window.
    window: Option<usize>,
    /// Tokens of one block at most.
    context: Option<usize>,
    /// Tokens of one document at most.
    document_limit: Option<usize>,
    prompts: Vec<GoldenPrompt>,
    /// By document, in the family's own measure; the families by window have an order instead.
    #[serde(default)]
    scores: Vec<f32>,
    #[serde(default)]
    order: Vec<usize>,
}

/// One sequence of the reference.
#[derive(Deserialize)]
struct GoldenPrompt {
    documents: Vec<usize>,
    #[serde(flatten)]
    ids: GoldenIds,
    marks: Vec<usize>,
    /// Of the answers or identifiers, at the last mark.
    #[serde(default)]
    logits: Vec<f32>,
}

/// Token ids, or what identifies a long list of them.
#[derive(Deserialize)]
#[serde(untagged)]
enum GoldenIds {
    Whole { token_ids: Vec<u32> },
    Digest { token_count: usize, token_start: Vec<u32>, token_end: Vec<u32>, token_hash: String },
}

impl GoldenIds {
    fn assert_are(&self, found: &[u32], what: &str) {
        match self {
            Self::Whole { token_ids } => assert_eq!(found, token_ids, "{what}: token ids"),
            Self::Digest { token_count, token_start, token_end, token_hash } => {
                assert!(found.starts_with(token_start), "{what}: starts with {:?}", &found[..token_start.len()]);
                assert_eq!(found.len(), *token_count, "{what}: token count");
                assert!(found.ends_with(token_end), "{what}: ends with {:?}", &found[found.len() - token_end.len()..]);
                let bytes = found.iter().flat_map(|id| id.to_le_bytes());
                let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                    (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
                });
                assert_eq!(format!("{hash:016x}"), *token_hash, "{what}: token ids");
            }
        }
    }
}

impl Case {
    fn request(&self) -> RerankRequest {
        let documents = self.documents.iter().map(Text::written_out).collect();
        let mut request = RerankRequest::new(self.query.written_out(), documents);
        request.instruction = self.instruction.as_deref().map(Into::into);
        request.max_tokens_per_doc = self.document_limit;
        request
    }

    fn limits(&self) -> LimitSettings {
        let usual = usual_limits();
        LimitSettings {
            max_slate_documents: self.block.or(self.window).unwrap_or(125),
            max_slate_tokens: self.context.unwrap_or(usual.max_slate_tokens),
            ..usual
        }
    }
}

/// A pass's sequences as the reference has them: one for a causal slate, one for each document of a
/// prefix with suffixes. With each: its documents, its ids, and where it is read.
fn sequences(planned: &PlannedPass) -> Vec<(Vec<usize>, Vec<u32>, Vec<usize>)> {
    let ForwardPass { prefix, suffixes, .. } = &planned.pass;
    let read = planned.pass.read_positions();
    if suffixes.is_empty() {
        let offsets = read.iter().map(|mark| mark.offset).collect();
        return vec![(planned.documents.clone(), prefix.clone(), offsets)];
    }
    let marks = read.iter().map(|mark| (mark.segment, prefix.len() + mark.offset)).collect::<BTreeMap<_, _>>();
    let suffixes = suffixes.iter().enumerate().zip(&planned.documents);
    suffixes
        .map(|((nth, suffix), &document)| {
            (vec![document], [prefix.as_slice(), suffix].concat(), vec![marks[&(nth + 1)]])
        })
        .collect()
}

/// The checkpoint of a family, or `<family>-chat`: one with a chat template of its own.
fn load(family: &str) -> Loaded {
    let checkpoint = Checkpoint::folder(&folder(family)).unwrap_or_else(|error| panic!("{family}: {error}"));
    Loaded::new(&checkpoint, family.trim_end_matches("-chat"))
}

#[test]
fn token_ids_and_marks_are_those_of_the_reference() {
    for family in FAMILIES {
        let (golden, loaded) = (golden::<FamilyGolden>(family), load(family));
        for case in &golden.cases {
            let (ran, _) = loaded.run(&case.request(), &case.limits());
            let sequences: Vec<_> = ran.iter().flat_map(|(planned, _)| sequences(planned)).collect();
            assert_eq!(sequences.len(), case.prompts.len(), "{family}, {}: prompts", case.name);
            for ((documents, ids, marks), expected) in sequences.iter().zip(&case.prompts) {
                let what = format!("{family}, {}, documents {documents:?}", case.name);
                assert_eq!(documents, &expected.documents, "{what}: documents");
                assert_eq!(marks, &expected.marks, "{what}: marks");
                expected.ids.assert_are(ids, &what);
            }
        }
    }
}

#[test]
fn scores_are_those_of_the_reference() {
    let mut table = Table::default();
    for family in FAMILIES {
        let (golden, loaded) = (golden::<FamilyGolden>(family), load(family));
        for case in &golden.cases {
            let (ran, scores) = loaded.run(&case.request(), &case.limits());
            if matches!(ran[0].0.pass.output.head, Head::Vocabulary(_)) {
                let logits: Vec<_> = ran.iter().flat_map(|(_, output)| output.clone()).collect();
                let expected: Vec<_> = case.prompts.iter().map(|prompt| prompt.logits.clone()).collect();
                table.note(family, &golden.shape, "logits", largest(&logits, &expected));
            }
            if case.scores.is_empty() {
                let mut order: Vec<usize> = (0..case.documents.len()).collect();
                order.sort_by(|&a, &b| scores.relevance[b].total_cmp(&scores.relevance[a]));
                assert_eq!(order, case.order, "{family}, {}", case.name);
                continue;
            }
            // The reference's number is the cosine or logit difference, or the sigmoid of a logit.
            let own = if matches!(family, "qwen3-reranker" | "zerank") { &scores.relevance } else { &scores.raw };
            table.note(family, &golden.shape, "scores", largest_of_row(own, &case.scores));
        }
    }
    println!("\nlargest deviation from the vendors' formulas on transformers in f32\n{}", table.to_text());
    table.assert_within(TOLERANCE);
}

/// A request with these of the case's documents, in this order.
fn request_of(case: &Case, documents: &[usize]) -> RerankRequest {
    let whole = case.request();
    RerankRequest { documents: documents.iter().map(|&at| whole.documents[at].clone()).collect(), ..whole }
}

#[test]
fn pointwise_documents_score_the_same_alone_together_and_shuffled() {
    let mut table = Table::default();
    for family in ["qwen3-reranker", "mxbai-v2", "zerank", "contextual"] {
        let (golden, loaded) = (golden::<FamilyGolden>(family), load(family));
        for case in &golden.cases {
            let raw = |documents: &[usize]| loaded.run(&request_of(case, documents), &case.limits()).1.raw;
            let mut order: Vec<usize> = (0..case.documents.len()).collect();
            let together = raw(&order);
            let alone: Vec<f32> = order.iter().flat_map(|&document| raw(&[document])).collect();
            table.note(family, &golden.shape, "alone", largest_relative_of_row(&alone, &together));
            order.reverse();
            let mut turned = raw(&order);
            turned.reverse();
            table.note(family, &golden.shape, "shuffled", largest_relative_of_row(&turned, &together));
        }
    }
    println!("\nlargest deviation of scores from those of all documents together\n{}", table.to_text());
    table.assert_within(1e-5);
}

#[test]
fn a_family_that_needs_a_head_that_the_checkpoint_lacks_is_refused() {
    let refusal = |case: &str, family: &str| {
        let checkpoint = Checkpoint::folder(&folder(case)).unwrap();
        let runtime = load_as(case, &ComputeSettings::reference());
        podium::app::prompter(&checkpoint, runtime.facts(), family).expect_err("it does not fit").to_string()
    };
    let text = refusal("qwen3-reranker", "jina-v3");
    assert!(
        text.contains("family `jina-v3` needs a projector, and this checkpoint (Qwen3ForCausalLM) has none"),
        "{text}"
    );
}
