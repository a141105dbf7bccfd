//! Templates: minijinja text to a sequence of literals, control tokens and places for texts.
//!
//! A caller's text never goes through the template engine. The engine sees placeholders (a name
//! between two private-use characters), and its result is split at them. So a text can neither run
//! template code nor pass for the template's own text.
//!
//! `prompts/README.md` lists the variables of a template.

use std::collections::{BTreeSet, HashSet};
use std::sync::{Mutex, PoisonError};

use minijinja::{AutoEscape, Environment, UndefinedBehavior, context};

use crate::prompt::PromptError;
use crate::prompt::tokenizer::{ChatFormat, Tokenizer, chat_function};

const OPEN: char = '\u{F0000}';
const CLOSE: char = '\u{F0001}';

/// One template of a family.
#[derive(Debug, Clone)]
pub(in crate::prompt) struct Template {
    family: String,
    file: String,
    /// Holds the compiled template, under the name of its file.
    environment: Environment<'static>,
}

/// The values that a template is rendered with.
#[derive(Debug, Clone, Copy)]
pub(in crate::prompt) struct TemplateInputs<'a> {
    pub instruction: bool,
    pub documents: usize,
    /// The documents' names; empty for families that do not name them.
    pub identifiers: &'a [String],
}

/// A part of a rendered template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::prompt) enum Part {
    /// The template's own text.
    Text(String),
    /// A control token of the template.
    Control(u32),
    Query,
    Instruction,
    /// A document, by its position in the slate.
    Document(usize),
    /// The mark of the document before it.
    DocumentMark,
    /// A boundary: the parts before and after it are tokenized separately.
    Boundary,
}

