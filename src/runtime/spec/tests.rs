//! Which configurations are read, how, and which are rejected by name.

use serde_json::{Value, json};

use super::*;
use crate::runtime::spec::config::{MAX_LAYERS, MAX_POSITIONS, MAX_ROWS};

fn parse(mut json: Value, change: impl Fn(&mut Value)) -> Result<ModelSpec, String> {
    change(&mut json);
    ModelSpec::parse(json.to_string().as_bytes(), Path::new("config.json")).map_err(|error| error.to_string())
}

fn qwen3() -> Value {
    json!({
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": 32, "intermediate_size": 64,
        "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
        "vocab_size": 100, "max_position_embeddings": 128, "rms_norm_eps": 1e-6, "rope_theta": 1e6,
        "tie_word_embeddings": true, "rope_scaling": null, "hidden_act": "silu", "sliding_window": null
    })
}

fn of(architecture: &str) -> Value {
    let mut json = qwen3();
    json["architectures"] = json!([architecture]);
    json
}

fn bert(architecture: &str) -> Value {
    json!({
        "architectures": [architecture], "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "vocab_size": 100, "max_position_embeddings": 130, "type_vocab_size": 2,
        "hidden_act": "gelu", "layer_norm_eps": 1e-12, "position_embedding_type": "absolute", "pad_token_id": 1,
        "id2label": {"0": "LABEL_0"}, "classifier_dropout": null, "attention_probs_dropout_prob": 0.1
    })
}

fn modern_bert() -> Value {
    json!({
        "architectures": ["ModernBertForSequenceClassification"], "hidden_size": 32, "intermediate_size": 48,
        "num_hidden_layers": 4, "num_attention_heads": 4, "vocab_size": 100, "max_position_embeddings": 8192,
        "global_attn_every_n_layers": 3, "local_attention": 128, "global_rope_theta": 160_000.0,
        "local_rope_theta": 10_000.0, "norm_eps": 1e-5, "layer_norm_eps": 1e-5, "classifier_pooling": "mean",
        "hidden_activation": "gelu", "id2label": {"0": "LABEL_0"}, "position_embedding_type": "sans_pos"
    })
}

#[test]
fn the_rotary_base_is_found_in_old_and_new_configurations() {
    let theta = |spec: Result<ModelSpec, String>| spec.unwrap().rotary[0].theta;
    assert!((theta(parse(qwen3(), |_| ())) - 1e6).abs() < 1e-9);
    let new = parse(qwen3(), |json| {
        json["rope_theta"].take();
        json["rope_parameters"] = json!({"rope_type": "default", "rope_theta": 5e5});
    });
    assert!((theta(new) - 5e5).abs() < 1e-9);
}

#[test]
fn a_size_that_no_model_has_is_rejected_before_anything_is_as_long() {
    for (name, max) in [
        ("num_hidden_layers", MAX_LAYERS),
        ("max_position_embeddings", MAX_POSITIONS),
        ("vocab_size", MAX_ROWS),
        ("head_dim", MAX_ROWS),
    ] {
        let problem = parse(qwen3(), |config| config[name] = (max + 1).into()).unwrap_err();
        assert!(problem.ends_with(&format!("{name} is {}, over {max}", max + 1)), "{problem}");
    }
}

#[test]
fn qwen2_has_biases_and_qwen3_has_norms() {
    let spec = parse(qwen3(), |_| ()).unwrap();
    assert!(!spec.attention.qkv_bias && spec.attention.qk_norm.is_some() && spec.attention.head_dim == 16);
    let spec = parse(of("Qwen2ForCausalLM"), |json| {
        json.as_object_mut().unwrap().remove("head_dim");
    });
    let attention = spec.unwrap().attention;
    assert!(attention.qkv_bias && !attention.output_bias && attention.qk_norm.is_none() && attention.head_dim == 8);
}

