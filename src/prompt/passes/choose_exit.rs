//! After which layer the documents of a request are scored, and whether some leave the model before
//! it.

use crate::prompt::binding::Prompter;
use crate::rerank::{EarlyExitChoice, Mode, RerankError, RerankRequest};
use crate::runtime::EarlyExit;

impl Prompter {
    /// Layers of the model.
    #[must_use]
    pub fn layers(&self) -> usize {
        self.layers
    }

    /// The exit that the family declares for a model of this depth.
    ///
    /// # Errors
    /// Why documents do not leave this model early.
    pub fn declared_early_exit(&self) -> Result<EarlyExit, String> {
        self.check_can_exit()?;
        let declared = self.facts.pointwise.iter().flat_map(|pointwise| &pointwise.early_exit);
        let declared = declared.filter(|exit| exit.layers == self.layers);
        let found = declared.map(|exit| EarlyExit { layer: exit.layer, keep: exit.keep }).next();
        found.ok_or_else(|| {
            format!(
                "family `{}` declares no early exit for a model of {} layers; measure one with podium eval \
                 --early-exit, and declare it in [[pointwise.early_exit]]",
                self.facts.name, self.layers
            )
        })
    }

    /// Whether documents can leave this model after `layer` layers.
    ///
    /// # Errors
    /// Why not.
    pub fn check_early_exit(&self, layer: u16) -> Result<(), String> {
        self.check_can_exit()?;
        self.check_has_head(layer)?;
        if (1..self.layers).contains(&usize::from(layer)) {
            return Ok(());
        }
        Err(format!("layer {layer}: the model has {} layers, and documents leave after a lower one", self.layers))
    }

    /// Whether all documents can be scored after `layer` layers: only where the checkpoint has a
    /// head for that layer.
    ///
    /// # Errors
    /// Why not.
    pub fn check_cutoff_layer(&self, layer: u16) -> Result<(), String> {
        self.start_layer()?;
        self.check_has_head(layer)
    }

    /// The first layer with a head of its own.
    fn start_layer(&self) -> Result<usize, String> {
        let family = &self.facts.name;
        self.start_layer.ok_or_else(|| {
            format!(
                "the model (family `{family}`) has a head for its last layer only; layer-wise checkpoints have one for \
                 each layer"
            )
        })
    }

    /// Rejects a layer without a head, where layers have their own.
    fn check_has_head(&self, layer: u16) -> Result<(), String> {
        match self.start_layer {
            Some(start) if !(start..=self.layers).contains(&usize::from(layer)) => {
                Err(format!("layer {layer}: the model has heads for layers {start} to {}", self.layers))
            }
            Some(_) | None => Ok(()),
        }
    }

    fn check_can_exit(&self) -> Result<(), String> {
        let family = &self.facts.name;
        if self.evidence_rows.is_some() {
            return Err(format!(
                "family `{family}` compares the documents of a slate: those that left early would change the scores \
                 of the others"
            ));
        }
        if self.pointwise.is_none() {
            return Err(format!(
                "family `{family}` has no pointwise prompt, and only documents that are read one by one leave early"
            ));
        }
        if self.bidirectional {
            return Err(format!("family `{family}` runs on an encoder here, and documents leave only decoders early"));
        }
        Ok(())
    }

    /// Lets the documents of every request leave early unless the request says otherwise.
    ///
    /// # Errors
    /// The errors of [`Prompter::declared_early_exit`].
    pub fn exit_early_by_default(&mut self) -> Result<(), String> {
        self.declared_early_exit()?;
        self.exits_early = true;
        Ok(())
    }

    /// Scores the documents of every request after this layer unless the request says otherwise.
    ///
    /// # Errors
    /// The errors of [`Prompter::check_cutoff_layer`].
    pub fn cut_off_by_default(&mut self, layer: u16) -> Result<(), String> {
        self.check_cutoff_layer(layer)?;
        self.cutoff_layer = Some(layer);
        Ok(())
    }