impl Template {
    /// Compiles a template.
    pub(in crate::prompt) fn new(
        family: &str,
        file: &str,
        source: &str,
        tokenizer: &Tokenizer,
    ) -> Result<Self, PromptError> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        let known: HashSet<String> = tokenizer.control_tokens().iter().map(|token| token.text.clone()).collect();
        environment.add_function("has_token", move |text: String| known.contains(&text));
        if source.contains("chat(") {
            environment.add_function(
                "chat",
                chat_function(tokenizer.chat_format(), &|token| tokenizer.control(token).is_some()),
            );
        }
        let mut template = Self { family: family.into(), file: file.into(), environment };
        let compiled = template.environment.add_template(intern(file), intern(source));
        compiled.map_err(|error| template.problem(format!("{error:#}")))?;
        Ok(template)
    }

    /// Gives the template a variable. Control tokens that its value spells become control tokens.
    pub(in crate::prompt) fn add_variable(&mut self, name: &'static str, value: String) {
        self.environment.add_global(name, value);
    }

    /// Compiles a checkpoint's chat template, with the settings of transformers.
    pub(in crate::prompt) fn from_chat_format(
        family: &str,
        file: &str,
        format: &ChatFormat,
        tokenizer: &Tokenizer,
    ) -> Result<Self, PromptError> {
        let mut template = Self::new(family, "", "", tokenizer)?;
        template.file = file.into();
        template.environment.set_trim_blocks(true);
        template.environment.set_lstrip_blocks(true);
        // A template asks whether optional values (tools, documents) are there.
        template.environment.set_undefined_behavior(UndefinedBehavior::Lenient);
        for (name, value) in format.variables() {
            template.environment.add_global(name, value);
        }
        let compiled = template.environment.add_template(intern(file), intern(format.template()));
        compiled.map_err(|error| template.problem(format!("{error:#}")))?;
        Ok(template)
    }

    /// Renders the whole template.
    pub(in crate::prompt) fn render(
        &self,
        inputs: TemplateInputs,
        tokenizer: &Tokenizer,
    ) -> Result<Vec<Part>, PromptError> {
        let rendered = self
            .environment
            .get_template(&self.file)
            .and_then(|template| template.render(variables(inputs)))
            .map_err(|error| self.problem(format!("{error:#}")))?;
        self.parts(&rendered, tokenizer)
    }

    /// The rendered template's text after its last control token and last text of a request.
    pub(in crate::prompt) fn text_at_end(
        &self,
        inputs: TemplateInputs,
        tokenizer: &Tokenizer,
    ) -> Result<String, PromptError> {
        Ok(match self.render(inputs, tokenizer)?.pop() {
            Some(Part::Text(text)) => text,
            _ => String::new(),
        })
    }

    /// Renders one `{% block %}` of the template.
    pub(in crate::prompt) fn render_block(
        &self,
        block: &str,
        inputs: TemplateInputs,
        tokenizer: &Tokenizer,
    ) -> Result<Vec<Part>, PromptError> {
        let rendered = self
            .environment
            .get_template(&self.file)
            .and_then(|template| {
                template.render_captured(variables(inputs))?.with_state_mut(|state| state.render_block(block))
            })
            .map_err(|error| self.problem(format!("block `{block}`: {error:#}")))?;
        self.parts(&rendered, tokenizer)
    }

    /// An error of this template.
    pub(in crate::prompt) fn problem(&self, problem: impl Into<String>) -> PromptError {
        PromptError::Template { family: self.family.clone(), template: self.file.clone(), problem: problem.into() }
    }

    fn parts(&self, rendered: &str, tokenizer: &Tokenizer) -> Result<Vec<Part>, PromptError> {
        let mut parts = Vec::new();
        for (nth, stretch) in rendered.split(OPEN).enumerate() {
            let literal = if nth == 0 {
                stretch
            } else {
                let (name, literal) =
                    stretch.split_once(CLOSE).ok_or_else(|| self.problem("a text was changed by a filter"))?;
                parts.push(parse_placeholder(name).ok_or_else(|| self.problem("a text was changed by a filter"))?);
                literal
            };
            if literal.contains(CLOSE) {
                return Err(self.problem("a text was changed by a filter"));
            }
            self.literal(literal, tokenizer, &mut parts)?;
        }
        Ok(parts)
    }

    /// Splits text at the control tokens that it spells: at the leftmost first, and of several at
    /// one place at the longest.
    fn literal(&self, mut literal: &str, tokenizer: &Tokenizer, parts: &mut Vec<Part>) -> Result<(), PromptError> {
        while !literal.is_empty() {
            let next = tokenizer
                .control_tokens()
                .iter()
                .filter_map(|token| literal.find(&token.text).map(|at| (at, token)))
                .min_by_key(|(at, token)| (*at, usize::MAX - token.text.len()));
            let (text, rest) = literal.split_at(next.map_or(literal.len(), |(at, _)| at));
            if let Some(unknown) = find_token_spelling(text) {
                return Err(self.problem(format!("`{unknown}` is no token of {}", tokenizer.file())));
            }
            if !text.is_empty() {
                parts.push(Part::Text(text.to_owned()));
            }
            literal = rest;
            if let Some((_, token)) = next {
                parts.push(Part::Control(token.id));
                literal = &rest[token.text.len()..];
            }
        }
        Ok(())
    }
}

/// Keeps a text for the life of the process, because the template engine needs a `'static` one.
/// Each text is kept once, however often a model is loaded.
fn intern(text: &str) -> &'static str {
    static TEXTS: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    let mut texts = TEXTS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = texts.get(text) {
        return known;
    }
    let text: &'static str = Box::leak(text.into());
    texts.insert(text);
    text
}

fn variables(inputs: TemplateInputs) -> minijinja::Value {
    let message = |role: &str, text: &str| context! { role => role, content => placeholder(text) };
    let system = inputs.instruction.then(|| message("system", "instruction"));
    let pair = [message("query", "query"), message("document", "document 0")];
    let documents: Vec<String> = (0..inputs.documents).map(|place| placeholder(&format!("document {place}"))).collect();
    context! {
        query => placeholder("query"),
        instruction => if inputs.instruction { placeholder("instruction") } else { String::new() },
        document => placeholder("document 0"),
        documents => documents,
        document_mark => placeholder("document_mark"),
        identifiers => inputs.identifiers,
        apart => placeholder("apart"),
        messages => system.into_iter().chain(pair).collect::<Vec<_>>(),
    }
}

fn placeholder(name: &str) -> String {
    format!("{OPEN}{name}{CLOSE}")
}

