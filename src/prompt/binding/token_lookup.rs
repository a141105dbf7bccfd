//! A family's two ways of reading, bound to a tokenizer: declared tokens become token ids.

use crate::prompt::PromptError;
use crate::prompt::checkpoint::{Answers, ClassifierReadout, ModelLimits};
use crate::prompt::family::{
    AnswerFacts, AnswerToken, Calibration, ListwiseFacts, ListwiseReadout, PodiumConfig, PointwiseFacts,
};
use crate::prompt::lexical::LexicalTable;
use crate::prompt::template::{Template, TemplateInputs};
use crate::prompt::tokenizer::Tokenizer;
use crate::runtime::Pooling;

/// How a listwise family turns outputs into scores.
#[derive(Debug, Clone, PartialEq)]
pub enum SlateScore {
    /// Cosines between projected states.
    LateInteraction {
        /// Turns a cosine into a relevance.
        relevance: Relevance,
        /// In how many of the last layers marks see each other.
        cross_document_layers: usize,
    },
    /// The logits of identifiers; document `i` of a window has identifier `i`.
    FirstToken {
        /// As many as a window has documents at most.
        identifiers: Vec<Identifier>,
    },
}

/// How a cosine becomes a relevance in [0, 1].
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Relevance {
    /// (1 + cosine) / 2
    HalfShift,
    /// sigmoid(scale * cosine + bias)
    Sigmoid(Calibration),
}

/// The name of a document in a window, which is a single token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identifier {
    /// Its spelling in the prompt.
    pub text: String,
    /// Its id.
    pub id: u32,
}

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
pub(in crate::prompt) struct Listwise {
    pub facts: ListwiseFacts,
    pub template: Template,
    pub score: SlateScore,
    /// The documents' names in the prompt; empty for families that do not name them.
    pub identifiers: Vec<String>,
    /// `None` for families without late interaction.
    pub marks: Option<Marks>,
}

/// The control tokens at whose positions the model's states are read.
#[derive(Debug)]
pub(in crate::prompt) struct Marks {
    /// One, or one per bucket of evidence.
    pub document: Vec<u32>,
    pub query: u32,
    pub evidence: Option<LexicalTable>,
}

#[derive(Debug)]
pub(in crate::prompt) struct Pointwise {
    pub facts: PointwiseFacts,
    pub template: Template,
    pub score: PointwiseScore,
    /// Whether the document and what follows it have token type 1.
    pub second_type: bool,
}

/// Finds declared tokens. Its errors name the family, the token and the file.
pub(in crate::prompt) struct TokenLookup<'a> {
    pub family: &'a str,
    pub tokenizer: &'a Tokenizer,
    /// Rows of the model's embedding matrix.
    pub vocabulary: usize,
}

impl TokenLookup<'_> {
    fn problem(&self, token: &str, problem: String) -> PromptError {
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

    /// The answers of a pointwise family, with the calibration for a checkpoint of this name.
    fn answers(&self, facts: &AnswerFacts, model: &str, before: &str) -> Result<Answers, PromptError> {
        let calibration = calibration_for(facts, model);
        let negative = facts.negative.as_ref().map(|token| self.answer(token, before)).transpose()?;
        Ok(Answers { positive: self.answer(&facts.positive, before)?, negative, calibration })
    }

    /// Binds the pointwise part of a family. `source` is its template's text.
    pub fn pointwise(
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
        Template::of_chat(self.family, "chat_template.jinja", format, self.tokenizer)
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

    /// Binds the listwise part of a family.
    pub fn listwise(
        &self,
        facts: ListwiseFacts,
        template: Template,
        podium: Option<&PodiumConfig>,
        evidence: Option<LexicalTable>,
    ) -> Result<Listwise, PromptError> {
        let (score, identifiers, marks) = match &facts.readout {
            ListwiseReadout::LateInteraction { document_mark, evidence_buckets, query_mark } => {
                let marks = self.marks(document_mark, *evidence_buckets, query_mark, evidence)?;
                let calibration = podium.and_then(|podium| podium.calibration);
                let score = SlateScore::LateInteraction {
                    relevance: calibration.map_or(Relevance::HalfShift, Relevance::Sigmoid),
                    cross_document_layers: podium.map_or(0, |podium| podium.joint_layers),
                };
                (score, Vec::new(), Some(marks))
            }
            ListwiseReadout::FirstToken { identifiers } => {
                let found = self.identifiers(identifiers, facts.slates.documents)?;
                let texts = found.iter().map(|identifier| identifier.text.clone()).collect();
                (SlateScore::FirstToken { identifiers: found }, texts, None)
            }
        };
        Ok(Listwise { facts, template, score, identifiers, marks })
    }

    /// The marks of documents, one for each bucket where there are buckets, and of the query.
    fn marks(
        &self,
        document_mark: &str,
        buckets: Option<usize>,
        query_mark: &str,
        evidence: Option<LexicalTable>,
    ) -> Result<Marks, PromptError> {
        let document = match buckets {
            Some(buckets) => (0..buckets)
                .map(|bucket| self.control(&document_mark.replace("{bucket}", &bucket.to_string())))
                .collect::<Result<_, _>>()?,
            None => vec![self.control(document_mark)?],
        };
        if buckets.is_some() && evidence.is_none() {
            let problem = format!("family `{}` needs one and there is none", self.family);
            return Err(PromptError::Evidence(problem));
        }
        let evidence = evidence.filter(|_| buckets.is_some());
        Ok(Marks { document, query: self.control(query_mark)?, evidence })
    }

    /// The names of these ranges that are single tokens, each token once and at most `most` in all.
    fn identifiers(&self, ranges: &[String], most: usize) -> Result<Vec<Identifier>, PromptError> {
        let mut found: Vec<Identifier> = Vec::new();
        for text in ranges.iter().flat_map(|range| names_in(range)) {
            if let Some(id) = self.tokenizer.single_token_behind("[", &text)
                && found.iter().all(|identifier| identifier.id != id)
            {
                found.push(Identifier { text, id });
            }
        }
        found.truncate(most);
        if found.len() < 2 {
            return Err(self.problem(&ranges.join(", "), "fewer than two identifiers are single tokens".into()));
        }
        Ok(found)
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

/// The names of a range, in order: `A-C` is A, B, C; `AA-BB` is AA, AB, BA, BB; `Z` is Z.
fn names_in(range: &str) -> Vec<String> {
    let Some((from, to)) = range.split_once('-').filter(|(from, to)| from.chars().count() == to.chars().count()) else {
        return vec![range.to_owned()];
    };
    let mut names = vec![String::new()];
    for (low, high) in from.chars().zip(to.chars()) {
        names = names.iter().flat_map(|name| (low..=high).map(move |letter| format!("{name}{letter}"))).collect();
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifier_ranges_spell_names_in_order() {
        assert_eq!(names_in("A-D"), ["A", "B", "C", "D"]);
        assert_eq!(names_in("AA-BB"), ["AA", "AB", "BA", "BB"]);
        assert_eq!(names_in("Z"), ["Z"]);
    }
}
