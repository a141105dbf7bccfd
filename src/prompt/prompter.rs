//! A family bound to a tokenizer and a model: every declared token found, every template tried.

use super::PromptError;
use super::detect::{Calibration, PodiumConfig};
use super::family::{AnswerFacts, Family, FamilyFacts, Layout, ListwiseFacts, ListwiseReadout, PointwiseFacts};
use super::lexical::LexicalTable;
use super::template::{Part, Scene, Template};
use super::tokenizer::Tokenizer;

/// Turns requests into what one model reads.
#[derive(Debug)]
pub struct Prompter {
    pub(super) facts: FamilyFacts,
    pub(super) tokenizer: Tokenizer,
    /// Positions of a sequence: the model's, or fewer if the family was trained for fewer.
    pub(super) context: usize,
    /// Whether the templates have a place for an instruction.
    pub(super) takes_instruction: bool,
    pub(super) listwise: Option<Listwise>,
    pub(super) pointwise: Option<Pointwise>,
}

/// What a prompter must know of the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelLimits {
    /// The checkpoint's hub id or folder.
    pub name: String,
    /// Positions the model was made for.
    pub context: usize,
    /// Rows of its embedding matrix.
    pub vocabulary: usize,
}

/// How the readouts of slates become scores.
#[derive(Debug, Clone, PartialEq)]
pub enum SlateScore {
    /// Cosines between projected states.
    LateInteraction {
        /// How a cosine becomes a relevance.
        relevance: Relevance,
        /// The model's layers, from the last, in which marks see each other.
        cross_document_layers: usize,
    },
    /// The logits of identifiers; document `i` of a window has identifier `i`.
    FirstToken {
        /// As many as a window can have documents.
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

/// The name of a document in a window: a single token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identifier {
    /// As the prompt spells it.
    pub text: String,
    /// Its id.
    pub id: u32,
}

/// The answers whose logits make a pointwise score:
/// raw = logit(positive) - logit(negative), relevance = sigmoid(scale * raw + bias).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Answers {
    /// Id of the answer for a relevant document.
    pub positive: u32,
    /// Id of the answer for an irrelevant one, where it counts.
    pub negative: Option<u32>,
    /// Scale and bias.
    pub calibration: Calibration,
}

#[derive(Debug)]
pub(super) struct Listwise {
    pub facts: ListwiseFacts,
    pub template: Template,
    pub score: SlateScore,
    /// What documents are called in the prompt, if they are.
    pub identifiers: Vec<String>,
    /// For late interaction.
    pub marks: Option<Marks>,
}

/// The control tokens whose positions are read.
#[derive(Debug)]
pub(super) struct Marks {
    /// One, or one per bucket of evidence.
    pub document: Vec<u32>,
    pub query: u32,
    pub evidence: Option<LexicalTable>,
}

#[derive(Debug)]
pub(super) struct Pointwise {
    pub facts: PointwiseFacts,
    pub template: Template,
    pub answers: Answers,
}

impl Prompter {
    /// Binds a family to a checkpoint's tokenizer and numbers. `podium` is what its configuration
    /// says under that key; `evidence` its table, for families with lexical evidence.
    ///
    /// # Errors
    /// [`PromptError::Token`] when a declared token is no single id below the vocabulary's size;
    /// [`PromptError::Template`] when a template does not render or its marks do not add up;
    /// [`PromptError::Evidence`] when the family needs a table and there is none.
    pub fn new(
        family: &Family,
        tokenizer: Tokenizer,
        model: &ModelLimits,
        podium: Option<&PodiumConfig>,
        evidence: Option<LexicalTable>,
    ) -> Result<Self, PromptError> {
        let facts = family.facts.clone();
        let lookup = Lookup { family: &facts.name, tokenizer: &tokenizer, vocabulary: model.vocabulary };
        lookup.check_vocabulary()?;
        for token in &facts.control_tokens {
            lookup.control(token)?;
        }
        let template = |file: &str, source: &Option<String>| {
            Template::new(&facts.name, file, source.as_deref().unwrap_or_default(), &tokenizer)
        };
        let listwise = facts
            .listwise
            .clone()
            .map(|listwise| {
                let template = template(&listwise.template, &family.listwise_template)?;
                lookup.listwise(listwise, template, podium, evidence)
            })
            .transpose()?;
        let pointwise = facts
            .pointwise
            .clone()
            .map(|pointwise| -> Result<_, PromptError> {
                let template = template(&pointwise.template, &family.pointwise_template)?;
                let answers = lookup.answers(&pointwise.readout, &model.name)?;
                Ok(Pointwise { facts: pointwise, template, answers })
            })
            .transpose()?;
        let context = facts.limits.context.map_or(model.context, |limit| limit.min(model.context));
        let mut prompter = Self { facts, tokenizer, context, takes_instruction: false, listwise, pointwise };
        prompter.takes_instruction = prompter.try_templates(model.vocabulary)?;
        Ok(prompter)
    }