    /// Rejects a request for an exit or a cutoff layer that this model does not have.
    ///
    /// # Errors
    /// [`RerankError::InvalidField`] for `cutoff_layer` and `early_exit`.
    pub fn check_choice_of_exit(&self, request: &RerankRequest) -> Result<(), RerankError> {
        if let Some(layer) = request.cutoff_layer {
            self.check_cutoff_layer(layer).map_err(|problem| RerankError::invalid("cutoff_layer", problem))?;
        }
        let asked = match request.early_exit {
            Some(EarlyExitChoice::On) => self.declared_early_exit().map(|exit| exit.layer),
            Some(EarlyExitChoice::After { layer, .. }) => {
                self.start_layer().and_then(|_| self.check_early_exit(layer)).map(|()| layer)
            }
            Some(EarlyExitChoice::Measured { layer, .. }) => self.check_early_exit(layer).map(|()| layer),
            Some(EarlyExitChoice::Off) | None => return Ok(()),
        };
        let checked = asked.and_then(|layer| match self.choose_cutoff_layer(request) {
            Some(cutoff) if cutoff <= layer => {
                Err(format!("layer {layer}: documents leave before cutoff_layer, which is {cutoff}"))
            }
            Some(_) | None => Ok(()),
        });
        checked.map_err(|problem| RerankError::invalid("early_exit", problem))
    }

    /// The layer that all documents of a request are scored after; `None`: the last.
    pub(in crate::prompt) fn choose_cutoff_layer(&self, request: &RerankRequest) -> Option<u16> {
        let layer = request.cutoff_layer.or(self.cutoff_layer);
        // A stage of a cascade may have no such layer.
        layer.filter(|layer| self.check_cutoff_layer(*layer).is_ok() && usize::from(*layer) < self.layers)
    }

