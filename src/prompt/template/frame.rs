//! A rendered template with the query and the instruction in place, ready for documents: runs of
//! text, each encoded as one string, and the control tokens between them.

use super::parts::Part;
use crate::prompt::parallel;
use crate::prompt::tokenizer::Tokenizer;

/// The steps of a prompt, in order.
#[derive(Debug, Clone)]
pub(in crate::prompt) struct Frame {
    pub steps: Vec<Step>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::prompt) enum Step {
    Run(Run),
    Control(u32),
    DocumentMark,
}

/// Text between control tokens, which is encoded as one string.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::prompt) struct Run {
    pieces: Vec<Piece>,
    /// Whether it holds the query.
    pub query: bool,
    /// Whether it is tokenized as the start of a prompt: no control token is before it.
    starts: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Document(usize),
}

/// The ids of a prompt, and the positions of its template's control tokens.
#[derive(Debug, Clone, Default)]
pub(in crate::prompt) struct EncodedPrompt {
    pub ids: Vec<u32>,
    /// Offset and id of each control token.
    pub controls: Vec<(usize, u32)>,
}

impl Frame {
    pub(in crate::prompt) fn new(parts: Vec<Part>, query: &str, instruction: &str) -> Self {
        let mut steps = Vec::new();
        let mut run = Run { starts: true, ..Run::default() };
        for part in parts {
            let step = match part {
                Part::Text(text) => {
                    run.push(&text);
                    continue;
                }
                Part::Query => {
                    run.push(query);
                    run.query = true;
                    continue;
                }
                Part::Instruction => {
                    run.push(instruction);
                    continue;
                }
                Part::Document(place) => {
                    run.pieces.push(Piece::Document(place));
                    continue;
                }
                Part::Control(id) => Some(Step::Control(id)),
                Part::DocumentMark => Some(Step::DocumentMark),
                Part::Boundary => None,
            };
            let next = Run { starts: step.is_none(), ..Run::default() };
            steps.push(Step::Run(std::mem::replace(&mut run, next)));
            steps.extend(step);
        }
        steps.push(Step::Run(run));
        steps.retain(|step| !matches!(step, Step::Run(run) if run.pieces.is_empty()));
        Self { steps }
    }

    /// The runs of text, in order.
    pub(in crate::prompt) fn runs(&self) -> impl Iterator<Item = &Run> {
        self.steps.iter().filter_map(|step| match step {
            Step::Run(run) => Some(run),
            Step::Control(_) | Step::DocumentMark => None,
        })
    }

    /// Encodes the prompt with these documents. `mark` gives the id of each mark of the template,
    /// in order.
    pub(in crate::prompt) fn fill<'a>(
        &self,
        tokenizer: &Tokenizer,
        document: impl Fn(usize) -> &'a str,
        mark: impl Fn(usize) -> u32,
    ) -> Result<EncodedPrompt, tokenizers::Error> {
        let texts: Vec<(&Run, String)> = self.runs().map(|run| (run, run.text(&document))).collect();
        let mut runs = encode_all(tokenizer, &texts)?.into_iter();
        let mut filled = EncodedPrompt::default();
        let mut marks = 0;
        for step in &self.steps {
            match step {
                Step::Run(_) => filled.ids.extend(runs.next().into_iter().flatten()),
                Step::Control(id) => filled.push_control(*id),
                Step::DocumentMark => {
                    filled.push_control(mark(marks));
                    marks += 1;
                }
            }
        }
        Ok(filled)
    }
}

impl Run {
    fn push(&mut self, text: &str) {
        match self.pieces.last_mut() {
            Some(Piece::Text(last)) => last.push_str(text),
            Some(Piece::Document(_)) | None => self.pieces.push(Piece::Text(text.to_owned())),
        }
    }

    /// Whether it holds a document.
    pub(in crate::prompt) fn has_document(&self) -> bool {
        self.pieces.iter().any(|piece| matches!(piece, Piece::Document(_)))
    }

    /// Whether its ids are those of a document's text alone.
    pub(in crate::prompt) fn is_document(&self, tokenizer: &Tokenizer) -> bool {
        matches!(self.pieces.as_slice(), [Piece::Document(_)]) && (self.starts || tokenizer.encodes_alike())
    }

    /// Encodes its text.
    pub(in crate::prompt) fn encode(&self, tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>, tokenizers::Error> {
        if self.starts { tokenizer.encode(text) } else { tokenizer.encode_continued(text) }
    }

    /// Whether it ends with a document.
    pub(in crate::prompt) fn ends_with_document(&self) -> bool {
        matches!(self.pieces.last(), Some(Piece::Document(_)))
    }

    /// The run's text with the documents' texts in it.
    pub(in crate::prompt) fn text<'a>(&self, document: impl Fn(usize) -> &'a str) -> String {
        self.pieces
            .iter()
            .map(|piece| match piece {
                Piece::Text(text) => text.as_str(),
                Piece::Document(place) => document(*place),
            })
            .collect()
    }
}

impl EncodedPrompt {
    fn push_control(&mut self, id: u32) {
        self.controls.push((self.ids.len(), id));
        self.ids.push(id);
    }

    /// Drops everything after the last control token `id`.
    pub(in crate::prompt) fn end_after(&mut self, id: u32) {
        if let Some((offset, _)) = self.controls.iter().rfind(|(_, control)| *control == id) {
            let end = *offset + 1;
            self.ids.truncate(end);
            self.controls.retain(|(offset, _)| *offset < end);
        }
    }
}

/// The ids of each text, on several threads where that is faster.
fn encode_all(tokenizer: &Tokenizer, texts: &[(&Run, String)]) -> Result<Vec<Vec<u32>>, tokenizers::Error> {
    let bytes = texts.iter().map(|(_, text)| text.len()).sum();
    let encode = |(run, text): &(&Run, String)| run.encode(tokenizer, text);
    parallel::map(texts.iter().collect(), bytes, encode).into_iter().collect()
}
