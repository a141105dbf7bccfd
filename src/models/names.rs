//! The names that the models of a server answer to.

use super::settings::ModelsSettings;

/// Maps each name that a request may use to the key of its model in `[models]`.
pub(super) struct ServedNames {
    /// Names that a request may use, those of the default model first.
    all: Vec<String>,
    /// For each name, the key in `[models]`; `None` is the default model.
    configured: Vec<Option<String>>,
}

impl ServedNames {
    pub fn new(default: &[String], settings: &ModelsSettings) -> Self {
        let mut names = Self { all: default.to_vec(), configured: vec![None; default.len()] };
        for (own, named) in &settings.named {
            for name in std::iter::once(own.as_str()).chain(named.model.served()) {
                if !names.all.iter().any(|known| known == name) {
                    names.all.push(name.to_owned());
                    names.configured.push(Some(own.clone()));
                }
            }
        }
        names
    }

    /// Every name that a request may use, those of the default model first.
    pub fn all(&self) -> &[String] {
        &self.all
    }

    /// The key in `[models]` of the model served as `name`. `None` for the default model and for an
    /// unknown name.
    pub fn configured_name(&self, name: &str) -> Option<&str> {
        let index = self.all.iter().position(|known| known == name)?;
        self.configured[index].as_deref()
    }
}
