//! Stored instructions by name, the default one, and instructions that stand in the query.
//!
//! A request may bring its own instruction, name a profile, or both: the profile is read first. A
//! client that has no field for either names the profile behind the model, `podium-nano@legal`, or,
//! if the operator allows it, writes the instruction into the query.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::error::shortened;
use super::{RerankError, RerankRequest};

/// The text of a profile followed by a request's own instruction, joined once for all requests of a
/// call.
#[derive(Debug, Default)]
pub struct JoinedText(Option<[Arc<str>; 3]>);

impl JoinedText {
    fn join(&mut self, profile: &Arc<str>, own: &Arc<str>) -> Arc<str> {
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

/// The stored instructions (profiles), and when they apply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instructions {
    profiles: BTreeMap<Arc<str>, Arc<str>>,
    default: Option<Arc<str>>,
    in_query: bool,
}

impl Instructions {
    /// These profiles, texts by name. `default` names the profile of requests without an
    /// instruction; empty is none. `in_query`: whether an instruction may stand in the query.
    #[must_use]
    pub fn new(profiles: BTreeMap<String, String>, default: &str, in_query: bool) -> Self {
        let profiles = profiles.into_iter().map(|(name, text)| (name.into(), text.into())).collect();
        Self { profiles, default: Some(default).filter(|name| !name.is_empty()).map(Arc::from), in_query }
    }

    /// Names and texts, by name.
    pub fn profiles(&self) -> impl Iterator<Item = (&str, &str)> {
        self.profiles.iter().map(|(name, text)| (&**name, &**text))
    }

    /// The profile of requests without an instruction.
    #[must_use]
    pub fn default(&self) -> Option<&str> {
        self.default.as_deref()
    }

    /// Puts a request's instruction together, where the model reads it.
    ///
    /// Afterwards `profile` is the one that was asked for or the default, and `instruction` its
    /// text followed by the request's own. An empty instruction is none, and keeps the default
    /// away. `joined` keeps what the requests of one call share.
    ///
    /// # Errors
    /// An unknown profile; an instruction in the query beside one in its own field.
    pub fn resolve(&self, request: &mut RerankRequest, joined: &mut JoinedText) -> Result<(), RerankError> {
        if self.in_query {
            take_instruction_from_query(request)?;
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
        request.instruction = Some(own.map_or_else(|| text.clone(), |own| joined.join(text, &own)));
        Ok(())
    }
}

/// Moves an instruction out of the query, if it is written in one of these ways:
///
/// - `<query>Q</query> <instruction>I</instruction>`, in either order, also `<instructions>`
///   (zerank's habit);
/// - a line that begins with `Query:`, and the instruction on lines that begin with `Instruction:`
///   or before all labels (Voyage's habit).
fn take_instruction_from_query(request: &mut RerankRequest) -> Result<(), RerankError> {
    let Some((query, instruction)) = parse_tags(&request.query).or_else(|| parse_labels(&request.query)) else {
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

fn parse_tags(text: &str) -> Option<(String, String)> {
    let instruction = text_in_tag(text, "instruction").or_else(|| text_in_tag(text, "instructions"))?;
    Some((text_in_tag(text, "query")?, instruction))
}

/// The text between `<tag>` and `</tag>`, trimmed.
fn text_in_tag(text: &str, tag: &str) -> Option<String> {
    let rest = text.split_once(&format!("<{tag}>"))?.1;
    let (inner, _) = rest.split_once(&format!("</{tag}>"))?;
    Some(inner.trim().to_owned()).filter(|inner| !inner.is_empty())
}

fn parse_labels(text: &str) -> Option<(String, String)> {
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
        let profiles = [("house", "Prefer our own pages."), ("legal", "Prefer statutes.")];
        let profiles = profiles.map(|(name, text)| (name.to_owned(), text.to_owned()));
        Instructions::new(profiles.into(), default, in_query)
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
        assert!(unknown.starts_with("profile: there is no profile `nosuch`; there are house, legal"), "{unknown}");
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
}
