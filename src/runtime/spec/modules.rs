//! The classifier that a sentence-transformers checkpoint keeps in modules of its own:
//! Pooling, Dense, LayerNorm, Dense.

use serde_json::Value;

use super::{Activation, ClassifierSpec, DenseSpec, ModelSpec, NormKind, NormSpec};
use crate::runtime::Pooling;
use crate::runtime::checkpoint::Module;

/// torch's default.
const LAYER_NORM_EPS: f64 = 1e-5;

impl ModelSpec {
    /// Reads the classifier of a chain that ends with a `Dense` whose output is called `scores`.
    /// Other chains (those of embedding models) have none.
    ///
    /// # Errors
    /// A chain that ends in scores and is not read.
    pub fn with_modules(mut self, modules: &[Module]) -> Result<Self, String> {
        let text = |module: &Module, key: &str| module.config.get(key).and_then(Value::as_str).map(str::to_owned);
        let is_scored =
            |module: &Module| module.kind == "Dense" && text(module, "module_output_name").as_deref() == Some("scores");
        if !modules.last().is_some_and(is_scored) {
            return Ok(self);
        }
        let kinds: Vec<&str> = modules.iter().map(|module| module.kind.as_str()).collect();
        let (pooling, dense, norm, out) = match modules {
            [pooling, out] if kinds == ["Pooling", "Dense"] => (pooling, None, None, out),
            [pooling, dense, out] if kinds == ["Pooling", "Dense", "Dense"] => (pooling, Some(dense), None, out),
            [pooling, norm, out] if kinds == ["Pooling", "LayerNorm", "Dense"] => (pooling, None, Some(norm), out),
            [pooling, dense, norm, out] if kinds == ["Pooling", "Dense", "LayerNorm", "Dense"] => {
                (pooling, Some(dense), Some(norm), out)
            }
            _ => {
                return Err(format!(
                    "the chain {} is not supported; Pooling, Dense, LayerNorm, Dense is, with or without the middle ones",
                    kinds.join(", ")
                ));
            }
        };
        let names = [dense, norm, Some(out)].map(|module| {
            let tensor = if module.is_some_and(|module| module.kind == "LayerNorm") { "norm" } else { "linear" };
            module.map_or_else(String::new, |module| format!("{}/{tensor}", module.folder))
        });
        if let Some(activation) = activation_of(out)? {
            return Err(format!("{}/config.json: activation_function {activation:?} of the scores", out.folder));
        }
        self.classifier = Some(ClassifierSpec {
            labels: out.config.get("out_features").and_then(Value::as_u64).unwrap_or(1) as usize,
            pooling: pooling_of(pooling)?,
            dense: dense.map(|module| dense_of(module, self.hidden_size)).transpose()?,
            norm: norm.map(|_| NormSpec::new(NormKind::Layer { bias: true }, LAYER_NORM_EPS)),
            bias: has_bias(out),
            temperature: 1.,
            start_layer: None,
            module_tensors: Some(names),
        });
        Ok(self)
    }
}

fn has_bias(module: &Module) -> bool {
    module.config.get("bias").and_then(Value::as_bool).unwrap_or(true)
}

fn pooling_of(module: &Module) -> Result<Pooling, String> {
    let is_on = |key: &str| module.config.get(key).and_then(Value::as_bool).unwrap_or(false);
    let mode = module.config.get("pooling_mode").and_then(Value::as_str);
    match mode {
        Some("cls") => Ok(Pooling::First),
        Some("mean") => Ok(Pooling::Mean),
        Some("lasttoken") => Ok(Pooling::Last),
        None if is_on("pooling_mode_cls_token") => Ok(Pooling::First),
        None if is_on("pooling_mode_mean_tokens") => Ok(Pooling::Mean),
        None if is_on("pooling_mode_lasttoken") => Ok(Pooling::Last),
        Some(_) | None => Err(format!(
            "{}/config.json: pooling_mode is {}; cls, mean and lasttoken are supported",
            module.folder,
            mode.unwrap_or("not given")
        )),
    }
}

