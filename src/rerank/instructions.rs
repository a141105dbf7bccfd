//! Named instructions, the default one, and instructions that stand in the query.
//!
//! A request may bring its own instruction, name a profile, or both (the profile is read first). A client that has no
//! field for either names the profile behind the model, `podium-nano@legal`, or, where the operator allows it, writes
//! the instruction into the query.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::error::shortened;
use super::{RerankError, RerankRequest};

/// The profiles that are compiled in.
const BUILT_IN: &str = include_str!("../../prompts/instructions.toml");

/// Which instructions there are (`[instructions]` in the configuration).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstructionSettings {
    /// The profile of requests that give no instruction; empty is none.
    pub default: String,
    /// A file with more profiles; empty is none.
    pub file: String,
    /// Whether an instruction may stand in the query.
    pub in_query: bool,
}

/// A file of profiles that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// Not TOML, or not of tables with a `text`.
    #[error("{0}")]
    Syntax(#[from] toml::de::Error),
    /// A name that cannot stand behind a model's.
    #[error("profile {name:?}: a name holds only lower-case letters, digits and hyphens")]
    Name {
        /// The name.
        name: String,
    },
    /// A profile that says nothing.
    #[error("profile {name:?}: its text is empty")]
    Empty {
        /// The name.
        name: String,
    },
    /// The default names no profile.
    #[error("instructions.default: there is no profile {name:?}; there are {}", available.join(", "))]
    Default {
        /// The name.
        name: String,
        /// The names there are.
        available: Vec<String>,
    },
}

/// A profile's text and a caller's own, put together once for all requests of a call.
#[derive(Debug, Default)]
pub struct JoinedText(Option<[Arc<str>; 3]>);