    /// The family's declaration.
    #[must_use]
    pub fn facts(&self) -> &FamilyFacts {
        &self.facts
    }

    /// How slates are scored, if the family reads documents together.
    #[must_use]
    pub fn slate_score(&self) -> Option<&SlateScore> {
        self.listwise.as_ref().map(|listwise| &listwise.score)
    }

    /// How documents are scored one by one, if the family has a prompt for that.
    #[must_use]
    pub fn answers(&self) -> Option<&Answers> {
        self.pointwise.as_ref().map(|pointwise| &pointwise.answers)
    }

    /// The text of some ids, control tokens spelled out.
    #[must_use]
    pub fn decode(&self, ids: &[u32]) -> String {
        self.tokenizer.decode(ids)
    }

    /// Renders every template with and without an instruction and counts what must be there.
    /// Returns whether an instruction has a place.
    fn try_templates(&self, vocabulary: usize) -> Result<bool, PromptError> {
        let mut takes_instruction = true;
        for (instruction, documents) in [(false, 1), (false, 2), (true, 1), (true, 2)] {
            let mut prompts = Vec::new();
            if let Some(listwise) = &self.listwise {
                let scene = Scene { instruction, documents, identifiers: &listwise.identifiers };
                let template = &listwise.template;
                let parts = match listwise.facts.layout {
                    Layout::Causal => template.render(scene, &self.tokenizer)?,
                    Layout::Isolated => {
                        let [prefix, document, closing] = ["prefix", "document", "closing"]
                            .map(|block| template.render_block(block, scene, &self.tokenizer));
                        let (prefix, document, closing) = (prefix?, document?, closing?);
                        check_document_block(&document).map_err(|problem| template.problem(problem))?;
                        let mut second = document.clone();
                        for part in &mut second {
                            if matches!(part, Part::Document(_)) {
                                *part = Part::Document(1);
                            }
                        }
                        let documents = [document, second].into_iter().take(documents).flatten();
                        prefix.into_iter().chain(documents).chain(closing).collect()
                    }
                };
                if let Some(marks) = &listwise.marks {
                    check_marks(&parts, documents, marks).map_err(|problem| template.problem(problem))?;
                }
                prompts.push((template, parts, documents));
            }
            if let Some(pointwise) = &self.pointwise {
                let scene = Scene { instruction, documents: 1, identifiers: &[] };
                prompts.push((&pointwise.template, pointwise.template.render(scene, &self.tokenizer)?, 1));
            }
            for (template, parts, documents) in prompts {
                check_texts(&parts, documents).map_err(|problem| template.problem(problem))?;
                for part in &parts {
                    if let Part::Control(id) = part
                        && *id as usize >= vocabulary
                    {
                        return Err(template.problem(format!(
                            "`{}` is id {id}, but the model's vocabulary ends at {vocabulary}",
                            self.tokenizer.decode(&[*id])
                        )));
                    }
                }
                takes_instruction &= !instruction || parts.contains(&Part::Instruction);
            }
        }
        Ok(takes_instruction)
    }
}

/// Finds declared tokens, with errors that name family, token and file.
struct Lookup<'a> {
    family: &'a str,
    tokenizer: &'a Tokenizer,
    vocabulary: usize,
}

