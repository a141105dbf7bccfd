//! A family as data: the declaration `prompts/<name>.toml`. Nothing here is specific to one family.

use serde::Deserialize;

use super::bi_encoder::BiEncoderFacts;
use super::listwise::{Layout, ListwiseFacts, ListwiseReadout, SlateRule};
use super::pointwise::{EarlyExitFacts, PointwiseFacts};
use super::rows::EvidenceFacts;
use crate::prompt::PromptError;
use crate::prompt::checkpoint::ModelKind;

/// A trained prompt format and its read-out: declared facts, and the templates they name.
#[derive(Debug, Clone, PartialEq)]
pub struct Family {
    /// The declaration.
    pub facts: FamilyFacts,
    /// The listwise template's text, where there is one.
    pub(in crate::prompt) listwise_template: Option<String>,
    /// The pointwise template's text, where there is one.
    pub(in crate::prompt) pointwise_template: Option<String>,
    /// The bi-encoder's template, where there is one.
    pub(in crate::prompt) bi_encoder_template: Option<String>,
}

/// `prompts/<name>.toml`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FamilyFacts {
    /// The family's name, as `--family` takes it.
    pub name: String,
    /// The licence of its weights.
    pub licence: String,
    /// The control tokens in its templates. Each must be an added token of the tokenizer.
    pub control_tokens: Vec<String>,
    /// The instruction for a request that has none.
    pub default_instruction: Option<String>,
    /// The language that it reads, where that is only one in Latin letters, such as `English`. A
    /// query in another script gets a warning.
    pub reads_only: Option<String>,
    /// The relevance, in [0, 1], from which a document counts as relevant. Absent where the scores
    /// do not say that: cosines without a calibration, logits that compare only within a window.
    pub relevant_from: Option<f32>,
    /// How a checkpoint of the family is recognised. Without it, only `--family` selects it.
    #[serde(default)]
    pub recognise: Recognise,
    /// The longest texts that are read.
    pub limits: TextLimits,
    /// How texts are normalized.
    #[serde(default)]
    pub texts: TextRules,
    /// How documents are read together. A family has `listwise`, `pointwise` or both, or only
    /// `bi_encoder`.
    pub listwise: Option<ListwiseFacts>,
    /// How documents are read one by one. Without it, a listwise family reads slates of one
    /// document.
    pub pointwise: Option<PointwiseFacts>,
    /// How query and documents are encoded apart from each other.
    pub bi_encoder: Option<BiEncoderFacts>,
    /// How texts are read as rows of their own, by a trained read-out of their tokens' states.
    pub evidence: Option<EvidenceFacts>,
}

/// How a checkpoint of a family is recognised, in the order of [`Families::detect`]; never by the
/// name of its folder.
///
/// [`Families::detect`]: super::Families::detect
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Recognise {
    /// Architectures of `config.json` that only this family reads.
    pub architectures: Vec<String>,
    /// Whether a projector among the tensors decides as an architecture does.
    pub projector: bool,
    /// With `architectures` or `projector`: whether some layers must have a sliding window, or none
    /// may have one. Absent: either.
    pub sliding_window: Option<bool>,
    /// Modules that `modules.json` of a cross-encoder has, such as `Dense`. Empty: it does not
    /// decide.
    pub modules: Vec<String>,
    /// Parts of hub ids, in lower case. The longest that matches decides.
    pub names: Vec<String>,
    /// Parts of hub ids that rule the family out where `names` matches.
    pub not_names: Vec<String>,
    /// The kinds that sentence-transformers may give a checkpoint of the family. `late_interaction`
    /// also decides, where one family has it.
    pub kinds: Vec<ModelKind>,
}

impl Default for Recognise {
    fn default() -> Self {
        Self {
            architectures: Vec::new(),
            projector: false,
            sliding_window: None,
            modules: Vec::new(),
            names: Vec::new(),
            not_names: Vec::new(),
            kinds: vec![ModelKind::CrossEncoder],
        }
    }
}

/// Limits on texts, in tokens of the text on its own.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextLimits {
    /// The whole prompt, where the family's context is shorter than the model's.
    pub context: Option<usize>,
    /// The query.
    pub query: usize,
    /// The instruction.
    pub instruction: usize,
    /// A document, unless the request sets `max_tokens_per_doc`.
    pub document: usize,
    /// Characters of the query; it is truncated to them before its tokens are counted.
    pub query_characters: Option<usize>,
    /// Characters of a document; it is truncated to them before its tokens are counted.
    pub document_characters: Option<usize>,
}

/// How texts are normalized before they are tokenized.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TextRules {
    /// Remove white space at both ends.
    pub trim: bool,
    /// Replace each run of white space by one space, and remove it at both ends.
    pub squeeze: bool,
    /// How a text is truncated.
    pub cut: CutRule,
}

/// How a text over its limit is truncated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CutRule {
    /// Keep the whole characters of the tokens that fit.
    #[default]
    Exact,
    /// Decode the tokens that fit. Half a character becomes U+FFFD. A text of exactly the limit is
    /// decoded too.
    Decoded,
}

