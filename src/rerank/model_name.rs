//! Which model a request names, and the profile that may stand behind the name.
//!
//! `podium-nano@legal` is the model `podium-nano` with the profile `legal`: for clients that have
//! no field for a profile. A model whose own name holds an `@` comes first.

use std::sync::Arc;

use super::{RerankError, RerankRequest, shortened};

/// Separates a model's name from a profile's.
const PROFILE_MARK: char = '@';

impl RerankRequest {
    /// Finds the request's model among `served` names, and moves a profile behind its name to where
    /// profiles stand. Afterwards `model` is a served name or `None`, the default model.
    ///
    /// # Errors
    /// [`RerankError::UnknownModel`]; a profile behind the name beside another one.
    pub fn resolve_model(&mut self, served: &[String]) -> Result<(), RerankError> {
        let is_served = |name: &str| served.iter().any(|known| known == name);
        let Some(given) = self.model.clone() else { return Ok(()) };
        if is_served(&given) {
            return Ok(());
        }
        let Some((model, profile)) = given.rsplit_once(PROFILE_MARK).filter(|(model, _)| is_served(model)) else {
            return Err(RerankError::unknown_model(&given, served));
        };
        if self.profile.as_deref().is_some_and(|other| other != profile) {
            let problem =
                format!("differs from the one behind the model's name, `{}`; give one of them", shortened(profile));
            return Err(RerankError::invalid("profile", problem));
        }
        (self.model, self.profile) = (Some(Arc::from(model)), Some(Arc::from(profile)));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(model: &str, profile: Option<&str>) -> Result<RerankRequest, String> {
        let mut request = RerankRequest {
            model: Some(model.into()),
            profile: profile.map(Into::into),
            ..RerankRequest::new("q", vec!["a".to_owned()])
        };
        let served = ["nano".to_owned(), "me@home".to_owned()];
        request.resolve_model(&served).map(|()| request).map_err(|error| error.to_string())
    }

    #[test]
    fn a_profile_may_stand_behind_the_models_name() {
        let request = resolved("nano@legal", None).unwrap();
        assert_eq!((request.model.as_deref(), request.profile.as_deref()), (Some("nano"), Some("legal")));
        let named_so = resolved("me@home", None).unwrap();
        assert_eq!((named_so.model.as_deref(), named_so.profile.as_deref()), (Some("me@home"), None));
        assert_eq!(resolved("nano@legal", Some("legal")).unwrap().profile.as_deref(), Some("legal"));
    }

    #[test]
    fn an_unknown_model_and_two_profiles_are_refused() {
        let unknown = resolved("other@legal", None).unwrap_err();
        assert_eq!(
            unknown,
            "model: `other@legal` is not served here; available: nano, me@home; `podium serve --served-model-name` adds a name"
        );
        let two = resolved("nano@legal", Some("house")).unwrap_err();
        assert_eq!(two, "profile: differs from the one behind the model's name, `legal`; give one of them");
    }
}
