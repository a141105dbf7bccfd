//! The chat format of a checkpoint: its own chat template, as transformers' `apply_chat_template`
//! renders it, with thinking switched off and without tools or a date.

use std::sync::Arc;

use minijinja::{AutoEscape, Environment, Error, ErrorKind, Value, context};
use serde_json::Value as Json;

use crate::prompt::PromptError;

const TEMPLATE_FILE: &str = "chat_template.jinja";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
/// sentence-transformers' settings of a Transformer module.
const TRANSFORMER_SETTINGS: &str = "sentence_bert_config.json";

/// For checkpoints without a chat template whose tokenizer has these control tokens: Qwen's format.
const CHATML: &str = "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant{{ \"\\n\" }}";
/// How Qwen3 begins an answer without thoughts.
const NO_THOUGHTS: &str = "<think>\n\n</think>\n\n";

/// A chat template, and the special tokens that it may name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatFormat {
    template: String,
    bos_token: String,
    eos_token: String,
    /// Further variables that sentence-transformers renders the template with, such as
    /// `add_generation_prompt`: `processing_kwargs.chat_template` of its settings.
    variables: serde_json::Map<String, Json>,
}

impl ChatFormat {
    /// Reads the chat format of a checkpoint; `None` if it has none. `file` returns a file of the
    /// checkpoint, if it is there.
    ///
    /// # Errors
    /// [`PromptError::Declaration`], with the file, for a file that is malformed.
    pub fn read(file: &dyn Fn(&str) -> Option<Vec<u8>>) -> Result<Option<Self>, PromptError> {
        let malformed = |file: &str, problem: String| PromptError::Declaration { file: file.to_owned(), problem };
        let config = file(TOKENIZER_CONFIG).map(|bytes| serde_json::from_slice::<Json>(&bytes)).transpose();
        let config = config.map_err(|error| malformed(TOKENIZER_CONFIG, error.to_string()))?.unwrap_or_default();
        // A special token is its text, or an object with it.
        let token = |key: &str| {
            let text = config[key].as_str().or_else(|| config[key]["content"].as_str());
            text.unwrap_or_default().to_owned()
        };
        let found = match file(TEMPLATE_FILE) {
            Some(bytes) => Some(String::from_utf8(bytes).map_err(|error| malformed(TEMPLATE_FILE, error.to_string()))?),
            None => chat_template(&config["chat_template"]),
        };
        let settings = file(TRANSFORMER_SETTINGS).map(|bytes| serde_json::from_slice::<Json>(&bytes)).transpose();
        let settings =
            settings.map_err(|error| malformed(TRANSFORMER_SETTINGS, error.to_string()))?.unwrap_or_default();
        let variables = settings["processing_kwargs"]["chat_template"].as_object().cloned().unwrap_or_default();
        let (bos_token, eos_token) = (token("bos_token"), token("eos_token"));
        Ok(found.map(|template| Self { template, bos_token, eos_token, variables }))
    }

    /// The template's text.
    pub(in crate::prompt) fn template(&self) -> &str {
        &self.template
    }

    /// Variables of the template besides the messages, where it is rendered for a pair of texts.
    pub(in crate::prompt) fn variables(&self) -> impl Iterator<Item = (String, Value)> {
        let tokens = [("bos_token", &self.bos_token), ("eos_token", &self.eos_token)];
        let tokens = tokens.into_iter().map(|(name, token)| (name.to_owned(), Value::from(token)));
        tokens.chain(self.variables.iter().map(|(name, value)| (name.clone(), Value::from_serialize(value))))
    }

    /// The format of a checkpoint without one, if its tokenizer has the control tokens of Qwen's.
    fn chatml(has: &dyn Fn(&str) -> bool) -> Option<Self> {
        let thoughts = if has("<think>") { NO_THOUGHTS } else { "" };
        (has("<|im_start|>") && has("<|im_end|>")).then(|| Self {
            template: format!("{CHATML}{}", thoughts.replace('\n', "{{ \"\\n\" }}")),
            bos_token: String::new(),
            eos_token: String::new(),
            variables: serde_json::Map::new(),
        })
    }
}

/// The chat template of a configuration: a text, or that called `default` in a list.
fn chat_template(value: &Json) -> Option<String> {
    let named = |name: &str| value.as_array()?.iter().find(|template| template["name"] == name);
    value.as_str().or_else(|| named("default")?["template"].as_str()).map(str::to_owned)
}

