//! Rankings and explanations as text for a terminal.

use std::io::{self, Write};

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table, TableComponent};

use crate::pipeline::Explanation;
use crate::rerank::Ranking;

/// Maximum length of a document's text in a row, in characters.
const TEXT_CHARACTERS: usize = 72;

/// Writes a ranking as a table, best document first.
pub(super) fn write_ranking(out: &mut impl Write, ranking: &Ranking, texts: &[String]) -> io::Result<()> {
    let mut table = Table::new();
    table.load_preset(NOTHING).set_style(TableComponent::HeaderLines, '─');
    table.set_header(["rank", "score", "index", "tokens", "text"]);
    for (rank, row) in ranking.results.iter().enumerate() {
        let tokens = if row.truncated() {
            format!("{} of {} (cut)", row.tokens_read, row.tokens)
        } else {
            row.tokens.to_string()
        };
        table.add_row([
            (rank + 1).to_string(),
            format!("{:.4}", row.relevance_score),
            row.index.to_string(),
            tokens,
            first_line(texts.get(row.index).map_or("", String::as_str)),
        ]);
    }
    for column in 0..4 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    writeln!(out, "{table}")?;
    writeln!(
        out,
        "{}, {}, {}, {} tokens, {:.0} ms",
        ranking.model,
        ranking.mode,
        counted(ranking.slates, "slate"),
        ranking.usage.prompt_tokens,
        ranking.timing.total.as_secs_f64() * 1000.0
    )
}

/// Writes every forward pass of an explanation, with the prompt texts as the model reads them.
pub(super) fn write_explanation(out: &mut impl Write, explanation: &Explanation) -> io::Result<()> {
    let passes = &explanation.passes;
    writeln!(out, "family {}, mode {}, {}", explanation.family, explanation.mode, counted(passes.len(), "pass"))?;
    for warning in &explanation.warnings {
        writeln!(out, "warning: {warning}")?;
    }
    for (number, pass) in passes.iter().enumerate() {
        let documents: Vec<String> = pass.documents.iter().map(ToString::to_string).collect();
        writeln!(
            out,
            "\n=== pass {} of {}: documents {}; {} tokens, {}, {}",
            number + 1,
            passes.len(),
            documents.join(" "),
            pass.tokens,
            counted(pass.suffixes.len(), "suffix"),
            counted(pass.marks, "position") + " read",
        )?;
        writeln!(out, "--- prefix\n{}", pass.prefix)?;
        for (suffix, text) in pass.suffixes.iter().enumerate() {
            writeln!(out, "--- suffix {suffix}\n{text}")?;
        }
    }
    Ok(())
}

/// A count with its noun, in the plural where it has to be.
fn counted(count: usize, noun: &str) -> String {
    match (count, noun) {
        (1, _) => format!("1 {noun}"),
        (_, "pass" | "suffix") => format!("{count} {noun}es"),
        _ => format!("{count} {noun}s"),
    }
}

/// The start of a text on one line, without control characters.
fn first_line(text: &str) -> String {
    let line: String =
        text.split_whitespace().collect::<Vec<_>>().join(" ").chars().filter(|letter| !letter.is_control()).collect();
    match line.char_indices().nth(TEXT_CHARACTERS) {
        None => line,
        Some((end, _)) => format!("{}…", &line[..end]),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::pipeline::ExplainedPass;
    use crate::rerank::{Mode, RankedDocument, Timing, Usage};

    #[test]
    fn a_ranking_is_a_table_with_the_best_document_first() {
        let row = |index, relevance_score, tokens_read| RankedDocument {
            index,
            relevance_score,
            raw_score: 0.0,
            tokens: 9,
            tokens_read,
            stage: None,
            exit_layer: None,
            spread: None,
            passage: None,
        };
        let ranking = Ranking {
            results: vec![row(1, 0.91, 9), row(0, 0.2, 4)],
            documents: 2,
            model: "podium-mini".to_owned(),
            profile: None,
            mode: Mode::Listwise,
            slates: 1,
            passages: 0,
            usage: Usage { prompt_tokens: 40, truncated_documents: 1 },
            warnings: Vec::new(),
            min_score: None,
            budget: None,
            early_exit: None,
            cascade: None,
            timing: Timing { total: Duration::from_millis(12), ..Timing::default() },
        };
        let mut printed = Vec::new();
        write_ranking(&mut printed, &ranking, &["a\n\u{1b}[31mb".to_owned(), "long ".repeat(40)]).unwrap();
        let printed = String::from_utf8(printed).unwrap();
        let lines: Vec<&str> = printed.lines().collect();
        assert!(lines[0].contains("rank") && lines[0].contains("score"), "{printed}");
        assert!(lines[2].contains("0.9100") && lines[2].contains("long long") && lines[2].contains('…'), "{printed}");
        assert!(lines[3].contains("0.2000") && lines[3].contains("4 of 9 (cut)"), "{printed}");
        assert!(!printed.contains('\u{1b}'), "{printed}");
        assert_eq!(lines.last(), Some(&"podium-mini, listwise, 1 slate, 40 tokens, 12 ms"));
    }

    #[test]
    fn an_explanation_shows_every_text() {
        let pass = ExplainedPass {
            documents: vec![0, 1],
            tokens: 12,
            prefix: "<|query|>q".to_owned(),
            suffixes: vec!["<|document|>a".to_owned(), "<|document|>b".to_owned()],
            marks: 3,
        };
        let explanation = Explanation {
            family: "podium-mini".to_owned(),
            mode: Mode::Listwise,
            passes: vec![pass],
            warnings: vec!["documents[1] was cut".to_owned()],
        };
        let mut printed = Vec::new();
        write_explanation(&mut printed, &explanation).unwrap();
        assert_eq!(
            String::from_utf8(printed).unwrap(),
            "family podium-mini, mode listwise, 1 pass\nwarning: documents[1] was cut\n\n\
             === pass 1 of 1: documents 0 1; 12 tokens, 2 suffixes, 3 positions read\n--- prefix\n<|query|>q\n\
             --- suffix 0\n<|document|>a\n--- suffix 1\n<|document|>b\n"
        );
    }
}