fn parse_placeholder(name: &str) -> Option<Part> {
    Some(match name {
        "query" => Part::Query,
        "instruction" => Part::Instruction,
        "document_mark" => Part::DocumentMark,
        "apart" => Part::Boundary,
        _ => Part::Document(name.strip_prefix("document ")?.parse().ok()?),
    })
}

/// The first `<|...|>` of a text: the spelling of a control token, or a typing error.
fn find_token_spelling(text: &str) -> Option<&str> {
    let start = text.find("<|")?;
    let end = text[start..].find("|>")? + start + 2;
    Some(&text[start..end])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompt::testing;

    fn render(source: &str) -> Result<Vec<Part>, PromptError> {
        let tokenizer = testing::tokenizer();
        let inputs = TemplateInputs { instruction: false, documents: 2, identifiers: &[] };
        Template::new("test", "test.jinja", source, &tokenizer)?.render(inputs, &tokenizer)
    }

    #[test]
    fn a_template_becomes_literals_control_tokens_and_placeholders() {
        let start = testing::tokenizer().control("<|im_start|>").unwrap().id;
        let parts =
            render("<|im_start|>a {{ query }}{{ apart }}{% for d in documents %}{{ d }}{% endfor %}\n").unwrap();
        let text = Part::Text("a ".into());
        assert_eq!(
            parts,
            [Part::Control(start), text, Part::Query, Part::Boundary, Part::Document(0), Part::Document(1)]
        );
    }

    #[test]
    fn a_chat_template_gets_a_message_for_each_role() {
        let source = r#"{%- set asked = messages | selectattr("role", "eq", "system") | map(attribute="content")
                | first | default("as usual") -%}
            {{- bos_token }}{{ asked }}{% if tools %}no{% endif %}
            {{- messages | selectattr("role", "eq", "query") | map(attribute="content") | first }}|
            {{- (messages | selectattr("role", "eq", "document") | first).content }}
            {%- if end %}<|im_end|>{% endif %}"#;
        let tokenizer = testing::tokenizer();
        let render = |instruction| {
            let inputs = TemplateInputs { instruction, documents: 1, identifiers: &[] };
            let files = |file: &str| match file {
                "chat_template.jinja" => Some(source.as_bytes().to_vec()),
                "tokenizer_config.json" => Some(br#"{"bos_token": "<|im_start|>"}"#.to_vec()),
                "sentence_bert_config.json" => {
                    Some(br#"{"processing_kwargs": {"chat_template": {"end": true}}}"#.to_vec())
                }
                _ => None,
            };
            let format = ChatFormat::read(&files).unwrap().unwrap();
            let template = Template::from_chat_format("test", "chat_template.jinja", &format, &tokenizer).unwrap();
            template.render(inputs, &tokenizer).unwrap()
        };
        let [start, end] =
            ["<|im_start|>", "<|im_end|>"].map(|text| Part::Control(tokenizer.control(text).unwrap().id));
        let text = |text: &str| Part::Text(text.to_owned());
        let rest = [Part::Query, text("|"), Part::Document(0), end];
        assert_eq!(render(true), [&[start.clone(), Part::Instruction], &rest[..]].concat());
        assert_eq!(render(false), [&[start, text("as usual")], &rest[..]].concat());
    }

    #[test]
    fn only_the_last_newline_of_the_file_is_dropped() {
        assert_eq!(render("a\n\n").unwrap(), [Part::Text("a\n".into())]);
        assert_eq!(render("a{{ \"\\n\\n\" }}\n").unwrap(), [Part::Text("a\n\n".into())]);
    }

    #[test]
    fn a_broken_template_is_refused_with_family_and_file() {
        for (source, problem) in [
            ("{{ qury }}", "undefined"),
            ("{% if %}", "syntax"),
            ("<|im_strat|>", "`<|im_strat|>` is no token of test/tokenizer.json"),
            ("{{ query[1:] }}", "changed by a filter"),
        ] {
            let error = render(source).unwrap_err().to_string();
            assert!(error.starts_with("family `test`, template test.jinja: ") && error.contains(problem), "{error}");
        }
    }
}
