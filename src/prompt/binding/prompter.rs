//! A family bound to a tokenizer and a model, with every declared token found and every template
//! tried.

use std::sync::Arc;

use super::bi_encoder::{self, BiEncoder};
use super::listwise::{Listwise, Relevance, SlateScore};
use super::pointwise::{Pointwise, PointwiseScore};
use super::rows::EvidenceRows;
use super::token_lookup::TokenLookup;
use crate::evidence::EvidenceModel;
use crate::prompt::PromptError;
use crate::prompt::checkpoint::{Answers, Calibration, ModelLimits, PodiumConfig};
use crate::prompt::family::{BiEncoderReadout, Family, FamilyFacts};
use crate::prompt::lexical::LexicalTable;
use crate::prompt::template::Template;
use crate::prompt::tokenizer::Tokenizer;

/// Turns requests into the token sequences of one model.
#[derive(Debug)]
pub struct Prompter {
    pub(in crate::prompt) facts: FamilyFacts,
    pub(in crate::prompt) tokenizer: Tokenizer,
    /// The longest sequence: the model's context, or the family's where that is shorter.
    pub(in crate::prompt) context: usize,
    /// Whether tokens see those after them: prompts share no prefix.
    pub(in crate::prompt) bidirectional: bool,
    /// Layers of the model.
    pub(in crate::prompt) layers: usize,
    /// The first layer with a head of its own, where each layer from it on has one.
    pub(in crate::prompt) start_layer: Option<usize>,
    /// Whether documents leave early unless a request says otherwise.
    pub(in crate::prompt) exits_early: bool,
    /// The layer that all documents are scored after, unless a request says otherwise; `None`: the
    /// last.
    pub(in crate::prompt) cutoff_layer: Option<u16>,
    /// Whether the templates hold an instruction.
    pub(in crate::prompt) takes_instruction: bool,
    pub(in crate::prompt) listwise: Option<Listwise>,
    pub(in crate::prompt) pointwise: Option<Pointwise>,
    pub(in crate::prompt) bi_encoder: Option<BiEncoder>,
    pub(in crate::prompt) evidence_rows: Option<EvidenceRows>,
}

impl Prompter {
    /// Binds a family to a checkpoint. `podium` is the key `podium` of its `config.json`,
    /// `lexical` its table of lexical evidence.
    ///
    /// # Errors
    /// [`PromptError::Token`] when a declared token is not a single id of the model's vocabulary;
    /// [`PromptError::Template`] when a template does not render or its marks do not add up;
    /// [`PromptError::Evidence`] when the family needs a table and the checkpoint has none.
    pub fn new(
        family: &Family,
        mut tokenizer: Tokenizer,
        model: &ModelLimits,
        podium: Option<&PodiumConfig>,
        lexical: Option<LexicalTable>,
    ) -> Result<Self, PromptError> {
        let mut facts = family.facts.clone();
        let colbert = bi_encoder::bind_colbert(&mut facts, &mut tokenizer, model)?;
        if facts.pointwise.as_ref().is_some_and(|pointwise| pointwise.chat_template) {
            facts.default_instruction.clone_from(&model.default_prompt);
        }
        let lookup = TokenLookup { family: &facts.name, tokenizer: &tokenizer, vocabulary: model.vocabulary };
        lookup.check_vocabulary()?;
        for token in &facts.control_tokens {
            lookup.control(token)?;
        }
        let mut lexical = lexical;
        let evidence_rows = facts.evidence.clone().map(|facts| {
            let calibration = podium.and_then(|podium| podium.calibration);
            EvidenceRows::new(facts, &lookup, model.evidence.clone(), (lexical.take(), calibration))
        });
        let evidence_rows = evidence_rows.transpose()?;
        let listwise = facts
            .listwise
            .clone()
            .map(|listwise| {
                let source = family.listwise_template.as_deref().unwrap_or_default();
                let template = Template::new(&facts.name, &listwise.template, source, &tokenizer)?;
                lookup.bind_listwise(listwise, template, podium, lexical)
            })
            .transpose()?;
        let pointwise = facts
            .pointwise
            .clone()
            .map(|pointwise| lookup.bind_pointwise(pointwise, family.pointwise_template.as_deref(), model))
            .transpose()?;
        let bi_encoder = facts
            .bi_encoder
            .clone()
            .map(|bi_encoder| -> Result<_, PromptError> {
                let source = family.bi_encoder_template.as_deref().unwrap_or_default();
                let mut template = Template::new(&facts.name, &bi_encoder.template, source, &tokenizer)?;
                for (name, text) in colbert.iter().flat_map(|colbert| &colbert.markers) {
                    template.add_variable(name, text.clone());
                }
                Ok(BiEncoder { readout: bi_encoder.readout, template, colbert })
            })
            .transpose()?;
        let context = facts.limits.context.map_or(model.context, |limit| limit.min(model.context));
        let mut prompter = Self {
            facts,
            tokenizer,
            context,
            bidirectional: model.bidirectional,
            layers: model.layers,
            start_layer: model.classifier.and_then(|classifier| classifier.start_layer),
            exits_early: false,
            cutoff_layer: None,
            takes_instruction: false,
            listwise,
            pointwise,
            bi_encoder,
            evidence_rows,
        };
        prompter.takes_instruction = prompter.check_templates(model.vocabulary)?;
        Ok(prompter)
    }