#[test]
fn the_output_matrix_is_tied_its_own_or_absent() {
    let output = |architecture: &str, tied: bool| {
        parse(of(architecture), |json| json["tie_word_embeddings"] = tied.into()).unwrap().output
    };
    assert_eq!(output("Qwen3ForCausalLM", true), OutputMatrix::Tied);
    assert_eq!(output("Qwen3ForCausalLM", false), OutputMatrix::Own);
    assert_eq!(output("Qwen3Model", false), OutputMatrix::None);
    assert_eq!(output("Qwen3ForSequenceClassification", true), OutputMatrix::None);
}

#[test]
fn a_classifier_has_as_many_labels_as_the_configuration_names() {
    let labels = |change: fn(&mut Value)| {
        parse(of("Qwen3ForSequenceClassification"), change).unwrap().classifier.unwrap().labels
    };
    assert_eq!(labels(|json| json["id2label"] = json!({"0": "LABEL_0"})), 1);
    assert_eq!(labels(|json| json["num_labels"] = 3.into()), 3);
    assert_eq!(labels(|_| ()), 2);
}

#[test]
fn windows_come_from_layer_types_or_from_the_switch() {
    const ALL: usize = usize::MAX;
    let windows = |change: &dyn Fn(&mut Value)| {
        let spec = parse(qwen3(), |json| {
            json["sliding_window"] = 16.into();
            change(json);
        });
        spec.map(|spec| spec.layers.iter().map(|layer| layer.window.before).collect::<Vec<_>>())
    };
    assert_eq!(windows(&|_| ()).unwrap(), [ALL; 4], "a window that no layer uses means nothing");
    let types = json!(["sliding_attention", "full_attention", "sliding_attention", "full_attention"]);
    assert_eq!(windows(&|json| json["layer_types"] = types.clone()).unwrap(), [15, ALL, 15, ALL]);
    let from_layer_2 = |json: &mut Value| {
        json["use_sliding_window"] = true.into();
        json["max_window_layers"] = 2.into();
    };
    assert_eq!(windows(&from_layer_2).unwrap(), [ALL, ALL, 15, 15]);
    let off = |json: &mut Value| {
        json["layer_types"] = types.clone();
        json["use_sliding_window"] = false.into();
    };
    assert!(windows(&off).unwrap_err().contains("use_sliding_window is false"));
    let mistral = parse(of("MistralForCausalLM"), |json| json["sliding_window"] = 64.into()).unwrap();
    assert!(mistral.layers.iter().all(|layer| layer.window.before == 63));
}

#[test]
fn bert_counts_positions_from_0_and_roberta_from_behind_the_padding() {
    let spec = parse(bert("BertForSequenceClassification"), |_| ()).unwrap();
    assert_eq!((spec.max_positions, spec.embedding.positions.unwrap().offset), (130, 0));
    assert!(!spec.causal && spec.placement == NormPlacement::Post && spec.final_norm.is_none());
    let spec = parse(bert("XLMRobertaForSequenceClassification"), |_| ()).unwrap();
    assert_eq!((spec.max_positions, spec.embedding.positions.unwrap().offset), (128, 2));
    assert_eq!(spec.classifier.unwrap().labels, 1);
    assert!(parse(bert("BertModel"), |_| ()).unwrap().classifier.is_none());
}

#[test]
fn modern_bert_is_read_in_both_forms() {
    let old = parse(modern_bert(), |_| ()).unwrap();
    let windows: Vec<_> = old.layers.iter().map(|layer| (layer.window.before, layer.rotary)).collect();
    assert_eq!(windows, [(usize::MAX, Some(0)), (64, Some(1)), (64, Some(1)), (usize::MAX, Some(0))]);
    assert_eq!(old.layers.iter().map(|layer| layer.attention_norm).collect::<Vec<_>>(), [false, true, true, true]);
    assert_eq!(old.classifier.as_ref().unwrap().pooling, Pooling::Mean);
    let new = parse(modern_bert(), |json| {
        for key in ["global_attn_every_n_layers", "global_rope_theta", "local_rope_theta"] {
            json.as_object_mut().unwrap().remove(key);
        }
        let local = "sliding_attention";
        json["layer_types"] = json!(["full_attention", local, local, "full_attention"]);
        json["rope_parameters"] = json!({
            "full_attention": {"rope_type": "default", "rope_theta": 160_000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0}
        });
    });
    assert_eq!(new.unwrap(), old);
    let same_theta = parse(modern_bert(), |json| json["local_rope_theta"] = Value::Null).unwrap();
    assert!((same_theta.rotary[1].theta - 160_000.).abs() < 1e-9, "null is the global base");
    assert_eq!(
        parse(modern_bert(), |json| {
            json.as_object_mut().unwrap().remove("classifier_pooling");
        })
        .unwrap()
        .classifier
        .unwrap()
        .pooling,
        Pooling::First
    );
}

