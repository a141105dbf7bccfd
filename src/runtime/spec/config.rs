//! `config.json` as a set of keys. Each key is used, known to have no effect here ([`MOOT`]), or
//! rejected by name.

use serde_json::{Map, Value};

/// The keys of a configuration that no reader has taken yet.
pub(super) struct Config {
    keys: Map<String, Value>,
}

/// Keys that change nothing that is computed here: they are for training, for generation or for
/// other programs.
const MOOT: &[&str] = &[
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_name_or_path",
    "add_cross_attention",
    "architectures",
    "attention_dropout",
    "attention_probs_dropout_prob",
    "attn_implementation",
    "auto_map",
    "bad_words_ids",
    "begin_suppress_tokens",
    "bos_token_id",
    "chunk_size_feed_forward",
    "classifier_dropout",
    "cls_token_id",
    "cross_attention_hidden_size",
    "decoder_bias",
    "decoder_start_token_id",
    "deterministic_flash_attn",
    "diversity_penalty",
    "do_sample",
    "dtype",
    "early_stopping",
    "embedding_dropout",
    "encoder_no_repeat_ngram_size",
    "eos_token_id",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "gradient_checkpointing",
    "hidden_dropout_prob",
    "initializer_cutoff_factor",
    "initializer_factor",
    "initializer_range",
    "is_encoder_decoder",
    "label2id",
    "length_penalty",
    "mask_token_id",
    "max_length",
    "min_length",
    "mlp_dropout",
    "model_type",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "pad_token_id",
    "podium",
    "prefix",
    "pretraining_tp",
    "problem_type",
    "projector_dim",
    "pruned_heads",
    "reference_compile",
    "remove_invalid_values",
    "repad_logits_with_grad",
    "repetition_penalty",
    "return_dict",
    "return_dict_in_generate",
    "sbert_ce_default_activation_function",
    "sentence_transformers",
    "sep_token_id",
    "sparse_pred_ignore_index",
    "sparse_prediction",
    "suppress_tokens",
    "task_specific_params",
    "tf_legacy_loss",
    "tie_encoder_decoder",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torch_dtype",
    "torchscript",
    "transformers_version",
    "typical_p",
    "use_bfloat16",
    "use_cache",
    "use_flash_attn",
];

/// Limits above any real model. Lists and tables are allocated by the configuration before the
/// weights' shapes are compared with it, so a wrong configuration must not ask for too much.
pub(super) const MAX_ROWS: usize = 1 << 24;
pub(super) const MAX_LAYERS: usize = 4096;
pub(super) const MAX_POSITIONS: usize = 1 << 22;

