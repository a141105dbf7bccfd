//! Whether the documents of a request leave the model before its last layer, and after which.

use super::prompter::Prompter;
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
        if (1..self.layers).contains(&usize::from(layer)) {
            return Ok(());
        }
        Err(format!("layer {layer}: the model has {} layers, and documents leave after a lower one", self.layers))
    }

    fn check_can_exit(&self) -> Result<(), String> {
        let family = &self.facts.name;
        if self.rows.is_some() {
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

    /// Rejects a request for an exit that this model does not have.
    ///
    /// # Errors
    /// [`RerankError::InvalidField`] for `early_exit`.
    pub fn check_choice_of_exit(&self, request: &RerankRequest) -> Result<(), RerankError> {
        let checked = match request.early_exit {
            Some(EarlyExitChoice::On) => self.declared_early_exit().map(drop),
            Some(EarlyExitChoice::After { layer, .. }) => self.check_early_exit(layer),
            Some(EarlyExitChoice::Off) | None => Ok(()),
        };
        checked.map_err(|problem| RerankError::invalid("early_exit", problem))
    }

    /// Where the documents of a request leave that is read in `mode`.
    pub(super) fn choose_exit(
        &self,
        request: &RerankRequest,
        mode: Mode,
        warnings: &mut Vec<String>,
    ) -> Option<EarlyExit> {
        let exit = match request.early_exit {
            Some(EarlyExitChoice::After { layer, keep }) => Some(EarlyExit { layer, keep }),
            Some(EarlyExitChoice::On) => self.declared_early_exit().ok(),
            None if self.exits_early => self.declared_early_exit().ok(),
            Some(EarlyExitChoice::Off) | None => None,
        }?;
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
    use super::super::{EarlyExitFacts, testing};
    use super::*;

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
}