fn dense_of(module: &Module, hidden: usize) -> Result<DenseSpec, String> {
    let size = |key: &str| module.config.get(key).and_then(Value::as_u64);
    let problem = |problem: String| format!("{}/config.json: {problem}", module.folder);
    if [size("in_features"), size("out_features")] != [Some(hidden as u64); 2] {
        return Err(problem(format!("in_features and out_features are not the width of the states, {hidden}")));
    }
    if module.config.get("use_residual").and_then(Value::as_bool) == Some(true) {
        return Err(problem("use_residual is true, which is not supported".to_owned()));
    }
    let activation = activation_of(module)?.ok_or_else(|| problem("has no activation_function".to_owned()))?;
    Ok(DenseSpec { bias: has_bias(module), activation })
}

/// The activation of a `Dense`; nothing for an identity.
fn activation_of(module: &Module) -> Result<Option<Activation>, String> {
    let name = module.config.get("activation_function").and_then(Value::as_str);
    // sentence-transformers' default.
    let name = name.unwrap_or("torch.nn.modules.activation.Tanh");
    match name.strip_prefix("torch.").and_then(|name| name.rsplit('.').next()) {
        Some("Identity") => Ok(None),
        Some("GELU") => Ok(Some(Activation::GeluErf)),
        Some("Tanh") => Ok(Some(Activation::Tanh)),
        Some("ReLU") => Ok(Some(Activation::Relu)),
        Some("SiLU") => Ok(Some(Activation::Silu)),
        _ => Err(format!(
            "{}/config.json: activation_function is {name}; Identity, GELU, Tanh, ReLU and SiLU are supported",
            module.folder
        )),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn module(kind: &str, config: Value) -> Module {
        Module { folder: format!("1_{kind}"), kind: kind.to_owned(), config, weights: None }
    }

    fn classifier(modules: &[Module]) -> Result<Option<ClassifierSpec>, String> {
        let config = json!({"architectures": ["ModernBertModel"], "hidden_size": 32, "intermediate_size": 48,
            "num_hidden_layers": 2, "num_attention_heads": 1, "vocab_size": 100});
        let path = std::path::Path::new("config.json");
        let spec = ModelSpec::parse(config.to_string().as_bytes(), path).unwrap();
        spec.with_modules(modules).map(|spec| spec.classifier)
    }

    fn chain() -> Vec<Module> {
        vec![
            module("Pooling", json!({"pooling_mode": "cls"})),
            module(
                "Dense",
                json!({"in_features": 32, "out_features": 32, "bias": false,
                    "activation_function": "torch.nn.modules.activation.GELU"}),
            ),
            module("LayerNorm", json!({"dimension": 32})),
            module(
                "Dense",
                json!({"in_features": 32, "out_features": 1, "bias": true, "module_output_name": "scores",
                    "activation_function": "torch.nn.modules.linear.Identity"}),
            ),
        ]
    }

    #[test]
    fn a_chain_that_ends_in_scores_is_a_classifier() {
        let found = classifier(&chain()).unwrap().unwrap();
        assert_eq!((found.labels, found.pooling, found.bias), (1, Pooling::First, true));
        assert_eq!(found.dense, Some(DenseSpec { bias: false, activation: Activation::GeluErf }));
        assert_eq!(found.module_tensors.unwrap()[2], "1_Dense/linear");
        let short = [chain().remove(0), chain().remove(3)];
        assert!(classifier(&short).unwrap().unwrap().dense.is_none());
    }

    #[test]
    fn an_embedding_model_has_no_classifier() {
        assert_eq!(classifier(&[]), Ok(None));
        assert_eq!(classifier(&[chain().remove(0), module("Normalize", json!({}))]), Ok(None));
    }

    #[test]
    fn what_is_not_read_is_refused_by_name() {
        for (place, key, value, problem) in [
            (0, "pooling_mode", json!("max"), "1_Pooling/config.json: pooling_mode is max; cls, mean"),
            (1, "use_residual", json!(true), "1_Dense/config.json: use_residual is true"),
            (1, "out_features", json!(64), "not the width of the states, 32"),
            (1, "activation_function", json!("torch.nn.modules.activation.Mish"), "activation_function is torch"),
            (3, "activation_function", json!("torch.nn.modules.activation.ReLU"), "of the scores"),
        ] {
            let mut modules = chain();
            modules[place].config[key] = value;
            let error = classifier(&modules).unwrap_err();
            assert!(error.contains(problem), "{error}");
        }
        let mut modules = chain();
        modules.insert(1, module("WordWeights", json!({})));
        assert!(classifier(&modules).unwrap_err().contains("the chain Pooling, WordWeights, Dense, LayerNorm, Dense"));
    }
}
