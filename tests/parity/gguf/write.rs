//! Writes GGUF files as llama.cpp's converter does.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::BufWriter;
use std::path::Path;

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor, safetensors};
use serde_json::Value as Json;
use tempfile::TempDir;

/// The contents of a GGUF file.
pub struct GgufWriter {
    pub metadata: Vec<(String, Value)>,
    tensors: HashMap<String, Tensor>,
}

impl GgufWriter {
    /// A model of the architectures that are read, from its folder.
    pub fn of_folder(folder: &Path) -> Self {
        let config: Json = json(&folder.join("config.json"));
        let tokenizer: Json = json(&folder.join("tokenizer.json"));
        let kind = config["model_type"].as_str().expect("a model type").replace("xlm-roberta", "bert");
        let mut metadata = vec![("general.architecture".to_owned(), Value::String(kind.clone()))];
        let mut own = |key: &str, value: Value| metadata.push((format!("{kind}.{key}"), value));
        for (key, name) in [
            ("embedding_length", "hidden_size"),
            ("block_count", "num_hidden_layers"),
            ("feed_forward_length", "intermediate_size"),
            ("attention.head_count", "num_attention_heads"),
            ("attention.head_count_kv", "num_key_value_heads"),
            ("attention.key_length", "head_dim"),
            ("context_length", "max_position_embeddings"),
        ] {
            if let Some(number) = config[name].as_u64() {
                own(key, Value::U32(number as u32));
            }
        }
        if let Some(epsilon) = config["layer_norm_eps"].as_f64() {
            own("attention.layer_norm_epsilon", Value::F32(epsilon as f32));
        }
        own("attention.layer_norm_rms_epsilon", Value::F32(config["rms_norm_eps"].as_f64().unwrap_or(1e-6) as f32));
        let theta = config["rope_theta"].as_f64().or(config["rope_parameters"]["rope_theta"].as_f64());
        own("rope.freq_base", Value::F32(theta.unwrap_or(1e4) as f32));
        if let Some(factor) = config["rope_scaling"]["factor"].as_f64() {
            own("rope.scaling.type", Value::String("linear".to_owned()));
            own("rope.scaling.factor", Value::F32(factor as f32));
        }
        metadata.extend(super::tokenizers::metadata_of(&tokenizer));
        let heads = ["num_attention_heads", "num_key_value_heads"].map(|name| config[name].as_u64().unwrap_or(1));
        let stored = safetensors::load(folder.join("model.safetensors"), &Device::Cpu).expect("the weights");
        let tensors = stored.into_iter().filter_map(|(name, tensor)| {
            let tensor = tensor.to_dtype(DType::F32).expect("f32");
            let name = file_name(&name)?;
            let heads = if name.contains("attn_q.") { heads[0] } else { heads[1] } as usize;
            // RoBERTa's positions begin behind that of the padding token.
            let skipped = config["pad_token_id"].as_u64().map_or(0, |id| id as usize + 1);
            if name == "position_embd.weight" && config["model_type"] == "xlm-roberta" {
                let used = tensor.dim(0).expect("rows") - skipped;
                return Some((
                    name,
                    tensor.narrow(0, skipped, used).and_then(|rows| rows.force_contiguous()).expect("the other rows"),
                ));
            }
            let is_turned = kind == "llama" && (name.contains("attn_q.") || name.contains("attn_k."));
            Some((name, if is_turned { interleave(&tensor, heads) } else { tensor }))
        });
        Self { metadata, tensors: tensors.collect() }
    }

    /// Sets a key of the metadata.
    pub fn set(&mut self, key: &str, value: Value) {
        self.metadata.retain(|(known, _)| known != key);
        self.metadata.push((key.to_owned(), value));
    }

    /// Adds a tensor.
    pub fn add(&mut self, name: &str, values: &[f32]) {
        self.tensors.insert(name.to_owned(), Tensor::new(values, &Device::Cpu).expect("a tensor"));
    }

