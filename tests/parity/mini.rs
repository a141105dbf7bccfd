//! podium-mini, from texts to scores, against the numpy reference of `training/reference.py`.

#![expect(clippy::unwrap_used, reason = "a test that cannot set up has failed")]

use podium::rerank::{LimitSettings, Mode, RerankRequest};
use podium::runtime::Checkpoint;
use serde::Deserialize;

use crate::deviation::largest_of_row;
use crate::requests::{Loaded, usual_limits};

#[derive(Deserialize)]
struct MiniCase {
    query: String,
    instruction: String,
    documents: Vec<String>,
    query_ids: Vec<u32>,
    base: Vec<f32>,
    gate: f32,
    scores: Vec<f32>,
    relevance: Vec<f32>,
}

impl MiniCase {
    fn request(&self) -> RerankRequest {
        let mut request = RerankRequest::new(&self.query, self.documents.clone());
        request.instruction = (!self.instruction.is_empty()).then(|| self.instruction.as_str().into());
        // As `training/export.py` reads them: two rows.
        request.max_tokens_per_doc = Some(508);
        request
    }
}

fn cases() -> Vec<MiniCase> {
    serde_json::from_str(include_str!("../fixtures/podium_mini.json")).unwrap()
}

#[test]
fn podium_minis_scores_are_those_of_the_reference() {
    let loaded = Loaded::new(&Checkpoint::podium_mini(), "auto");
    for case in cases() {
        let (ran, scores) = loaded.run(&case.request(), &usual_limits());
        assert_eq!(ran.len(), 1, "{}: one slate", case.query);
        let query = &ran[0].0.pass.suffixes[0];
        assert_eq!(query[1..query.len() - 1], case.query_ids, "{}", case.query);
        let deviation = largest_of_row(&scores.raw, &case.scores);
        println!("{:40} {:40} gate {:.3}: {deviation:.1e}", case.query, case.instruction, case.gate);
        assert!(deviation <= 2e-4, "{}: {:?}, not {:?}", case.query, scores.raw, case.scores);
        assert!(largest_of_row(&scores.relevance, &case.relevance) <= 1e-4, "{}", case.query);
    }
}

#[test]
fn an_instruction_with_a_closed_gate_changes_no_score_by_a_single_bit() {
    let loaded = Loaded::new(&Checkpoint::podium_mini(), "auto");
    let closed: Vec<MiniCase> =
        cases().into_iter().filter(|case| case.gate == 0.0 && !case.instruction.is_empty()).collect();
    assert!(!closed.is_empty());
    for case in closed {
        let (_, with) = loaded.run(&case.request(), &usual_limits());
        let (_, without) = loaded.run(&RerankRequest { instruction: None, ..case.request() }, &usual_limits());
        assert_eq!(with.raw, without.raw, "{}", case.instruction);
        assert!(largest_of_row(&with.raw, &case.base) <= 2e-4, "{}", case.instruction);
    }
}

#[test]
fn a_document_alone_has_the_score_that_it_has_in_pointwise_mode() {
    let loaded = Loaded::new(&Checkpoint::podium_mini(), "auto");
    for case in cases() {
        let pointwise = RerankRequest { mode: Mode::Pointwise, ..case.request() };
        let (ran, apart) = loaded.run(&pointwise, &usual_limits());
        assert_eq!(ran.len(), case.documents.len());
        for (document, score) in case.documents.iter().zip(apart.raw) {
            let alone = RerankRequest { documents: vec![document.clone()], ..case.request() };
            let (_, alone) = loaded.run(&alone, &usual_limits());
            assert!((alone.raw[0] - score).abs() < 1e-6, "{}", case.query);
        }
    }
}

#[test]
fn the_order_of_documents_changes_no_score_of_podium_mini() {
    let loaded = Loaded::new(&Checkpoint::podium_mini(), "auto");
    for case in cases() {
        let (_, scores) = loaded.run(&case.request(), &usual_limits());
        let mut request = case.request();
        request.documents.reverse();
        let (_, mut reversed) = loaded.run(&request, &usual_limits());
        reversed.raw.reverse();
        assert!(largest_of_row(&reversed.raw, &scores.raw) <= 1e-5, "{}", case.query);
    }
}

#[test]
fn a_long_document_is_read_in_rows_and_a_slate_keeps_its_limit() {
    let loaded = Loaded::new(&Checkpoint::podium_mini(), "auto");
    let long = "Bread needs flour and water. ".repeat(120) + "Iron rusts when water and air reach it.";
    let ask = |tokens: usize| {
        let mut request = RerankRequest::new("Why does iron rust?", vec![long.clone(), "A short text.".to_owned()]);
        request.max_tokens_per_doc = Some(tokens);
        loaded.run(&request, &usual_limits())
    };
    let ((short, few), (whole, many)) = (ask(254), ask(2000));
    assert_eq!(short[0].0.pass.suffixes.len(), 3, "the query and two documents");
    assert_eq!(whole[0].0.pass.suffixes.len(), 5, "the long document takes three rows");
    assert!(many.raw[0] > few.raw[0] + 1.0, "its last sentence answers: {few:?} {many:?}");
    let limits = LimitSettings { max_slate_tokens: 600, ..usual_limits() };
    let mut request = RerankRequest::new("iron", vec![long.clone(), long.clone(), "A short text.".to_owned()]);
    request.max_tokens_per_doc = Some(5000);
    let (ran, _) = loaded.run(&request, &limits);
    assert!(ran.iter().all(|(planned, _)| planned.pass.tokens() <= 600));
}