fn gte(architecture: &str) -> Value {
    let mut json = bert(architecture);
    for (key, value) in [("position_embedding_type", json!("rope")), ("pack_qkv", true.into())] {
        json[key] = value;
    }
    json
}

#[test]
fn gte_has_rotary_positions_and_a_gated_mlp() {
    let ntk = json!({"type": "ntk", "factor": 8.0});
    let mut json = gte("NewForSequenceClassification");
    (json["rope_theta"], json["rope_scaling"]) = (20_000.into(), ntk);
    let spec = parse(json.clone(), |_| ()).unwrap();
    assert_eq!(spec.rotary, [RotarySpec { theta: 20_000., scaling: RotaryScaling::Ntk { factor: 8. } }]);
    assert!(spec.mlp.gated && spec.embedding.positions.is_none() && spec.placement == NormPlacement::Post);
    for (change, problem) in [
        ((|json| json["rope_scaling"]["mixed_b"] = 2.into()) as fn(&mut Value), "without mixed_b"),
        (|json| json["rope_scaling"] = json!({"type": "ntk"}), "rope_scaling.factor is not a positive number"),
        (|json| json["pack_qkv"] = false.into(), "pack_qkv is false"),
        (|json| json["logn_attention_scale"] = true.into(), "logn_attention_scale is true"),
        (|json| json["position_embedding_type"] = "absolute".into(), "position_embedding_type is \"absolute\""),
    ] {
        let error = parse(json.clone(), change).unwrap_err();
        assert!(error.contains(problem), "{error}");
    }
}

#[test]
fn a_bidirectional_llama_averages_and_divides() {
    let llama = |change: fn(&mut Value)| parse(of("LlamaBidirectionalForSequenceClassification"), change);
    let spec = llama(|json| json["temperature"] = 2.0.into()).unwrap();
    let classifier = spec.classifier.unwrap();
    assert!(!spec.causal && classifier.pooling == Pooling::Mean && (classifier.temperature - 2.).abs() < 1e-6);
    assert!(llama(|json| json["is_causal"] = true.into()).unwrap_err().contains("is_causal is true"));
}

fn layer_wise_minicpm() -> Value {
    let mut json = of("LayerWiseMiniCPMForCausalLM");
    for (key, value) in [("scale_emb", json!(12)), ("scale_depth", json!(1.4)), ("start_layer", json!(2))] {
        json[key] = value;
    }
    (json["head_type"], json["head_multi"], json["dim_model_base"]) = ("simple".into(), true.into(), 256.into());
    json
}

#[test]
fn the_scale_of_residuals_is_in_the_embeddings_and_in_eps() {
    let spec = parse(layer_wise_minicpm(), |_| ()).unwrap();
    let added = 1.4 / f64::from(4_u8).sqrt();
    assert!((f64::from(spec.embedding.scale) - 12. / added).abs() < 1e-5);
    assert!((spec.norm.eps - 1e-6 / (added * added)).abs() < 1e-12 && spec.final_norm == Some(spec.norm));
    let classifier = spec.classifier.unwrap();
    assert_eq!((classifier.start_layer, classifier.labels, spec.output), (Some(2), 1, OutputMatrix::None));
    for (change, problem) in [
        ((|json| json["head_type"] = "raw".into()) as fn(&mut Value), "head_type is \"raw\""),
        (|json| json["head_multi"] = false.into(), "head_multi is false"),
        (|json| json["start_layer"] = 5.into(), "start_layer is 5, over num_hidden_layers 4"),
        (|json| json["scale_depth"] = 0.into(), "scale_depth is 0, not a positive number"),
    ] {
        let error = parse(layer_wise_minicpm(), change).unwrap_err();
        assert!(error.contains(problem), "{error}");
    }
}

