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
            names.add(own, named.model.served());
        }
        for (own, cascade) in &settings.cascades {
            names.add(own, cascade.served());
        }
        names
    }

    fn add<'a>(&mut self, own: &'a str, served: impl Iterator<Item = &'a str>) {
        for name in std::iter::once(own).chain(served) {
            if !self.all.iter().any(|known| known == name) {
                self.all.push(name.to_owned());
                self.configured.push(Some(own.to_owned()));
            }
        }
    }

    /// Every name that a request may use, those of the default model first.
    pub fn all(&self) -> &[String] {
        &self.all
    }

    /// The own name of the model served as `name`, which is `default` for the default model; `None`
    /// for an unknown name.
    pub fn own_name<'a>(&'a self, name: &str, default: &'a str) -> Option<&'a str> {
        let index = self.all.iter().position(|known| known == name)?;
        Some(self.configured[index].as_deref().unwrap_or(default))
    }

    /// The key in `[models]` of the model served as `name`. `None` for the default model and for an
    /// unknown name.
    pub fn configured_name(&self, name: &str) -> Option<&str> {
        let index = self.all.iter().position(|known| known == name)?;
        self.configured[index].as_deref()
    }
}
