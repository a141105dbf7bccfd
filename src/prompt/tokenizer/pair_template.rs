//! A tokenizer's own template for a pair of texts, from the post-processor of `tokenizer.json`:
//! `[CLS] A [SEP] B [SEP]`, `<s> A </s></s> B </s>`.

use serde_json::Value;

/// The prompt of a pair: the query is the first text, the document the second.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::prompt) struct PairTemplate {
    /// A template with control tokens and the places of both texts.
    pub source: String,
    /// Whether the second text and what follows it have token type 1.
    pub second_type: bool,
}

/// A part of a pair, and its token type.
type Part = (String, u64);

impl PairTemplate {
    /// Reads the key `post_processor` of a `tokenizer.json`; `None` if it has no template for pairs
    /// of texts.
    pub fn parse(post_processor: &Value) -> Option<Self> {
        let parts = match post_processor.get("type")?.as_str()? {
            "Sequence" => {
                return post_processor.get("processors")?.as_array()?.iter().find_map(Self::parse);
            }
            "TemplateProcessing" => template_parts(post_processor)?,
            "BertProcessing" => fixed_parts(post_processor, 1, 1)?,
            "RobertaProcessing" => fixed_parts(post_processor, 2, 0)?,
            _ => return None,
        };
        let second = parts.iter().position(|(text, _)| text == DOCUMENT)?;
        let second_type = parts[second].1 == 1;
        let is_expected = |(place, (_, kind)): (usize, &Part)| *kind == u64::from(second_type && place >= second);
        let is_a_pair = parts[..second].iter().filter(|(text, _)| text == QUERY).count() == 1;
        let fits = is_a_pair && parts.iter().enumerate().all(is_expected);
        fits.then(|| Self { source: parts.into_iter().map(|(text, _)| text).collect(), second_type })
    }

    /// The template with a fixed text before the query, which is tokenized with it.
    pub fn with_prompt(&self, prompt: Option<&str>) -> String {
        let Some(prompt) = prompt else { return self.source.clone() };
        let query = QUERY.replace("{{ query }}", &(literal(prompt) + "{{ query }}"));
        self.source.replace(QUERY, &query)
    }
}

// Both texts are tokenized on their own.
const QUERY: &str = "{{ apart }}{{ query }}{{ apart }}";
const DOCUMENT: &str = "{{ apart }}{{ document }}{{ apart }}";

/// A control token as a template spells it, so that no letter of it is taken for template code.
fn literal(token: &str) -> String {
    format!("{{{{ {} }}}}", Value::from(token))
}

/// The parts of key `pair`: special tokens, and the sequences A and B.
fn template_parts(processor: &Value) -> Option<Vec<Part>> {
    let part = |part: &Value| {
        let (kind, of) = part.as_object()?.iter().next()?;
        let (id, token_type) = (of.get("id")?.as_str()?, of.get("type_id")?.as_u64()?);
        let text = match (kind.as_str(), id) {
            ("Sequence", "A") => QUERY.to_owned(),
            ("Sequence", "B") => DOCUMENT.to_owned(),
            ("SpecialToken", name) => {
                let tokens = processor.get("special_tokens")?.get(name)?.get("tokens")?.as_array()?;
                tokens.iter().map(|token| token.as_str().map(literal)).collect::<Option<String>>()?
            }
            _ => return None,
        };
        Some((text, token_type))
    };
    processor.get("pair")?.as_array()?.iter().map(part).collect()
}

/// `cls A sep B sep`, with `separators` between the texts and a type for the second.
fn fixed_parts(processor: &Value, separators: usize, second: u64) -> Option<Vec<Part>> {
    let token = |key: &str| processor.get(key)?.get(0)?.as_str().map(literal);
    let (start, separator) = (token("cls")?, token("sep")?);
    Some(vec![
        (start, 0),
        (QUERY.to_owned(), 0),
        (separator.repeat(separators), 0),
        (DOCUMENT.to_owned(), second),
        (separator, second),
    ])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_kind_of_post_processor_gives_its_pair() {
        let bert = json!({"type": "BertProcessing", "sep": ["[SEP]", 102], "cls": ["[CLS]", 101]});
        let source = &format!(r#"{{{{ "[CLS]" }}}}{QUERY}{{{{ "[SEP]" }}}}{DOCUMENT}{{{{ "[SEP]" }}}}"#);
        let pair = |source: &str, second_type| Some(PairTemplate { source: source.to_owned(), second_type });
        assert_eq!(PairTemplate::parse(&bert), pair(source, true));
        let special = |id: &str, kind: u64| json!({"SpecialToken": {"id": id, "type_id": kind}});
        let text = |id: &str, kind: u64| json!({"Sequence": {"id": id, "type_id": kind}});
        let template = |kind: u64, last: u64| {
            json!({"type": "Sequence", "processors": [{"type": "ByteLevel"}, {
                "type": "TemplateProcessing",
                "pair": [special("[CLS]", 0), text("A", 0), special("[SEP]", 0), text("B", kind), special("[SEP]", last)],
                "special_tokens": {
                    "[CLS]": {"id": "[CLS]", "ids": [101], "tokens": ["[CLS]"]},
                    "[SEP]": {"id": "[SEP]", "ids": [102], "tokens": ["[SEP]"]},
                },
            }]})
        };
        assert_eq!(PairTemplate::parse(&template(1, 1)), pair(source, true));
        assert_eq!(PairTemplate::parse(&template(0, 0)), pair(source, false));
        assert_eq!(PairTemplate::parse(&template(1, 0)), None);
        let roberta = json!({"type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 0]});
        let source = &format!(r#"{{{{ "<s>" }}}}{QUERY}{{{{ "</s>" }}}}{{{{ "</s>" }}}}{DOCUMENT}{{{{ "</s>" }}}}"#);
        assert_eq!(PairTemplate::parse(&roberta), pair(source, false));
        assert_eq!(PairTemplate::parse(&json!({"type": "ByteLevel"})), None);
        assert_eq!(PairTemplate::parse(&Value::Null), None);
        let prompted = PairTemplate::parse(&bert).unwrap().with_prompt(Some("query: "));
        assert!(prompted.contains(r#"{{ apart }}{{ "query: " }}{{ query }}{{ apart }}"#), "{prompted}");
    }
}