impl Config {
    pub fn parse(json: &[u8]) -> Result<Self, String> {
        match serde_json::from_slice(json).map_err(|error| format!("is not JSON: {error}"))? {
            Value::Object(keys) => Ok(Self { keys }),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                Err("is not a JSON object".to_owned())
            }
        }
    }

    /// The class of the model: `architectures[0]`, or what a configuration without it means by its
    /// `model_type`.
    pub fn architecture(&self) -> String {
        let named = |key: &str| self.keys.get(key).and_then(Value::as_str);
        let first = self.keys.get("architectures").and_then(|list| list.get(0)).and_then(Value::as_str);
        // Stanford's ColBERT writes its own class over that of any encoder.
        let first = first.filter(|name| *name != "HF_ColBERT");
        let by_type = || {
            Some(match named("model_type")? {
                "bert" => "BertModel",
                "xlm-roberta" => "XLMRobertaModel",
                "modernbert" => "ModernBertModel",
                "new" => "NewModel",
                "qwen2" => "Qwen2ForCausalLM",
                "qwen3" => "Qwen3ForCausalLM",
                "llama" => "LlamaForCausalLM",
                "mistral" => "MistralForCausalLM",
                "gemma" => "GemmaForCausalLM",
                other => other,
            })
        };
        first.or_else(by_type).unwrap_or("(none)").to_owned()
    }

    /// The value of a key, unless it is null; the key counts as used.
    pub fn take(&mut self, key: &str) -> Option<Value> {
        self.keys.remove(key).filter(|value| !value.is_null())
    }

    /// Whether the key is there and null.
    pub fn is_null(&self, key: &str) -> bool {
        self.keys.get(key).is_some_and(Value::is_null)
    }

    /// The result of `read` for a key; nothing if the key is absent. `kind` is for the message.
    fn typed<T>(&mut self, key: &str, kind: &str, read: impl Fn(&Value) -> Option<T>) -> Result<Option<T>, String> {
        let Some(value) = self.take(key) else { return Ok(None) };
        read(&value).map(Some).ok_or_else(|| format!("{key} is {value}, not {kind}"))
    }

    /// A size from 1 to `max`, or `default` where the key is absent. Without a default it must be
    /// there.
    pub fn size(&mut self, key: &str, max: usize, default: Option<usize>) -> Result<usize, String> {
        let read = self.typed(key, "a whole number", Value::as_u64)?;
        let value = read.map(|value| usize::try_from(value).unwrap_or(usize::MAX)).or(default);
        match value.ok_or_else(|| format!("has no {key}"))? {
            0 => Err(format!("{key} is 0")),
            value if value > max => Err(format!("{key} is {value}, over {max}")),
            value => Ok(value),
        }
    }

    /// A whole number, 0 included.
    pub fn count(&mut self, key: &str) -> Result<Option<usize>, String> {
        self.typed(key, "a whole number", |value| value.as_u64().and_then(|value| usize::try_from(value).ok()))
    }

    pub fn number(&mut self, key: &str) -> Result<Option<f64>, String> {
        self.typed(key, "a number", Value::as_f64)
    }

    pub fn flag(&mut self, key: &str, default: bool) -> Result<bool, String> {
        Ok(self.typed(key, "true or false", Value::as_bool)?.unwrap_or(default))
    }

    pub fn text(&mut self, key: &str) -> Result<Option<String>, String> {
        self.typed(key, "a string", |value| value.as_str().map(str::to_owned))
    }

    /// Rejects a key unless it is absent or has this value: another one means something that is not
    /// implemented.
    pub fn must_be(&mut self, key: &str, only: &Value) -> Result<(), String> {
        match self.take(key) {
            Some(value) if value != *only => Err(format!("{key} is {value}, which is not supported; only {only} is")),
            _ => Ok(()),
        }
    }

    /// Number of classes: `id2label`, else `num_labels`, else transformers' default of 2.
    pub fn labels(&mut self) -> Result<usize, String> {
        let named = self.take("id2label").and_then(|labels| labels.as_object().map(Map::len));
        let counted = self.size("num_labels", MAX_ROWS, Some(named.unwrap_or(2)))?;
        Ok(named.unwrap_or(counted))
    }

    /// Rejects the keys that nothing used and that are not moot, unless they switch something off.
    pub fn finish(mut self) -> Result<(), String> {
        if let Some(quantisation) = self.take("quantization_config").or_else(|| self.take("quantization")) {
            let method = match quantisation["quant_method"].as_str() {
                Some(method) => format!("`{method}`"),
                None if quantisation["group_size"].is_u64() => "MLX".to_owned(),
                None => "an unknown method".to_owned(),
            };
            let bits = quantisation["bits"].as_u64().map_or_else(String::new, |bits| format!(" in {bits} bits"));
            return Err(format!(
                "quantization_config: weights quantised by {method}{bits} are not supported; use the checkpoint that \
                 they were made from, and model.quantize"
            ));
        }
        let is_off = |value: &Value| match value {
            Value::Null | Value::Bool(false) => true,
            Value::Array(values) => values.is_empty(),
            Value::Object(keys) => keys.is_empty(),
            Value::Bool(true) | Value::Number(_) | Value::String(_) => false,
        };
        let ignored = ["id2label", "num_labels", "classifier_activation", "classifier_pooling", "temperature"];
        let mut unknown = self
            .keys
            .iter()
            .filter(|(key, value)| !MOOT.contains(&key.as_str()) && !ignored.contains(&key.as_str()) && !is_off(value));
        match unknown.next() {
            None => Ok(()),
            Some((key, value)) => Err(format!("{key} is {value}: this key is not supported")),
        }
    }
}
