//! Stored instructions: the profiles that are compiled in, and those of an operator's file.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::rerank::Instructions;

/// The profiles that are compiled in.
const BUILT_IN: &str = include_str!("../../prompts/instructions.toml");

/// Settings of the stored instructions (`[instructions]` in the configuration).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstructionSettings {
    /// The profile of requests without an instruction; empty is none.
    pub default: String,
    /// A file with more profiles; empty is none.
    pub file: String,
    /// Whether an instruction may stand in the query.
    pub in_query: bool,
}

/// An error in the profiles.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// The file is not TOML, or not of tables with a `text`.
    #[error("{0}")]
    Syntax(#[from] toml::de::Error),
    /// The name cannot follow a model's name after `@`.
    #[error("profile {name:?}: a name holds only lower-case letters, digits and hyphens")]
    Name {
        /// The name.
        name: String,
    },
    /// The text of the profile is empty.
    #[error("profile {name:?}: its text is empty")]
    Empty {
        /// The name.
        name: String,
    },
    /// No profile has the name of the default.
    #[error("instructions.default: there is no profile {name:?}; there are {}", available.join(", "))]
    Default {
        /// The name.
        name: String,
        /// The names there are.
        available: Vec<String>,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Profile {
    text: String,
}

/// The profiles that are compiled in, with those of an operator's file (its text) on top.
///
/// # Errors
/// A file that does not hold profiles, a default that is none of them.
pub fn load_instructions(settings: &InstructionSettings, file: Option<&str>) -> Result<Instructions, ProfileError> {
    let mut profiles = parse_profiles(BUILT_IN)?;
    profiles.extend(file.map(parse_profiles).transpose()?.unwrap_or_default());
    let default = settings.default.trim();
    if !default.is_empty() && !profiles.contains_key(default) {
        let available = profiles.into_keys().collect();
        return Err(ProfileError::Default { name: default.to_owned(), available });
    }
    Ok(Instructions::new(profiles, default, settings.in_query))
}

fn parse_profiles(text: &str) -> Result<BTreeMap<String, String>, ProfileError> {
    let profiles: BTreeMap<String, Profile> = toml::from_str(text)?;
    profiles
        .into_iter()
        .map(|(name, profile)| {
            let is_allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            if name.is_empty() || !name.bytes().all(is_allowed) {
                return Err(ProfileError::Name { name });
            }
            let text = profile.text.split_whitespace().collect::<Vec<_>>().join(" ");
            if text.is_empty() { Err(ProfileError::Empty { name }) } else { Ok((name, text)) }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_profiles_are_complete_sentences() {
        let file = Some("[house]\ntext = \"Prefer our own pages.\"");
        let instructions = load_instructions(&InstructionSettings::default(), file).unwrap();
        let names: Vec<&str> = instructions.profiles().map(|(name, _)| name).collect();
        for name in ["legal", "financial", "biomedical", "argument", "house"] {
            assert!(names.contains(&name), "{name}");
        }
        for (name, text) in instructions.profiles() {
            assert!(text.ends_with('.') && text.len() < 300, "{name}: {text}");
        }
    }

    #[test]
    fn a_file_without_profiles_is_refused() {
        let unknown = InstructionSettings { default: "nosuch".into(), file: String::new(), in_query: false };
        assert!(matches!(load_instructions(&unknown, None), Err(ProfileError::Default { .. })));
        for (file, part) in [
            ("legal = 3", "legal"),
            ("[a]\ntext = \" \"", "empty"),
            ("[\"A b\"]\ntext = \"t\"", "lower-case"),
            ("[a]\ntext = \"t\"\nmore = 1", "more"),
        ] {
            let problem = load_instructions(&InstructionSettings::default(), Some(file)).unwrap_err().to_string();
            assert!(problem.contains(part), "{problem}");
        }
    }
}