impl JoinedText {
    fn of(&mut self, profile: &Arc<str>, own: &Arc<str>) -> Arc<str> {
        match &self.0 {
            Some([first, second, joined]) if Arc::ptr_eq(first, profile) && Arc::ptr_eq(second, own) => joined.clone(),
            _ => {
                let joined: Arc<str> = format!("{profile} {own}").into();
                self.0 = Some([profile.clone(), own.clone(), joined.clone()]);
                joined
            }
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Profile {
    text: String,
}

/// The profiles by name, and what is done without one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instructions {
    profiles: BTreeMap<Arc<str>, Arc<str>>,
    default: Option<Arc<str>>,
    in_query: bool,
}

impl Instructions {
    /// The profiles that are compiled in, with those of an operator's file (its text) on top.
    ///
    /// # Errors
    /// A file that is not of named texts, a default that is not among the names.
    pub fn new(settings: &InstructionSettings, file: Option<&str>) -> Result<Self, ProfileError> {
        let mut profiles = read(BUILT_IN)?;
        profiles.extend(file.map(read).transpose()?.unwrap_or_default());
        let default = Some(settings.default.trim()).filter(|name| !name.is_empty()).map(Arc::from);
        if let Some(name) = default.as_ref().filter(|name| !profiles.contains_key(*name)) {
            let available = profiles.keys().map(ToString::to_string).collect();
            return Err(ProfileError::Default { name: name.to_string(), available });
        }
        Ok(Self { profiles, default, in_query: settings.in_query })
    }

    /// Names and texts, by name.
    pub fn profiles(&self) -> impl Iterator<Item = (&str, &str)> {
        self.profiles.iter().map(|(name, text)| (&**name, &**text))
    }

    /// The profile of requests that give no instruction.
    #[must_use]
    pub fn default(&self) -> Option<&str> {
        self.default.as_deref()
    }

    /// Puts a request's instruction together, where the model reads it.
    ///
    /// Afterwards `profile` is the one that was asked for or the default, and `instruction` its text
    /// followed by the request's own. An empty instruction is none, and keeps the default away.
    /// `joined` keeps what the requests of one call share.
    ///
    /// # Errors
    /// An unknown profile; an instruction in the query beside one in its own field.
    pub fn resolve(&self, request: &mut RerankRequest, joined: &mut JoinedText) -> Result<(), RerankError> {
        if self.in_query {
            take_from_query(request)?;
        }
        if request.profile.is_none() && request.instruction.is_none() {
            request.profile.clone_from(&self.default);
        }
        let own = request.instruction.take().filter(|text| !text.trim().is_empty());
        let Some(name) = &request.profile else {
            request.instruction = own;
            return Ok(());
        };
        let Some(text) = self.profiles.get(name) else {
            let names = self.profiles.keys().map(AsRef::as_ref).collect::<Vec<_>>().join(", ");
            return Err(RerankError::invalid(
                "profile",
                format!("there is no profile `{}`; there are {names}", shortened(name)),
            ));
        };
        request.instruction = Some(own.map_or_else(|| text.clone(), |own| joined.of(text, &own)));
        Ok(())
    }
}

fn read(text: &str) -> Result<BTreeMap<Arc<str>, Arc<str>>, ProfileError> {
    let profiles: BTreeMap<String, Profile> = toml::from_str(text)?;
    profiles
        .into_iter()
        .map(|(name, profile)| {
            let is_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            if name.is_empty() || !name.bytes().all(is_name) {
                return Err(ProfileError::Name { name });
            }
            let text = profile.text.split_whitespace().collect::<Vec<_>>().join(" ");
            if text.is_empty() { Err(ProfileError::Empty { name }) } else { Ok((name.into(), text.into())) }
        })
        .collect()
}

/// Takes an instruction out of the query, if it is written in one of these ways:
///
/// - `<query>Q</query> <instruction>I</instruction>`, in either order, also `<instructions>` (zerank's habit);
/// - a line that begins with `Query:`, and the instruction on lines that begin with `Instruction:` or before all
///   labels (Voyage's habit).
fn take_from_query(request: &mut RerankRequest) -> Result<(), RerankError> {
    let Some((query, instruction)) = tagged(&request.query).or_else(|| labelled(&request.query)) else {
        return Ok(());
    };
    if request.instruction.as_deref().is_some_and(|own| !own.trim().is_empty()) {
        let problem = "stands in the query too; give one of them";
        return Err(RerankError::invalid("instruction", problem));
    }
    request.query = query;
    request.instruction = Some(instruction.into());
    Ok(())
}

fn tagged(text: &str) -> Option<(String, String)> {
    let instruction = between(text, "instruction").or_else(|| between(text, "instructions"))?;
    Some((between(text, "query")?, instruction))
}

/// What stands between `<tag>` and `</tag>`, trimmed.
fn between(text: &str, tag: &str) -> Option<String> {
    let rest = text.split_once(&format!("<{tag}>"))?.1;
    let (inner, _) = rest.split_once(&format!("</{tag}>"))?;
    Some(inner.trim().to_owned()).filter(|inner| !inner.is_empty())
}

fn labelled(text: &str) -> Option<(String, String)> {
    let (mut query, mut instruction) = (None, Vec::new());
    for line in text.lines().map(str::trim) {
        if let Some(rest) = after_label(line, "query:") {
            if query.is_some() {
                return None;
            }
            query = Some(vec![rest]);
        } else if let Some(rest) = after_label(line, "instruction:") {
            instruction.push(rest);
        } else if let (Some(query), true) = (&mut query, instruction.is_empty()) {
            query.push(line);
        } else {
            instruction.push(line);
        }
    }
    let joined = |lines: Vec<&str>| Some(lines.join("\n").trim().to_owned()).filter(|text| !text.is_empty());
    Some((joined(query?)?, joined(instruction)?))
}

fn after_label<'a>(line: &'a str, label: &str) -> Option<&'a str> {
    let head = line.get(..label.len())?;
    head.eq_ignore_ascii_case(label).then(|| line[label.len()..].trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instructions(default: &str, in_query: bool) -> Instructions {
        let settings = InstructionSettings { default: default.to_owned(), file: String::new(), in_query };
        Instructions::new(&settings, Some("[house]\ntext = \"Prefer our own pages.\"")).unwrap()
    }

    fn resolved(instructions: &Instructions, change: impl FnOnce(&mut RerankRequest)) -> Result<RerankRequest, String> {
        let mut request = RerankRequest::new("q", vec!["a".to_owned()]);
        change(&mut request);
        request.resolve_model(&["nano".to_owned(), "me@home".to_owned()]).map_err(|e| e.to_string())?;
        instructions.resolve(&mut request, &mut JoinedText::default()).map_err(|e| e.to_string())?;
        Ok(request)
    }

    #[test]
    fn what_the_requests_of_a_call_share_is_put_together_once() {
        let (house, mut joined) = (instructions("house", false), JoinedText::default());
        let shared = RerankRequest {
            instruction: Some("i".into()),
            profile: Some("house".into()),
            ..RerankRequest::new("q", vec![])
        };
        let [first, second] = [(); 2].map(|()| {
            let mut request = shared.clone();
            house.resolve(&mut request, &mut joined).unwrap();
            request.instruction.unwrap()
        });
        assert_eq!(&*first, "Prefer our own pages. i");
        assert!(Arc::ptr_eq(&first, &second));
        let mut other = RerankRequest { instruction: Some("j".into()), ..shared };
        house.resolve(&mut other, &mut joined).unwrap();
        assert_eq!(other.instruction.as_deref(), Some("Prefer our own pages. j"));
    }

    #[test]
    fn the_built_in_profiles_are_whole() {
        let instructions = instructions("", false);
        let names: Vec<&str> = instructions.profiles().map(|(name, _)| name).collect();
        for name in ["legal", "financial", "biomedical", "argument", "house"] {
            assert!(names.contains(&name), "{name}");
        }
        for (name, text) in instructions.profiles() {
            assert!(text.ends_with('.') && text.len() < 300, "{name}: {text}");
        }
    }

    #[test]
    fn a_profile_is_read_before_the_requests_own_instruction() {
        let house = instructions("", false);
        let text = |change: fn(&mut RerankRequest)| resolved(&house, change).unwrap().instruction;
        assert_eq!(text(|_| {}), None);
        assert_eq!(text(|r| r.instruction = Some("i".into())).as_deref(), Some("i"));
        assert_eq!(text(|r| r.profile = Some("house".into())).as_deref(), Some("Prefer our own pages."));
        let both = text(|r| (r.profile, r.instruction) = (Some("house".into()), Some("Short ones.".into())));
        assert_eq!(both.as_deref(), Some("Prefer our own pages. Short ones."));
    }

    #[test]
    fn the_default_stands_in_for_nothing_but_not_for_an_empty_instruction() {
        let house = instructions("house", false);
        assert_eq!(resolved(&house, |_| {}).unwrap().profile.as_deref(), Some("house"));
        assert_eq!(resolved(&house, |r| r.instruction = Some(" ".into())).unwrap().instruction, None);
        assert_eq!(resolved(&house, |r| r.instruction = Some("i".into())).unwrap().instruction.as_deref(), Some("i"));
    }

    #[test]
    fn an_unknown_profile_is_refused() {
        let house = instructions("", false);
        let unknown = resolved(&house, |r| r.profile = Some("nosuch".into())).unwrap_err();
        assert!(unknown.starts_with("profile: there is no profile `nosuch`; there are argument, "), "{unknown}");
    }

    #[test]
    fn an_instruction_in_the_query_is_found_where_that_is_allowed() {
        let on = instructions("", true);
        for query in [
            "<query>Q</query>\n<instruction>I</instruction>",
            "<instructions> I </instructions><query> Q </query>",
            "Query: Q\nInstruction: I",
            "instruction: I\nquery: Q",
            "I\nQuery: Q",
        ] {
            let request = resolved(&on, |r| r.query = query.into()).unwrap();
            assert_eq!((request.query.as_str(), request.instruction.as_deref()), ("Q", Some("I")), "{query}");
            let off = resolved(&instructions("", false), |r| r.query = query.into()).unwrap();
            assert_eq!((off.query.as_str(), off.instruction), (query, None));
        }
        for query in
            ["Q", "Query: Q", "what is a query: an SQL question", "Query: a\nQuery: b\nInstruction: c", "🏆🏆🏆"]
        {
            assert_eq!(resolved(&on, |r| r.query = query.into()).unwrap().query, query);
        }
        let both = resolved(&on, |r| {
            (r.query, r.instruction) = ("I\nQuery: Q".into(), Some("other".into()));
        });
        assert_eq!(both.unwrap_err(), "instruction: stands in the query too; give one of them");
    }

    #[test]
    fn a_file_that_is_no_list_of_profiles_is_refused() {
        let settings = InstructionSettings { default: "nosuch".into(), file: String::new(), in_query: false };
        assert!(matches!(Instructions::new(&settings, None), Err(ProfileError::Default { .. })));
        for (file, part) in [
            ("legal = 3", "legal"),
            ("[a]\ntext = \" \"", "empty"),
            ("[\"A b\"]\ntext = \"t\"", "lower-case"),
            ("[a]\ntext = \"t\"\nmore = 1", "more"),
        ] {
            let settings = InstructionSettings { default: String::new(), ..settings.clone() };
            let problem = Instructions::new(&settings, Some(file)).unwrap_err().to_string();
            assert!(problem.contains(part), "{problem}");
        }
    }
}