    /// Where the documents of a request leave that is read in `mode`.
    pub(in crate::prompt) fn choose_exit(
        &self,
        request: &RerankRequest,
        mode: Mode,
        warnings: &mut Vec<String>,
    ) -> Option<EarlyExit> {
        let exit = match request.early_exit {
            Some(EarlyExitChoice::After { layer, keep } | EarlyExitChoice::Measured { layer, keep }) => {
                Some(EarlyExit { layer, keep })
            }
            Some(EarlyExitChoice::On) => self.declared_early_exit().ok(),
            None if self.exits_early => self.declared_early_exit().ok(),
            Some(EarlyExitChoice::Off) | None => None,
        }?;
        if self.choose_cutoff_layer(request).is_some_and(|cutoff| cutoff <= exit.layer) {
            return None;
        }
        if mode == Mode::Pointwise {
            return Some(exit);
        }
        if request.early_exit.is_some() {
            warnings.push("early_exit had no effect: the documents were read together".to_owned());
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompt::{EarlyExitFacts, testing};

    fn request(early_exit: Option<EarlyExitChoice>) -> RerankRequest {
        RerankRequest { early_exit, ..RerankRequest::new("q", vec!["a".to_owned()]) }
    }

    #[test]
    fn families_that_cannot_exit_say_why() {
        for (family, reason) in [
            ("podium-mini", "family `podium-mini` compares the documents of a slate"),
            ("jina-v3", "family `jina-v3` has no pointwise prompt"),
            ("e2rank", "family `e2rank` has no pointwise prompt"),
            ("cross-encoder", "family `cross-encoder` runs on an encoder here"),
            ("yes-no", "family `yes-no` declares no early exit for a model of 4 layers; measure one"),
        ] {
            let error = testing::shared(family).check_choice_of_exit(&request(Some(EarlyExitChoice::On))).unwrap_err();
            let expected = format!("early_exit: {reason}");
            assert!(error.to_string().starts_with(&expected), "{error}");
        }
    }

    #[test]
    fn an_exit_is_below_the_last_layer() {
        let prompter = testing::shared("yes-no");
        assert_eq!(prompter.check_early_exit(3), Ok(()));
        for layer in [0, 4] {
            let error = prompter.check_early_exit(layer).unwrap_err();
            assert_eq!(error, format!("layer {layer}: the model has 4 layers, and documents leave after a lower one"));
        }
    }

    #[test]
    fn documents_leave_where_family_and_configuration_or_request_say_so() {
        let mut prompter = testing::prompter_with_exit(EarlyExitFacts { layers: 4, layer: 2, keep: 3 });
        let exit = Some(EarlyExit { layer: 2, keep: 3 });
        let chosen =
            |prompter: &Prompter, choice| prompter.choose_exit(&request(choice), Mode::Pointwise, &mut Vec::new());
        assert_eq!(chosen(&prompter, None), None, "off unless it is turned on");
        assert_eq!(chosen(&prompter, Some(EarlyExitChoice::On)), exit);
        prompter.exit_early_by_default().unwrap();
        assert_eq!(chosen(&prompter, None), exit);
        assert_eq!(chosen(&prompter, Some(EarlyExitChoice::Off)), None);
        let other = testing::prompter_with_exit(EarlyExitFacts { layers: 28, layer: 2, keep: 3 });
        assert!(other.declared_early_exit().unwrap_err().contains("no early exit for a model of 4 layers"));
    }

    #[test]
    fn documents_that_are_read_together_do_not_leave_and_a_warning_says_so() {
        let mut warnings = Vec::new();
        let prompter = testing::prompter_with_exit(EarlyExitFacts { layers: 4, layer: 2, keep: 3 });
        let request = request(Some(EarlyExitChoice::On));
        assert_eq!(prompter.choose_exit(&request, Mode::Listwise, &mut warnings), None);
        assert_eq!(warnings, ["early_exit had no effect: the documents were read together"]);
    }

    fn layer_wise(cutoff_layer: Option<u16>, early_exit: Option<EarlyExitChoice>) -> RerankRequest {
        RerankRequest { cutoff_layer, ..request(early_exit) }
    }

    #[test]
    fn a_layer_wise_checkpoint_is_read_after_any_layer_with_a_head() {
        let prompter = testing::layer_wise_prompter();
        let after = |layer| Some(EarlyExitChoice::After { layer, keep: 5 });
        for (cutoff, exit, chosen) in [
            (None, None, (None, None)),
            (Some(8), None, (Some(8), None)),
            (Some(40), None, (None, None)),
            (None, after(12), (None, Some(EarlyExit { layer: 12, keep: 5 }))),
            (Some(24), after(12), (Some(24), Some(EarlyExit { layer: 12, keep: 5 }))),
            (None, Some(EarlyExitChoice::On), (None, Some(EarlyExit { layer: 28, keep: 10 }))),
        ] {
            let request = layer_wise(cutoff, exit);
            prompter.check_choice_of_exit(&request).unwrap();
            let exit = prompter.choose_exit(&request, Mode::Pointwise, &mut Vec::new());
            assert_eq!((prompter.choose_cutoff_layer(&request), exit), chosen, "{request:?}");
        }
        for (cutoff, exit, problem) in [
            (Some(7), None, "cutoff_layer: layer 7: the model has heads for layers 8 to 40"),
            (Some(41), None, "cutoff_layer: layer 41: the model has heads for layers 8 to 40"),
            (None, after(7), "early_exit: layer 7: the model has heads for layers 8 to 40"),
            (None, after(40), "early_exit: layer 40: the model has 40 layers, and documents leave after a lower one"),
            (Some(24), after(24), "early_exit: layer 24: documents leave before cutoff_layer, which is 24"),
            (
                Some(20),
                Some(EarlyExitChoice::On),
                "early_exit: layer 28: documents leave before cutoff_layer, which is 20",
            ),
        ] {
            let error = prompter.check_choice_of_exit(&layer_wise(cutoff, exit)).unwrap_err();
            assert_eq!(error.to_string(), problem);
        }
    }

    #[test]
    fn the_configurations_cutoff_layer_holds_unless_a_request_names_another() {
        let mut prompter = testing::layer_wise_prompter();
        assert!(prompter.cut_off_by_default(3).is_err());
        prompter.cut_off_by_default(20).unwrap();
        prompter.exit_early_by_default().unwrap();
        let chosen = |cutoff| {
            let request = layer_wise(cutoff, None);
            let exit = prompter.choose_exit(&request, Mode::Pointwise, &mut Vec::new());
            (prompter.choose_cutoff_layer(&request), exit.map(|exit| exit.layer))
        };
        assert_eq!(chosen(None), (Some(20), None), "the declared exit is behind the cutoff layer");
        assert_eq!(chosen(Some(32)), (Some(32), Some(28)));
        assert_eq!(chosen(Some(40)), (None, Some(28)));
    }

    #[test]
    fn a_model_with_one_head_has_no_cutoff_layer_and_no_exit_of_a_requests_choice() {
        let prompter = testing::shared("yes-no");
        let one_head = "the model (family `yes-no`) has a head for its last layer only; layer-wise checkpoints";
        for (cutoff, exit, field) in
            [(Some(2), None, "cutoff_layer"), (None, Some(EarlyExitChoice::After { layer: 2, keep: 3 }), "early_exit")]
        {
            let error = prompter.check_choice_of_exit(&layer_wise(cutoff, exit)).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{field}: {one_head}")), "{error}");
        }
        let measured = Some(EarlyExitChoice::Measured { layer: 2, keep: 3 });
        assert!(prompter.check_choice_of_exit(&request(measured)).is_ok());
    }
}