impl Lookup<'_> {
    fn problem(&self, token: &str, problem: String) -> PromptError {
        PromptError::Token {
            family: self.family.to_owned(),
            token: token.to_owned(),
            file: self.tokenizer.file().to_owned(),
            problem,
        }
    }

    fn check_vocabulary(&self) -> Result<(), PromptError> {
        let end = self.tokenizer.ordinary_end();
        if end as usize > self.vocabulary {
            return Err(PromptError::Tokenizer {
                file: self.tokenizer.file().to_owned(),
                problem: format!(
                    "it has ids up to {}, but the model's vocabulary ends at {}",
                    end - 1,
                    self.vocabulary
                ),
            });
        }
        Ok(())
    }

    /// The id of a control token.
    fn control(&self, token: &str) -> Result<u32, PromptError> {
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

    /// The id of an ordinary token.
    fn answer(&self, token: &str) -> Result<u32, PromptError> {
        self.tokenizer.single(token).ok_or_else(|| self.problem(token, "it is not a single token".into()))
    }

    fn answers(&self, facts: &AnswerFacts, model: &str) -> Result<Answers, PromptError> {
        let model = model.to_lowercase();
        let calibration = facts.by_name.iter().find(|named| model.contains(&named.name)).map_or(
            Calibration { scale: facts.scale, bias: facts.bias },
            |named| Calibration { scale: named.scale, bias: named.bias },
        );
        let negative = facts.negative.as_deref().map(|token| self.answer(token)).transpose()?;
        Ok(Answers { positive: self.answer(&facts.positive)?, negative, calibration })
    }

    fn listwise(
        &self,
        facts: ListwiseFacts,
        template: Template,
        podium: Option<&PodiumConfig>,
        evidence: Option<LexicalTable>,
    ) -> Result<Listwise, PromptError> {
        match &facts.readout {
            ListwiseReadout::LateInteraction { document_mark, evidence_buckets, query_mark } => {
                let document = match evidence_buckets {
                    Some(buckets) => (0..*buckets)
                        .map(|bucket| self.control(&document_mark.replace("{bucket}", &bucket.to_string())))
                        .collect::<Result<_, _>>()?,
                    None => vec![self.control(document_mark)?],
                };
                if evidence_buckets.is_some() && evidence.is_none() {
                    let problem = format!("family `{}` needs one and there is none", self.family);
                    return Err(PromptError::Evidence(problem));
                }
                let evidence = evidence.filter(|_| evidence_buckets.is_some());
                let marks = Marks { document, query: self.control(query_mark)?, evidence };
                let calibration = podium.and_then(|podium| podium.calibration);
                let score = SlateScore::LateInteraction {
                    relevance: calibration.map_or(Relevance::HalfShift, Relevance::Sigmoid),
                    cross_document_layers: podium.map_or(0, |podium| podium.joint_layers),
                };
                Ok(Listwise { facts, template, score, identifiers: Vec::new(), marks: Some(marks) })
            }
            ListwiseReadout::FirstToken { identifiers: ranges } => {
                let mut found: Vec<Identifier> = Vec::new();
                for text in ranges.iter().flat_map(|range| names_in(range)) {
                    if let Some(id) = self.tokenizer.single(&text)
                        && found.iter().all(|identifier| identifier.id != id)
                    {
                        found.push(Identifier { text, id });
                    }
                }
                found.truncate(facts.slates.documents);
                if found.len() < 2 {
                    return Err(self.problem(&ranges.join(", "), "fewer than two identifiers are single tokens".into()));
                }
                let identifiers = found.iter().map(|identifier| identifier.text.clone()).collect();
                Ok(Listwise {
                    facts,
                    template,
                    score: SlateScore::FirstToken { identifiers: found },
                    identifiers,
                    marks: None,
                })
            }
        }
    }
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

/// Each document once and in order, and the query somewhere.
fn check_texts(parts: &[Part], documents: usize) -> Result<(), String> {
    let found = parts.iter().filter_map(|part| match part {
        Part::Document(place) => Some(*place),
        Part::Text(_) | Part::Control(_) | Part::Query | Part::Instruction | Part::DocumentMark | Part::Apart => None,
    });
    if !found.eq(0..documents) {
        return Err(format!("{documents} documents must each be there once, in order"));
    }
    if !parts.contains(&Part::Query) {
        return Err("the query is nowhere in it".into());
    }
    Ok(())
}

/// A mark after each document and before the next, and the query's mark once, after them.
fn check_marks(parts: &[Part], documents: usize, marks: &Marks) -> Result<(), String> {
    let is_document_mark = |part: &Part| match part {
        Part::DocumentMark => true,
        Part::Control(id) => marks.document.contains(id),
        Part::Text(_) | Part::Query | Part::Instruction | Part::Document(_) | Part::Apart => false,
    };
    let order: Vec<char> = parts
        .iter()
        .filter_map(|part| match part {
            Part::Document(_) => Some('d'),
            mark if is_document_mark(mark) => Some('m'),
            Part::Control(id) if *id == marks.query => Some('q'),
            Part::Control(_) | Part::DocumentMark | Part::Text(_) | Part::Query | Part::Instruction | Part::Apart => {
                None
            }
        })
        .collect();
    if order.iter().collect::<String>() == "dm".repeat(documents) + "q" {
        return Ok(());
    }
    Err(format!("{documents} documents need their mark after each and the query's mark once, after all of them"))
}

/// The block of an isolated document: text before it, the document, its mark.
fn check_document_block(parts: &[Part]) -> Result<(), String> {
    match parts {
        [Part::Text(_), Part::Document(0), Part::DocumentMark | Part::Control(_)]
        | [Part::Document(0), Part::DocumentMark | Part::Control(_)] => Ok(()),
        _ => Err("block `document` must be text, the document and its mark".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Families, testing};
    use super::*;

    #[test]
    fn identifier_ranges_spell_names_in_order() {
        assert_eq!(names_in("A-D"), ["A", "B", "C", "D"]);
        assert_eq!(names_in("AA-BB"), ["AA", "AB", "BA", "BB"]);
        assert_eq!(names_in("Z"), ["Z"]);
    }

    #[test]
    fn every_family_binds_to_a_tokenizer() {
        for family in Families::built_in().unwrap().iter() {
            let prompter = testing::prompter(family.name());
            assert!(prompter.takes_instruction, "{}", family.name());
            assert!(prompter.slate_score().is_some() || prompter.answers().is_some());
        }
    }

    #[test]
    fn a_missing_token_is_named_with_family_and_file() {
        for (removed, problem) in [
            (
                "<|rerank_token|>",
                "family `jina-v3` needs the token `<|rerank_token|>`, but in test/tokenizer.json it is no token of its own",
            ),
            (
                "<think>",
                "family `jina-v3` needs the token `<think>`, but in test/tokenizer.json it is no token of its own",
            ),
        ] {
            let error = testing::bind("jina-v3", &testing::tokenizer_without(removed), 2048, 2048).unwrap_err();
            assert_eq!(error.to_string(), problem);
        }
    }

    #[test]
    fn a_token_beyond_the_vocabulary_is_refused() {
        let tokenizer = testing::tokenizer();
        let mark = tokenizer.control("<|embed_token|>").unwrap().id;
        let error = testing::bind("jina-v3", &tokenizer, 2048, mark as usize).unwrap_err().to_string();
        assert_eq!(
            error,
            format!(
                "family `jina-v3` needs the token `<|embed_token|>`, but in test/tokenizer.json it is id {mark}, \
                 and the model's vocabulary ends at {mark}"
            )
        );
        let error = testing::bind("zerank", &tokenizer, 2048, 100).unwrap_err().to_string();
        assert!(error.starts_with("test/tokenizer.json: it has ids up to "), "{error}");
    }

    #[test]
    fn the_calibration_goes_by_the_checkpoints_name() {
        for (name, bias) in
            [("mixedbread-ai/mxbai-rerank-base-v2", -4.5), ("mixedbread-ai/mxbai-rerank-large-v2", -6.0)]
        {
            let families = Families::built_in().unwrap();
            let model = ModelLimits { name: name.into(), context: 2048, vocabulary: 2048 };
            let prompter =
                Prompter::new(families.named("mxbai-v2").unwrap(), testing::tokenizer(), &model, None, None).unwrap();
            assert!((prompter.answers().unwrap().calibration.bias - bias).abs() < 1e-6);
        }
    }
}
