//! The tensors of a GGUF file, under the names that a Hugging Face folder gives them.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;

use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::{Content, TensorInfo};
use candle_core::{CpuStorage, Result as CandleResult};
use rayon::prelude::*;

use super::metadata::Metadata;

/// Blocks hold numbers of 4 bytes, and candle reads them where they lie.
const ALIGNMENT: u64 = 4;

/// A tensor of a GGUF file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::runtime) struct GgufTensor {
    /// Rows first.
    pub shape: Vec<usize>,
    pub dtype: GgmlDType,
    /// The bytes of the file that hold it.
    bytes: Range<usize>,
    /// llama.cpp stores a head's rows `0, n/2, 1, n/2 + 1, ...` for its form of RoPE: the height of
    /// a head.
    interleaved: Option<usize>,
}

/// All tensors that are read. `length` is the length of the file.
pub(super) fn table(
    content: &Content,
    metadata: &Metadata<'_>,
    length: u64,
) -> Result<HashMap<String, GgufTensor>, String> {
    let mut table = HashMap::new();
    for (name, info) in &content.tensor_infos {
        if is_derived(metadata.architecture, name) {
            continue;
        }
        let mut tensor = locate(name, info, content.tensor_data_offset, length)?;
        let is_query = name.ends_with("attn_q.weight") || name.ends_with("attn_q.bias");
        let is_key = name.ends_with("attn_k.weight") || name.ends_with("attn_k.bias");
        if metadata.architecture == "llama" && (is_query || is_key) {
            let heads = metadata.whole(&metadata.own("attention.head_count"))?;
            let own = if is_key { metadata.whole(&metadata.own("attention.head_count_kv"))? } else { None };
            let heads = own.or(heads).filter(|heads| *heads > 0).ok_or("has no llama.attention.head_count")? as usize;
            tensor.interleaved = Some(tensor.shape[0] / heads).filter(|height| height * heads == tensor.shape[0]);
            if tensor.interleaved.is_none_or(|height| !height.is_multiple_of(2)) {
                return Err(format!("tensor `{name}` has {} rows for {heads} heads", tensor.shape[0]));
            }
        }
        table.insert(folder_name(metadata.architecture, name).unwrap_or_else(|| name.clone()), tensor);
    }
    Ok(table)
}

/// Whether a tensor holds what the metadata or another tensor says already: the rows of the output
/// matrix for `yes` and `no`.
fn is_derived(architecture: &str, name: &str) -> bool {
    architecture == "qwen3" && name == "cls.output.weight"
}

fn locate(name: &str, info: &TensorInfo, data: u64, length: u64) -> Result<GgufTensor, String> {
    let shape = info.shape.dims().to_vec();
    let (block, bytes) = (info.ggml_dtype.block_size(), info.ggml_dtype.type_size());
    let columns = shape.last().copied().unwrap_or_default();
    if shape.is_empty() || shape.len() > 2 || columns == 0 || !columns.is_multiple_of(block) {
        return Err(format!("tensor `{name}` of shape {shape:?} cannot hold whole blocks of {:?}", info.ggml_dtype));
    }
    let elements = shape.iter().try_fold(1_usize, |product, size| product.checked_mul(*size));
    let size = elements.and_then(|elements| (elements / block).checked_mul(bytes));
    let start = data.checked_add(info.offset).filter(|start| start.is_multiple_of(ALIGNMENT));
    let end = start.zip(size).and_then(|(start, size)| start.checked_add(size as u64));
    match (start, end) {
        (Some(start), Some(end)) if end <= length => {
            Ok(GgufTensor { shape, dtype: info.ggml_dtype, bytes: start as usize..end as usize, interleaved: None })
        }
        (Some(_), Some(end)) => {
            Err(format!("is not complete: tensor `{name}` ends at byte {end}, and the file has {length} bytes"))
        }
        _ => Err(format!("tensor `{name}` is at an impossible place")),
    }
}

