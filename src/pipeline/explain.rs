//! Explains a request without running it: shows the prompts that the model would read
//! (`podium rerank --explain`).

use std::sync::Arc;

use super::Reranker;
use crate::prompt::PreparedTexts;
use crate::rerank::{JoinedText, Mode, RerankError, RerankRequest};
use crate::scoring::{PlannedPass, Rounds};

/// The passes of a request's first round, and the warnings that its ranking would have.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Explanation {
    /// The prompt family.
    pub family: String,
    /// The mode that would run.
    pub mode: Mode,
    /// The passes of the first round.
    pub passes: Vec<ExplainedPass>,
    /// The ranking's warnings.
    pub warnings: Vec<String>,
}

/// One pass, decoded to text.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct ExplainedPass {
    /// The documents that it reads, or passages of them, as indices into the request.
    pub documents: Vec<usize>,
    /// Tokens that the model computes.
    pub tokens: usize,
    /// The prefix's text, control tokens spelled out.
    pub prefix: String,
    /// The suffixes' texts.
    pub suffixes: Vec<String>,
    /// How many positions are read.
    pub marks: usize,
}

impl Reranker {
    /// Explains what the model would read for this request. Runs no pass.
    ///
    /// # Errors
    /// The errors of [`Reranker::rerank`] that do not come from the queue or the model.
    pub fn explain(&self, request: &RerankRequest) -> Result<Explanation, RerankError> {
        let policy = self.policy();
        let mut request = request.clone();
        request.resolve_model(self.names())?;
        policy.instructions.resolve(&mut request, &mut JoinedText::default())?;
        super::validate(&mut request, &policy)?;
        let texts = Arc::new(self.prompter.tokenize(&request, &policy.limits, &|| false)?);
        let mut rounds = Rounds::begin(Arc::clone(&self.prompter), Arc::clone(&texts))?;
        let passes = rounds.next_round()?.unwrap_or_default();
        Ok(Explanation {
            family: self.family().to_owned(),
            mode: texts.mode,
            passes: passes.into_iter().map(|planned| self.explain_pass(planned, &texts)).collect(),
            warnings: texts.warnings.clone(),
        })
    }

    fn explain_pass(&self, PlannedPass { documents, pass }: PlannedPass, texts: &PreparedTexts) -> ExplainedPass {
        ExplainedPass {
            documents: documents.into_iter().map(|index| texts.document_of(index)).collect(),
            tokens: pass.tokens(),
            prefix: self.prompter.decode(&pass.prefix),
            suffixes: pass.suffixes.iter().map(|suffix| self.prompter.decode(suffix)).collect(),
            marks: pass.output_rows(),
        }
    }
}
