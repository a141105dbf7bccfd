//! The pointwise part of a family, bound to a tokenizer and a model.

use super::token_lookup::TokenLookup;
use crate::prompt::PromptError;
use crate::prompt::checkpoint::{Answers, Calibration, ClassifierReadout, ModelLimits};
use crate::prompt::family::{AnswerFacts, AnswerToken, PointwiseFacts};
use crate::prompt::template::{Template, TemplateInputs};
use crate::runtime::Pooling;

/// How a pointwise family turns outputs into scores.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum PointwiseScore {
    /// The logits of answers.
    Answers(Answers),
    /// The number of the checkpoint's classifier is the raw score;
    /// relevance = sigmoid(scale * raw + bias).
    Classifier {
        /// The positions that the classifier reads.
        pooling: Pooling,
        /// Scale and bias.
        calibration: Calibration,
    },
}

#[derive(Debug)]
pub(in crate::prompt) struct Pointwise {
    pub facts: PointwiseFacts,
    pub template: Template,
    pub score: PointwiseScore,
    /// Whether the document and what follows it have token type 1.
    pub second_type: bool,
}

impl TokenLookup<'_> {
    /// Binds the pointwise part of a family. `source` is its template's text.
    pub fn bind_pointwise(
        &self,
        facts: PointwiseFacts,
        source: Option<&str>,
        model: &ModelLimits,
    ) -> Result<Pointwise, PromptError> {
        let (template, second_type) = match (&facts.template, self.tokenizer.pair_template()) {
            _ if facts.chat_template => (self.chat_template()?, false),
            (Some(file), _) => (self.template(file, source.unwrap_or_default())?, false),
            (None, Some(pair)) => {
                let source = pair.with_prompt(model.default_prompt.as_deref());
                (self.template("of the tokenizer", &source)?, pair.second_type)
            }
            (None, None) => {
                let problem = format!(
                    "family `{}` needs a template for pairs of texts, and post_processor has none",
                    self.family
                );
                return Err(PromptError::Tokenizer { file: self.tokenizer.file().to_owned(), problem });
            }
        };
        let score = match (&facts.readout, model.classifier) {
            (Some(answers), None) => {
                let inputs = TemplateInputs { instruction: false, documents: 1, identifiers: &[] };
                let before = template.text_at_end(inputs, self.tokenizer)?;
                PointwiseScore::Answers(self.answers(answers, &model.name, &before)?)
            }
            (Some(answers), Some(classifier)) => PointwiseScore::Classifier {
                pooling: self.check_labels(classifier)?.pooling,
                calibration: calibration_for(answers, &model.name),
            },
            (None, Some(classifier)) => {
                let ClassifierReadout { pooling, calibration, .. } = self.check_labels(classifier)?;
                PointwiseScore::Classifier { pooling, calibration }
            }
            (None, None) => {
                let none = || format!("family `{}` needs one, and the checkpoint has none", self.family);
                PointwiseScore::Answers(model.answers.ok_or_else(|| PromptError::Classifier(none()))?)
            }
        };
        Ok(Pointwise { facts, template, score, second_type: second_type && model.token_types })
    }

    fn chat_template(&self) -> Result<Template, PromptError> {
        let format = self.tokenizer.chat_format().ok_or_else(|| PromptError::Template {
            family: self.family.to_owned(),
            template: "chat_template.jinja".to_owned(),
            problem: "the checkpoint has none, and none in tokenizer_config.json".to_owned(),
        })?;
        Template::from_chat_format(self.family, "chat_template.jinja", format, self.tokenizer)
    }

    fn template(&self, file: &str, source: &str) -> Result<Template, PromptError> {
        Template::new(self.family, file, source, self.tokenizer)
    }

    /// Rejects a classifier of several labels: none of them is agreed to be the relevance.
    fn check_labels(&self, classifier: ClassifierReadout) -> Result<ClassifierReadout, PromptError> {
        match classifier.labels {
            1 => Ok(classifier),
            labels => Err(PromptError::Classifier(format!(
                "it has {labels} labels, and family `{}` reads one number per document",
                self.family
            ))),
        }
    }

    /// The answers of a pointwise family, with the calibration for a checkpoint of this name.
    fn answers(&self, facts: &AnswerFacts, model: &str, before: &str) -> Result<Answers, PromptError> {
        let calibration = calibration_for(facts, model);
        let negative = facts.negative.as_ref().map(|token| self.answer(token, before)).transpose()?;
        Ok(Answers { positive: self.answer(&facts.positive, before)?, negative, calibration })
    }

    /// The id of an answer behind a text.
    fn answer(&self, answer: &AnswerToken, before: &str) -> Result<u32, PromptError> {
        match answer {
            AnswerToken::Text(text) => self
                .tokenizer
                .single_token_behind(before, text)
                .ok_or_else(|| self.problem(text, "it is not a single token".into())),
            AnswerToken::Id(id) if (*id as usize) < self.vocabulary => Ok(*id),
            AnswerToken::Id(id) => {
                let problem = format!("the model's vocabulary ends at {}", self.vocabulary);
                Err(self.problem(&id.to_string(), problem))
            }
        }
    }
}

/// The calibration for a checkpoint of this name.
fn calibration_for(facts: &AnswerFacts, model: &str) -> Calibration {
    let model = model.to_lowercase();
    facts.by_name.iter().find(|named| model.contains(&named.name)).map_or(
        Calibration { scale: facts.scale, bias: facts.bias },
        |named| Calibration { scale: named.scale, bias: named.bias },
    )
}