/// The name of the same tensor in a Hugging Face folder.
fn folder_name(architecture: &str, name: &str) -> Option<String> {
    let bert = architecture == "bert";
    let fixed = match name {
        "token_embd.weight" if bert => "embeddings.word_embeddings.weight",
        "position_embd.weight" => "embeddings.position_embeddings.weight",
        "token_types.weight" => "embeddings.token_type_embeddings.weight",
        "token_embd_norm.weight" => "embeddings.LayerNorm.weight",
        "token_embd_norm.bias" => "embeddings.LayerNorm.bias",
        "token_embd.weight" => "model.embed_tokens.weight",
        "output_norm.weight" => "model.norm.weight",
        "output.weight" => "lm_head.weight",
        // RoBERTa's classifier computes what BERT's pooler and classifier compute.
        "cls.weight" if bert => "pooler.dense.weight",
        "cls.bias" if bert => "pooler.dense.bias",
        "cls.output.weight" if bert => "classifier.weight",
        "cls.output.bias" if bert => "classifier.bias",
        _ => "",
    };
    if !fixed.is_empty() {
        return Some(fixed.to_owned());
    }
    let (layer, rest) = name.strip_prefix("blk.")?.split_once('.')?;
    let (part, kind) = rest.rsplit_once('.')?;
    let path = match (part, bert) {
        ("attn_q", true) => "attention.self.query",
        ("attn_k", true) => "attention.self.key",
        ("attn_v", true) => "attention.self.value",
        ("attn_output", true) => "attention.output.dense",
        ("attn_output_norm", true) => "attention.output.LayerNorm",
        ("ffn_up", true) => "intermediate.dense",
        ("ffn_down", true) => "output.dense",
        ("layer_output_norm", true) => "output.LayerNorm",
        ("attn_norm", false) => "input_layernorm",
        ("attn_q", false) => "self_attn.q_proj",
        ("attn_k", false) => "self_attn.k_proj",
        ("attn_v", false) => "self_attn.v_proj",
        ("attn_output", false) => "self_attn.o_proj",
        ("attn_q_norm", false) => "self_attn.q_norm",
        ("attn_k_norm", false) => "self_attn.k_norm",
        ("ffn_norm", false) => "post_attention_layernorm",
        ("ffn_gate", false) => "mlp.gate_proj",
        ("ffn_up", false) => "mlp.up_proj",
        ("ffn_down", false) => "mlp.down_proj",
        _ => return None,
    };
    let prefix = if bert { "encoder.layer" } else { "model.layers" };
    Some(format!("{prefix}.{layer}.{path}.{kind}"))
}

impl GgufTensor {
    /// Elements of a row; all elements of a tensor of one dimension.
    fn columns(&self) -> usize {
        self.shape.last().copied().unwrap_or_default()
    }

    /// Decodes rows of a matrix, `[rows, columns]`, or elements of a tensor of one dimension.
    /// `file` holds the whole file.
    pub fn read(&self, file: &[u8], rows: &[usize]) -> CandleResult<Vec<f32>> {
        if self.shape.len() == 1 {
            let mut whole = vec![0.; self.shape[0]];
            self.read_row(file, 0, &mut whole)?;
            return Ok(rows.iter().map(|&row| whole[self.stored_row(row)]).collect());
        }
        let mut values = vec![0.; rows.len() * self.columns()];
        let targets = values.par_chunks_exact_mut(self.columns()).zip(rows);
        targets.try_for_each(|(target, &row)| self.read_row(file, self.stored_row(row), target))?;
        Ok(values)
    }

    /// Decodes a row of the file.
    fn read_row(&self, file: &[u8], row: usize, target: &mut [f32]) -> CandleResult<()> {
        let bytes = target.len() / self.dtype.block_size() * self.dtype.type_size();
        let start = self.bytes.start + row * bytes;
        let blocks = self.dtype.from_data(Cow::Borrowed(&file[start..start + bytes]));
        let CpuStorage::F32(values) = blocks.dequantize(target.len())? else {
            candle_core::bail!("blocks of {:?} do not decode to f32", self.dtype)
        };
        target.copy_from_slice(&values);
        Ok(())
    }

    /// Where the file has a row of the folder's tensor.
    fn stored_row(&self, row: usize) -> usize {
        let Some(height) = self.interleaved else { return row };
        let (head, place) = (row / height, row % height);
        head * height + place % (height / 2) * 2 + place / (height / 2)
    }
}
