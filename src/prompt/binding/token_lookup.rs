//! Finds the tokens that a family declares.

use crate::prompt::PromptError;
use crate::prompt::tokenizer::Tokenizer;

/// Finds declared tokens. Its errors name the family, the token and the file.
pub(super) struct TokenLookup<'a> {
    pub family: &'a str,
    pub tokenizer: &'a Tokenizer,
    /// Rows of the model's embedding matrix.
    pub vocabulary: usize,
}

impl TokenLookup<'_> {
    /// An error about a token.
    pub fn problem(&self, token: &str, problem: String) -> PromptError {
        PromptError::Token {
            family: self.family.to_owned(),
            token: token.to_owned(),
            file: self.tokenizer.file().to_owned(),
            problem,
        }
    }

    /// Checks that the tokenizer has no id beyond the model's vocabulary.
    pub fn check_vocabulary(&self) -> Result<(), PromptError> {
        let end = self.tokenizer.ordinary_end();
        if end as usize > self.vocabulary {
            return Err(PromptError::Tokenizer {
                file: self.tokenizer.file().to_owned(),
                problem: format!(
                    "it has ids up to {}, but the model's vocabulary ends at {}: it is the tokenizer of another model; \
                     take that of the same model",
                    end - 1,
                    self.vocabulary
                ),
            });
        }
        Ok(())
    }

    /// The id of a control token.
    pub fn control(&self, token: &str) -> Result<u32, PromptError> {
        let found =
            self.tokenizer.control(token).ok_or_else(|| self.problem(token, "it is no token of its own".into()))?;
        if found.id as usize >= self.vocabulary {
            let problem = format!("it is id {}, and the model's vocabulary ends at {}", found.id, self.vocabulary);
            return Err(self.problem(token, problem));
        }
        if found.strips {
            return Err(
                self.problem(token, "it takes the white space or words beside it, which is not supported".into())
            );
        }
        Ok(found.id)
    }
}
