//! Every dialect: its reader and its schema have the same fields.

use std::collections::BTreeSet;

use super::*;
use crate::http::schemas::Schemas;

/// Reads a body in a dialect.
pub(super) fn read(dialect: &Dialect, json: &str) -> Result<Call, String> {
    let mut fields = Fields::parse(json.as_bytes()).map_err(|error| error.to_string())?;
    (dialect.read)(&mut fields).map_err(|error| error.to_string())
}

#[test]
fn every_field_that_is_read_is_described_and_every_field_that_is_described_is_read() {
    for dialect in ROUTES.iter().flat_map(Route::dialects) {
        let mut schemas = Schemas::default();
        let name = dialect.request.add_to(&mut schemas);
        let schemas = schemas.into_json();
        let example = schemas[&name]["example"].to_string();
        let mut fields = Fields::parse(example.as_bytes()).unwrap();
        (dialect.read)(&mut fields).unwrap_or_else(|error| panic!("{name}: {error}"));
        let read: BTreeSet<&str> = fields.known().iter().map(String::as_str).collect();
        let properties = schemas[&name]["properties"].as_object().unwrap();
        let described: BTreeSet<&str> = properties.keys().map(String::as_str).collect();
        let hidden = read.difference(&described).copied().collect::<Vec<_>>();
        // A number of results is read only to be refused.
        let expected: &[&str] = if dialect.name == score::DIALECT.name { &["top_k", "top_n"] } else { &[] };
        assert_eq!(hidden, expected, "read by {name}, but not described");
        let unread = described.difference(&read).collect::<Vec<_>>();
        assert!(unread.is_empty(), "described in {name}, but not read: {unread:?}");
    }
}

#[test]
fn raw_scores_of_several_stages_fall_along_the_list() {
    let row =
        |raw_score, relevance_score, stage| RankedDocument { relevance_score, raw_score, stage, ..Default::default() };
    let rows = [row(-1.0, 0.5, Some(2)), row(3.0, 0.25, Some(1)), row(0.0, 0.0, Some(0))];
    let raw = |rows: &[RankedDocument]| rows.iter().map(raw_score_of(rows)).collect::<Vec<f32>>();
    assert_eq!(raw(&rows), [0.0, (0.25_f32 / 0.75).ln(), -88.0]);
    assert_eq!(raw(&rows[..1]), [-1.0], "the scores of one stage are its model's");
}
