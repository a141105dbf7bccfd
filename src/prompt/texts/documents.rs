//! Tokenizes the documents of a request.

use super::prepared::PreparedTexts;
use super::truncate::{TextOptions, warn_of_removed};
use crate::prompt::binding::Prompter;
use crate::prompt::parallel;
use crate::rerank::{LimitSettings, RerankError, RerankRequest};

impl Prompter {
    /// The most tokens of a document, or of a passage, that the request or the family allows.
    pub(in crate::prompt) fn requested_limit(&self, request: &RerankRequest) -> usize {
        let requested = match request.chunking {
            Some(chunking) => chunking.tokens,
            None => request.max_tokens_per_doc,
        };
        requested.unwrap_or(self.facts.limits.document).max(1)
    }

    /// Cleans, tokenizes and truncates all documents, or their passages, on several threads where
    /// that is faster. Returns their texts as they were sent.
    pub(in crate::prompt) fn tokenize_documents<'a>(
        &self,
        request: &'a RerankRequest,
        options: &TextOptions,
        limits: &LimitSettings,
        prepared: &mut PreparedTexts,
    ) -> Result<Vec<&'a str>, RerankError> {
        if let Some(chunking) = &request.chunking {
            return self.tokenize_passages(request, chunking, options, limits, prepared);
        }
        let bytes = request.documents.iter().map(String::len).sum();
        let raw = request.documents.iter().collect();
        let results = parallel::map(raw, bytes, |raw: &String| self.clean_and_truncate(raw, options));
        prepared.documents.reserve(results.len());
        for (index, result) in results.into_iter().enumerate() {
            let (document, removed) = result.map_err(RerankError::internal)?;
            let field = format!("documents[{index}]");
            if document.tokens_read < document.tokens && !request.truncation {
                let (tokens, limit) = (document.tokens, (options.limit - options.slack).min(document.tokens_read));
                return Err(RerankError::TextTooLong { field, tokens, limit });
            }
            warn_of_removed(&field, removed, &mut prepared.warnings);
            prepared.documents.push(document);
        }
        Ok(request.documents.iter().map(String::as_str).collect())
    }
}