    /// The family's declaration.
    #[must_use]
    pub fn facts(&self) -> &FamilyFacts {
        &self.facts
    }

    /// How slates are scored; `None` for a pointwise family.
    #[must_use]
    pub fn slate_score(&self) -> Option<&SlateScore> {
        self.listwise.as_ref().map(|listwise| &listwise.score)
    }

    /// How documents are scored one by one; `None` for a family without a pointwise prompt.
    #[must_use]
    pub fn pointwise_score(&self) -> Option<&PointwiseScore> {
        self.pointwise.as_ref().map(|pointwise| &pointwise.score)
    }

    /// The answers whose logits score documents one by one, where the family has answers.
    #[must_use]
    pub fn answers(&self) -> Option<&Answers> {
        match self.pointwise_score() {
            Some(PointwiseScore::Answers(answers)) => Some(answers),
            Some(PointwiseScore::Classifier { .. }) | None => None,
        }
    }

    /// Whether relevance scores are estimates of a probability: a calibrated sigmoid of the raw
    /// score, and not a cosine that was moved to [0, 1] or a share within a window.
    #[must_use]
    pub fn has_probabilities(&self) -> bool {
        match self.slate_score() {
            Some(SlateScore::LateInteraction { relevance, .. }) => matches!(relevance, Relevance::Sigmoid(_)),
            Some(SlateScore::FirstToken { .. }) => false,
            None => self.bi_encoder.is_none() && (self.evidence_rows.is_some() || self.pointwise.is_some()),
        }
    }

    /// Whether tokens see those after them: then prompts share no prefix.
    #[must_use]
    pub fn is_bidirectional(&self) -> bool {
        self.bidirectional
    }

    /// The longest sequence, in tokens.
    #[must_use]
    pub fn context(&self) -> usize {
        self.context
    }

    /// How scores are read from query and documents that are encoded apart; `None` for families
    /// that read them together.
    #[must_use]
    pub fn bi_encoder(&self) -> Option<&BiEncoderReadout> {
        self.bi_encoder.as_ref().map(|bi_encoder| &bi_encoder.readout)
    }

    /// The read-out of the tokens' states, and what its scores mean; `None` for families without
    /// one.
    #[must_use]
    pub fn evidence(&self) -> Option<(&Arc<EvidenceModel>, Calibration)> {
        self.evidence_rows.as_ref().map(|rows| (&rows.model, rows.calibration))
    }

    /// Decodes ids to text, with control tokens spelled out.
    #[must_use]
    pub fn decode(&self, ids: &[u32]) -> String {
        self.tokenizer.decode(ids)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompt::{Families, testing};

    #[test]
    fn every_family_binds_to_a_tokenizer() {
        for family in Families::built_in().unwrap().iter() {
            let prompter = testing::prompter(family.name());
            let reads_none = ["cross-encoder", "nemotron", "colbert"].contains(&family.name());
            assert_eq!(prompter.takes_instruction, !reads_none, "{}", family.name());
            let reads = [
                prompter.slate_score().is_some(),
                prompter.pointwise_score().is_some(),
                prompter.bi_encoder().is_some(),
                prompter.evidence().is_some(),
            ];
            assert!(reads.contains(&true), "{}", family.name());
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
    fn the_checkpoints_name_chooses_the_calibration() {
        for (name, bias) in
            [("mixedbread-ai/mxbai-rerank-base-v2", -4.5), ("mixedbread-ai/mxbai-rerank-large-v2", -6.0)]
        {
            let families = Families::built_in().unwrap();
            let model = ModelLimits { name: name.into(), context: 2048, vocabulary: 2048, ..Default::default() };
            let prompter =
                Prompter::new(families.named("mxbai-v2").unwrap(), testing::tokenizer(), &model, None, None).unwrap();
            assert!((prompter.answers().unwrap().calibration.bias - bias).abs() < 1e-6);
        }
    }
}
