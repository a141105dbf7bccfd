//! The names of a server's models, and whether cascades and shadows name models that it has.

use std::collections::BTreeMap;
use std::path::Path;

use crate::config::{ConfigError, Settings};
use crate::models::ModelsSettings;
use crate::runtime::{Checkpoint, ModelSettings};
use crate::spelling::nearest;

/// Refuses a name that two models answer to, and a stage of a cascade or a shadow that names no
/// model of this server. Reads no checkpoint.
///
/// # Errors
/// [`ConfigError::Unusable`], with the key and the name that was probably meant.
pub(super) fn check_model_names(settings: &Settings) -> Result<(), ConfigError> {
    let names = default_names(&Checkpoint::name_of(&settings.model.source), &settings.model);
    check_names_unique(&names, settings)?;
    check_stages_and_shadows(&names, &settings.models)
}

/// The names of the default model: its own, the hub's, and those of the settings.
pub(super) fn default_names(own: &str, model: &ModelSettings) -> Vec<String> {
    let mut names = vec![own.to_owned()];
    if model.source.contains('/') && !Path::new(&model.source).exists() {
        names.insert(0, model.source.clone());
    }
    add_served_names(&mut names, model);
    names
}

pub(super) fn add_served_names(names: &mut Vec<String>, model: &ModelSettings) {
    for name in model.served().map(str::to_owned) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
}

fn check_names_unique(default: &[String], settings: &Settings) -> Result<(), ConfigError> {
    let mut owners: BTreeMap<&str, &str> = default.iter().map(|name| (name.as_str(), "the default model")).collect();
    let models = &settings.models;
    let named = models.named.iter().map(|(own, named)| (own, named.model.served().collect::<Vec<_>>()));
    let cascades = models.cascades.iter().map(|(own, cascade)| (own, cascade.served().collect::<Vec<_>>()));
    for (own, served) in named.chain(cascades) {
        for name in std::iter::once(own.as_str()).chain(served.into_iter().filter(|name| name != own)) {
            if let Some(other) = owners.insert(name, own) {
                let problem = format!("the name `{name}` is taken by {other}");
                return Err(ConfigError::Unusable { key: format!("models.{own}"), problem });
            }
        }
    }
    Ok(())
}

fn check_stages_and_shadows(default: &[String], models: &ModelsSettings) -> Result<(), ConfigError> {
    let named = models.named.iter().flat_map(|(own, named)| std::iter::once(own.as_str()).chain(named.model.served()));
    let single: Vec<&str> = default.iter().map(String::as_str).chain(named).collect();
    for (name, cascade) in &models.cascades {
        for stage in cascade.models() {
            check_known(&format!("models.{name}.cascade"), stage, &single)?;
        }
    }
    let cascades = models.cascades.iter();
    let cascades = cascades.flat_map(|(own, cascade)| std::iter::once(own.as_str()).chain(cascade.served()));
    let all: Vec<&str> = single.iter().copied().chain(cascades).collect();
    for (name, shadow) in &models.shadows {
        check_known(&format!("models.{name}.shadow_of"), &shadow.of, &all)?;
    }
    Ok(())
}

fn check_known(key: &str, name: &str, known: &[&str]) -> Result<(), ConfigError> {
    if known.contains(&name) {
        return Ok(());
    }
    let meant =
        nearest(name, known.iter().copied()).map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
    let end = if meant.is_empty() { "; there are" } else { " There are" };
    let problem = format!("there is no model `{name}`{meant}{end} {}", known.join(", "));
    Err(ConfigError::Unusable { key: key.to_owned(), problem })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Configuration, Sources};

    #[test]
    fn the_name_of_a_model_is_known_before_its_files_are_read() {
        let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/parity/fixtures/jina-v3");
        for source in ["podium-mini", "podium-nano", fixture] {
            let settings = Configuration::load(&Sources::default()).unwrap().settings.model;
            let opened = Checkpoint::open(&ModelSettings { source: source.to_owned(), ..settings }).unwrap();
            assert_eq!(Checkpoint::name_of(source), opened.name);
        }
        let cache = tempfile::tempdir().unwrap();
        let snapshot = cache.path().join("models--owner--large/snapshots/abc");
        std::fs::create_dir_all(&snapshot).unwrap();
        let file = cache.path().join("small-q4.gguf");
        std::fs::write(&file, "").unwrap();
        assert_eq!(Checkpoint::name_of(&snapshot.display().to_string()), "large");
        assert_eq!(Checkpoint::name_of(&file.display().to_string()), "small-q4");
        assert_eq!(Checkpoint::name_of("owner/large"), "large");
    }
}