#[test]
fn gemma_scales_embeddings_and_offsets_norms() {
    let gemma = |change: fn(&mut Value)| parse(of("GemmaForCausalLM"), change).unwrap();
    let spec = gemma(|json| {
        json["hidden_act"] = "gelu".into();
        json.as_object_mut().unwrap().remove("tie_word_embeddings");
    });
    assert!((spec.embedding.scale - 32_f32.sqrt()).abs() < 1e-6 && (spec.norm.weight_offset - 1.).abs() < 1e-6);
    assert_eq!((spec.mlp.activation, spec.output), (Activation::GeluTanh, OutputMatrix::Tied));
    assert_eq!(gemma(|json| json["hidden_activation"] = "gelu".into()).mlp.activation, Activation::GeluErf);
}

#[test]
fn every_supported_class_is_read() {
    for architecture in SUPPORTED {
        let json = match architecture {
            name if name.starts_with("ModernBert") => modern_bert(),
            name if name.starts_with("Bert") || name.contains("oberta") || name.contains("XLM") => bert(name),
            name if name.starts_with("New") => gte(name),
            name if name.starts_with("LayerWise") => layer_wise_minicpm(),
            name => of(name),
        };
        let spec = parse(json, |json| json["architectures"] = json!([architecture])).unwrap();
        assert_eq!(spec.architecture, *architecture);
        let has_classifier =
            architecture.ends_with("ForSequenceClassification") || architecture.starts_with("LayerWise");
        assert_eq!(spec.classifier.is_some(), has_classifier);
    }
}

#[test]
fn what_would_be_computed_wrongly_is_rejected_by_name() {
    let rejected = |change: fn(&mut Value)| parse(qwen3(), change).unwrap_err();
    assert!(rejected(|json| json["architectures"] = json!(["MambaForCausalLM"])).contains("supported: Bert"));
    let no_window = |json: &mut Value| {
        json["use_sliding_window"] = true.into();
        json["max_window_layers"] = 0.into();
    };
    assert!(rejected(no_window).contains("sliding_window is not a positive number"));
    assert!(rejected(|json| json["rope_scaling"] = json!({"type": "dynamic", "factor": 2.0})).contains("`dynamic`"));
    assert!(rejected(|json| json["rope_scaling"] = json!({"type": "linear"})).contains("rope_scaling has no factor"));
    let layers = |json: &mut Value| json["max_window_layers"] = "all".into();
    assert!(rejected(layers).contains("max_window_layers is \"all\", not a whole number"));
    assert!(rejected(|json| json["num_key_value_heads"] = 3.into()).contains("multiple"));
    assert!(
        rejected(|json| json["hidden_size"] = "wide".into()).contains("hidden_size is \"wide\", not a whole number")
    );
    assert!(rejected(|json| json["scale_emb"] = 12.into()).contains("scale_emb is 12: this key is not supported"));
    assert!(rejected(|json| json["quantization_config"] = json!({"quant_method": "gptq"})).contains("`gptq`"));
    assert!(parse(bert("BertModel"), |json| json["position_embedding_type"] = "relative_key".into()).is_err());
    assert!(
        parse(bert("BertModel"), |json| json["hidden_act"] = "quick_gelu".into()).unwrap_err().contains("quick_gelu")
    );
}

#[test]
fn moot_keys_are_accepted() {
    let moot = |change: fn(&mut Value)| parse(qwen3(), change).unwrap();
    moot(|json| json["rope_scaling"] = json!({"type": "default", "rope_type": "default"}));
    moot(|json| json["some_switch"] = false.into());
    moot(|json| json["sliding_window"] = 4096.into());
    moot(|json| json["transformers_version"] = "4.55.0".into());
}
