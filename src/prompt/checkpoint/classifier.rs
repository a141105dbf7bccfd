//! The activation of a checkpoint's classifier, as sentence-transformers finds it.

use serde_json::Value;

use super::podium_config::Calibration;
use crate::prompt::PromptError;
use crate::runtime::Pooling;

/// A classifier that a family can read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ClassifierReadout {
    /// Numbers that it gives for a sequence; a reranker's gives one.
    pub labels: usize,
    /// The positions that it reads.
    pub pooling: Pooling,
    /// The first layer with a classifier of its own, where each layer from it on has one.
    pub start_layer: Option<usize>,
    /// Turns its number into a relevance.
    pub calibration: Calibration,
}

/// Turns a classifier's number into a relevance, as the checkpoint's activation does.
///
/// The activation is found in sentence-transformers' order: `activation_fn` of
/// `config_sentence_transformers.json`, `sentence_transformers.activation_fn` and
/// `sbert_ce_default_activation_function` of `config.json`. Without one it is the sigmoid; names
/// outside `torch` are ignored, as there. An identity leaves the number as it is, so its relevance
/// is the sigmoid too: `raw_score` is the number itself for every model.
///
/// # Errors
/// [`PromptError::Declaration`] for any other activation, with the file and the key.
pub fn classifier_calibration(
    config: &Value,
    sentence_transformers: Option<&Value>,
) -> Result<Calibration, PromptError> {
    const CONFIG: &str = "config.json";
    let outside = sentence_transformers.and_then(|file| file.get("activation_fn"));
    let found = [
        ("config_sentence_transformers.json", "activation_fn", outside),
        (CONFIG, "sentence_transformers.activation_fn", config.pointer("/sentence_transformers/activation_fn")),
        (CONFIG, "sbert_ce_default_activation_function", config.get("sbert_ce_default_activation_function")),
    ];
    let named = found.into_iter().find_map(|(file, key, value)| {
        let name = value?.as_str()?;
        name.starts_with("torch.").then_some((file, key, name))
    });
    let Some((file, key, name)) = named else { return Ok(Calibration { scale: 1., bias: 0. }) };
    match name.rsplit('.').next() {
        Some("Sigmoid" | "Identity") => Ok(Calibration { scale: 1., bias: 0. }),
        // (1 + tanh(x)) / 2 = sigmoid(2 x)
        Some("Tanh") => Ok(Calibration { scale: 2., bias: 0. }),
        _ => Err(PromptError::Declaration {
            file: file.to_owned(),
            problem: format!("{key} is `{name}`; Sigmoid, Identity and Tanh are supported"),
        }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_activation_is_found_in_the_order_of_sentence_transformers() {
        let torch = |name: &str| format!("torch.nn.modules.activation.{name}");
        let scale = |config: Value, file: Value| {
            classifier_calibration(&config, Some(&file)).map(|found| found.scale).map_err(|error| error.to_string())
        };
        let tanh = json!({"sbert_ce_default_activation_function": torch("Tanh")});
        assert_eq!(scale(json!({}), json!({})), Ok(1.));
        assert_eq!(scale(tanh.clone(), json!({})), Ok(2.));
        assert_eq!(scale(tanh.clone(), json!({"activation_fn": torch("Sigmoid")})), Ok(1.));
        assert_eq!(scale(tanh, json!({"activation_fn": "mine.Activation"})), Ok(2.));
        let inner = json!({"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"},
            "sbert_ce_default_activation_function": torch("Tanh")});
        assert_eq!(scale(inner, json!({})), Ok(1.));
        let error = scale(json!({}), json!({"activation_fn": torch("ReLU")})).unwrap_err();
        assert!(error.starts_with("config_sentence_transformers.json: activation_fn is `torch."), "{error}");
    }
}