    /// Writes the file with its matrices in blocks of this type, where they fill whole blocks.
    pub fn write(&self, path: &Path, dtype: GgmlDType) {
        let tensors: Vec<(&String, QTensor)> =
            self.tensors.iter().map(|(name, tensor)| (name, quantised(tensor, dtype))).collect();
        let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
        let metadata: Vec<(&str, &Value)> = self.metadata.iter().map(|(key, value)| (key.as_str(), value)).collect();
        let mut file = BufWriter::new(File::create(path).expect("a file"));
        gguf_file::write(&mut file, &metadata, &tensors).expect("a GGUF file");
    }
}

/// A copy of a folder with a changed configuration.
pub fn edited(folder: &Path, edit: impl Fn(&mut Json)) -> TempDir {
    let copy = tempfile::tempdir().expect("a folder");
    for name in ["tokenizer.json", "model.safetensors"] {
        fs::copy(folder.join(name), copy.path().join(name)).expect("a copy");
    }
    let mut config = json(&folder.join("config.json"));
    edit(&mut config);
    fs::write(copy.path().join("config.json"), config.to_string()).expect("the new config.json");
    copy
}

/// Writes the folder of a model whose matrices went through blocks of this type.
pub fn dequantised_folder(source: &Path, target: &Path, dtype: GgmlDType) {
    for name in ["config.json", "tokenizer.json"] {
        fs::copy(source.join(name), target.join(name)).expect("a copy");
    }
    let stored = safetensors::load(source.join("model.safetensors"), &Device::Cpu).expect("the weights");
    let rounded: HashMap<String, Tensor> = stored
        .into_iter()
        .map(|(name, tensor)| (name, quantised(&tensor, dtype).dequantize(&Device::Cpu).expect("its numbers")))
        .collect();
    safetensors::save(&rounded, target.join("model.safetensors")).expect("the folder's weights");
}

fn quantised(tensor: &Tensor, dtype: GgmlDType) -> QTensor {
    let fits = tensor.rank() == 2 && tensor.dim(1).is_ok_and(|columns| columns.is_multiple_of(dtype.block_size()));
    QTensor::quantize(tensor, if fits { dtype } else { GgmlDType::F32 }).expect("blocks")
}

/// Rows `0, n/2, 1, n/2 + 1, ...` of each head, as llama.cpp stores queries and keys of Llama.
fn interleave(tensor: &Tensor, heads: usize) -> Tensor {
    let shape = tensor.dims().to_vec();
    let half = shape[0] / heads / 2;
    let rest: usize = shape[1..].iter().product();
    let turned = tensor.reshape((heads, 2, half, rest)).and_then(|tensor| tensor.transpose(1, 2)?.contiguous());
    turned.and_then(|tensor| tensor.reshape(shape)).expect("the same elements")
}

/// llama.cpp's name of a tensor; none for one that its converter leaves out.
fn file_name(name: &str) -> Option<String> {
    let name = ["model.", "bert.", "roberta."].iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name);
    if name.contains("pooler") || name.contains("position_ids") {
        return None;
    }
    let mut name = name.replace("encoder.layer.", "blk.").replace("layers.", "blk.");
    for (from, to) in [
        ("classifier.dense", "cls"),
        ("classifier.out_proj", "cls.output"),
        ("embeddings.word_embeddings", "token_embd"),
        ("embeddings.position_embeddings", "position_embd"),
        ("embeddings.token_type_embeddings", "token_types"),
        ("embeddings.LayerNorm", "token_embd_norm"),
        ("attention.self.query", "attn_q"),
        ("attention.self.key", "attn_k"),
        ("attention.self.value", "attn_v"),
        ("attention.output.dense", "attn_output"),
        ("attention.output.LayerNorm", "attn_output_norm"),
        ("intermediate.dense", "ffn_up"),
        ("output.dense", "ffn_down"),
        ("output.LayerNorm", "layer_output_norm"),
        ("embed_tokens", "token_embd"),
        ("lm_head", "output"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_norm", "attn_k_norm"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
    ] {
        name = name.replace(from, to);
    }
    Some(if name == "norm.weight" { "output_norm.weight".to_owned() } else { name })
}

fn json(path: &Path) -> Json {
    serde_json::from_slice(&fs::read(path).expect("a file")).expect("JSON")
}