/// The function `chat(system, user)` of templates: the prompt of a conversation up to the start of
/// the model's answer.
///
/// For a template without system messages, the system's text goes before the user's, as in FIRST's
/// reference.
///
/// `has_token` tells whether the tokenizer has a control token.
pub(in crate::prompt) fn chat_function(
    format: Option<&ChatFormat>,
    has_token: &dyn Fn(&str) -> bool,
) -> impl Fn(String, String) -> Result<Value, Error> + Send + Sync + 'static {
    let format = format.cloned().or_else(|| ChatFormat::chatml(has_token));
    let compiled = format.map(|format| compile(&format).map(|environment| (format, Arc::new(environment))));
    move |system, user| match &compiled {
        None => Err(Error::new(
            ErrorKind::InvalidOperation,
            format!(
                "the checkpoint has no chat template (`{TEMPLATE_FILE}`, or `chat_template` in {TOKENIZER_CONFIG})"
            ),
        )),
        Some(Err(error)) => Err(Error::new(ErrorKind::InvalidOperation, format!("the chat template: {error:#}"))),
        Some(Ok((format, environment))) => render(format, environment, &system, &user).map(Value::from),
    }
}

fn compile(format: &ChatFormat) -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    // As transformers sets Jinja.
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_function("raise_exception", |problem: String| -> Result<String, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, problem))
    });
    environment.add_template_owned("chat", format.template.clone())?;
    Ok(environment)
}

fn render(format: &ChatFormat, environment: &Environment<'static>, system: &str, user: &str) -> Result<String, Error> {
    let template = environment.get_template("chat")?;
    let run = |messages: Vec<Value>| {
        template.render(context! {
            messages => messages,
            add_generation_prompt => true,
            enable_thinking => false,
            bos_token => format.bos_token,
            eos_token => format.eos_token,
            tools => Value::from(()),
            documents => Value::from(()),
        })
    };
    let message = |role: &str, content: &str| context! { role => role, content => content };
    let apart = run(vec![message("system", system), message("user", user)]);
    match &apart {
        Ok(text) if text.contains(system) => apart,
        // The template refuses system messages, or drops them.
        Ok(_) | Err(_) => run(vec![message("user", &format!("{system}\n {user}"))]).or(apart),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::prompt::testing;

    fn chat(format: &ChatFormat) -> Result<String, Error> {
        render(format, &compile(format)?, "Be brief.", "Hello")
    }

    fn format(template: &str) -> ChatFormat {
        let config =
            json!({"chat_template": template, "bos_token": {"content": "<s>"}, "eos_token": "</s>"}).to_string();
        ChatFormat::read(&|file| (file == TOKENIZER_CONFIG).then(|| config.clone().into_bytes())).unwrap().unwrap()
    }

    /// Llama 3's template in its essentials.
    const LLAMA: &str = "{{- bos_token }}\n{%- for message in messages %}\n{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}\n{%- endfor %}\n{%- if add_generation_prompt %}\n    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}\n{%- endif %}";

    #[test]
    fn a_template_is_rendered_as_transformers_does() {
        let header = |role: &str| format!("<|start_header_id|>{role}<|end_header_id|>\n\n");
        let expected = format!(
            "<s>{}Be brief.<|eot_id|>{}Hello<|eot_id|>{}",
            header("system"),
            header("user"),
            header("assistant")
        );
        assert_eq!(chat(&format(LLAMA)).unwrap(), expected);
    }

    #[test]
    fn a_template_that_refuses_or_drops_system_messages_gets_it_before_the_users() {
        let refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}{{ bos_token }}[INST] {{ messages[0].content.strip() }} [/INST]";
        assert_eq!(chat(&format(refusing)).unwrap(), "<s>[INST] Be brief.\n Hello [/INST]");
        let dropping = "{% for message in messages if message.role == 'user' %}{{ message.content }}{% endfor %}";
        assert_eq!(chat(&format(dropping)).unwrap(), "Be brief.\n Hello");
        assert!(chat(&format("{{ raise_exception('never') }}")).unwrap_err().to_string().contains("never"));
    }

    #[test]
    fn a_template_of_its_own_file_comes_first_and_a_list_has_a_default() {
        let config =
            json!({"chat_template": [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "yes"}]});
        let files = |own: Option<&'static str>| {
            let config = config.to_string();
            move |file: &str| match file {
                TOKENIZER_CONFIG => Some(config.clone().into_bytes()),
                TEMPLATE_FILE => own.map(|text| text.as_bytes().to_vec()),
                _ => None,
            }
        };
        assert_eq!(ChatFormat::read(&files(None)).unwrap().unwrap().template, "yes");
        assert_eq!(ChatFormat::read(&files(Some("own"))).unwrap().unwrap().template, "own");
        assert_eq!(ChatFormat::read(&|_| None).unwrap(), None);
        let broken = ChatFormat::read(&|file| (file == TOKENIZER_CONFIG).then(|| b"{".to_vec())).unwrap_err();
        assert!(broken.to_string().starts_with("tokenizer_config.json: "), "{broken}");
    }

    #[test]
    fn without_a_template_qwens_control_tokens_are_its_format() {
        let tokenizer = testing::tokenizer();
        let format = ChatFormat::chatml(&|token| tokenizer.control(token).is_some()).unwrap();
        let expected = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n";
        assert_eq!(chat(&format).unwrap(), expected);
        assert_eq!(ChatFormat::chatml(&|token| token != "<|im_end|>"), None);
    }
}