impl Family {
    /// Reads a declaration and the templates that it names.
    pub(in crate::prompt) fn parse(
        file: &str,
        declaration: &str,
        template: impl Fn(&str) -> Result<String, PromptError>,
    ) -> Result<Self, PromptError> {
        let problem = |problem: String| PromptError::Declaration { file: file.to_owned(), problem };
        let facts: FamilyFacts = toml::from_str(declaration).map_err(|error| problem(error.to_string()))?;
        facts.check().map_err(|text| problem(text.to_owned()))?;
        let listwise_template = facts.listwise.as_ref().map(|listwise| template(&listwise.template)).transpose()?;
        let pointwise_file = facts.pointwise.as_ref().and_then(|pointwise| pointwise.template.as_deref());
        let pointwise_template = pointwise_file.map(&template).transpose()?;
        let bi_encoder_template = facts.bi_encoder.as_ref().map(|facts| template(&facts.template)).transpose()?;
        Ok(Self { facts, listwise_template, pointwise_template, bi_encoder_template })
    }

    /// The family's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.facts.name
    }
}

impl FamilyFacts {
    /// Whether each token sequence holds one document only, rather than a whole slate.
    #[must_use]
    pub fn has_one_document_per_sequence(&self) -> bool {
        let shows_documents = self.bi_encoder.as_ref().is_some_and(|facts| facts.readout.feedback_documents() > 0);
        !shows_documents && self.listwise.as_ref().is_none_or(|listwise| listwise.layout == Layout::Isolated)
    }

    fn check(&self) -> Result<(), &'static str> {
        let limits = &self.limits;
        if [limits.query, limits.instruction, limits.document].contains(&0) {
            return Err("limits must be at least 1");
        }
        if !self.pointwise.iter().flat_map(|pointwise| &pointwise.early_exit).all(EarlyExitFacts::is_valid) {
            return Err("pointwise.early_exit needs a layer from 1 to below layers, and a keep of at least 1");
        }
        if let Some(evidence) = &self.evidence {
            let is_alone = self.listwise.is_none() && self.pointwise.is_none() && self.bi_encoder.is_none();
            return match (is_alone, evidence.slates.rule) {
                (false, _) => Err("[evidence] excludes [listwise], [pointwise] and [bi_encoder]"),
                (true, SlateRule::Even) if evidence.row_tokens > 0 && evidence.slates.documents > 1 => Ok(()),
                (true, _) => Err("[evidence] needs row_tokens and slates of rule \"even\""),
            };
        }
        if self.bi_encoder.is_some() {
            let is_alone = self.listwise.is_none() && self.pointwise.is_none();
            return if is_alone { Ok(()) } else { Err("[bi_encoder] excludes [listwise] and [pointwise]") };
        }
        let Some(listwise) = &self.listwise else {
            let problem = "it declares none of [listwise], [pointwise] and [bi_encoder]";
            return self.pointwise.as_ref().map(|_| ()).ok_or(problem);
        };
        let windows = listwise.slates.rule == SlateRule::Windows;
        if listwise.slates.documents < 2 {
            return Err("listwise.slates.documents must be at least 2");
        }
        if windows != listwise.slates.stride.is_some_and(|stride| stride > 0 && stride < listwise.slates.documents) {
            return Err("listwise.slates.stride belongs to rule \"windows\": from 1 to below documents");
        }
        match &listwise.readout {
            ListwiseReadout::FirstToken { .. } if !windows || listwise.layout != Layout::Causal => {
                Err("first_token scores compare only within a slate: it needs rule \"windows\" and layout \"causal\"")
            }
            ListwiseReadout::FirstToken { .. } if self.pointwise.is_none() => {
                Err("first_token cannot score one document alone: it needs [pointwise]")
            }
            ListwiseReadout::LateInteraction { .. } if windows => {
                Err("late_interaction scores compare across slates: rule \"windows\" is not for it")
            }
            ListwiseReadout::LateInteraction { document_mark, evidence_buckets, .. }
                if document_mark.contains("{bucket}") != evidence_buckets.is_some_and(|buckets| buckets > 0) =>
            {
                Err("`{bucket}` in document_mark and evidence_buckets go together")
            }
            ListwiseReadout::LateInteraction { .. } | ListwiseReadout::FirstToken { .. } => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_declaration_is_refused_by_file() {
        let first = include_str!("../../../prompts/first.toml");
        for (change, problem) in [
            (first.replace("stride = 32", "stride = 64"), "stride"),
            (first.replace("\"first_token\"", "\"last_token\""), "last_token"),
            (first.replace("[limits]", "[limits]\nwidth = 3"), "width"),
            (first.split("[pointwise]").next().unwrap().to_owned(), "one document alone"),
        ] {
            let error = Family::parse("x.toml", &change, |_| Ok(String::new())).unwrap_err().to_string();
            assert!(error.starts_with("x.toml: ") && error.contains(problem), "{error}");
        }
    }
}
