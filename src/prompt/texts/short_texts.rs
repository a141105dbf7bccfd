//! Tokenizes the query and the instruction of a request.

use super::scripts::is_in_another_script;
use super::truncate::{IsCancelled, TextOptions, warn_of_removed};
use crate::prompt::binding::Prompter;
use crate::prompt::tokenizer::is_space;
use crate::rerank::{RerankError, RerankRequest};

impl Prompter {
    pub(in crate::prompt) fn tokenize_short_texts(
        &self,
        request: &RerankRequest,
        is_cancelled: IsCancelled,
        warnings: &mut Vec<String>,
    ) -> Result<(String, String), RerankError> {
        let limits = &self.facts.limits;
        let options = |limit, max_characters| TextOptions { before: "", limit, slack: 0, max_characters, is_cancelled };
        let query_options = options(limits.query, limits.query_characters);
        let query = self.tokenize_short_text("query", &request.query, &query_options, request.truncation, warnings)?;
        if query.chars().all(is_space) {
            return Err(RerankError::invalid("query", "it holds nothing but white space and control tokens"));
        }
        if let Some(language) = &self.facts.reads_only
            && is_in_another_script(query.chars())
        {
            let family = &self.facts.name;
            warnings
                .push(format!("query: {family} reads {language}; most letters of this query are of another script"));
        }
        let requested = request.instruction.as_deref().filter(|text| !text.chars().all(is_space));
        let mut instruction = match requested {
            Some(text) if !self.takes_instruction => {
                warnings.push(format!("family `{}` takes no instruction; it was not read: {text:?}", self.facts.name));
                String::new()
            }
            Some(text) => {
                let options = options(limits.instruction, None);
                self.tokenize_short_text("instruction", text, &options, request.truncation, warnings)?
            }
            None => String::new(),
        };
        if instruction.chars().all(is_space) {
            instruction = self.facts.default_instruction.clone().unwrap_or_default();
        }
        Ok((query, instruction))
    }

    fn tokenize_short_text(
        &self,
        field: &str,
        raw: &str,
        options: &TextOptions,
        may_truncate: bool,
        warnings: &mut Vec<String>,
    ) -> Result<String, RerankError> {
        let (text, removed) = self.clean_and_truncate(raw, options).map_err(RerankError::internal)?;
        if text.tokens_read < text.tokens {
            if !may_truncate {
                let (tokens, limit) = (text.tokens, text.tokens_read);
                return Err(RerankError::TextTooLong { field: field.into(), tokens, limit });
            }
            let about = if text.is_estimate { "about " } else { "" };
            warnings.push(format!("{field}: cut from {about}{} tokens to {}", text.tokens, text.tokens_read));
        }
        warn_of_removed(field, removed, warnings);
        Ok(text.text)
    }
}
