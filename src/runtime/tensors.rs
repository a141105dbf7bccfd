//! The table of tensor names and shapes. It decides what a checkpoint must hold, what both loaders
//! read, and what a random checkpoint consists of.

use std::collections::BTreeSet;
use std::ops::Range;

use super::spec::{ClassifierSpec, ModelSpec, NormKind, NormSpec, OutputMatrix, TensorNaming};

/// A tensor of a file, or some of its rows where several matrices are stored as one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TensorSlice {
    pub name: String,
    /// Shape of the whole tensor.
    pub shape: Vec<usize>,
    /// The rows of it that this slice covers.
    pub rows: Range<usize>,
}

/// A matrix, `[outputs, inputs]`, and its bias.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LinearTensors {
    pub weight: TensorSlice,
    pub bias: Option<TensorSlice>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NormTensors {
    pub weight: TensorSlice,
    pub bias: Option<TensorSlice>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LayerTensors {
    pub attention_norm: Option<NormTensors>,
    pub query: LinearTensors,
    pub key: LinearTensors,
    pub value: LinearTensors,
    pub output: LinearTensors,
    pub query_norm: Option<NormTensors>,
    pub key_norm: Option<NormTensors>,
    pub mlp_norm: NormTensors,
    pub gate: Option<LinearTensors>,
    pub up: LinearTensors,
    pub down: LinearTensors,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ClassifierTensors {
    pub dense: Option<LinearTensors>,
    pub norm: Option<NormTensors>,
    /// The last matrix: one, or one for each layer from [`ClassifierSpec::start_layer`] on.
    pub outs: Vec<LinearTensors>,
}

/// The tensors of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TensorTable {
    /// `[vocabulary, hidden]`.
    pub words: TensorSlice,
    pub positions: Option<TensorSlice>,
    pub token_types: Option<TensorSlice>,
    pub embedding_norm: Option<NormTensors>,
    pub layers: Vec<LayerTensors>,
    pub final_norm: Option<NormTensors>,
    /// `lm_head.weight`, where the model has an output matrix of its own.
    pub output: Option<TensorSlice>,
    /// Two matrices with a `ReLU` between them (late interaction).
    pub projector: Option<[TensorSlice; 2]>,
    /// `ColBERT`'s projection of token states, `[width, hidden]`.
    pub token_projection: Option<TensorSlice>,
    pub classifier: Option<ClassifierTensors>,
}

/// Looks up the shape of a checkpoint's tensor by name; `None` if there is no such tensor.
pub(super) type ShapeOf<'a> = &'a dyn Fn(&str) -> Option<Vec<usize>>;

impl TensorTable {
    /// The tensors of a model. What the configuration leaves open (a prefix of all names, fused
    /// projections, a projector) is decided by what the file has.
    pub fn new(spec: &ModelSpec, shape_of: ShapeOf<'_>) -> Self {
        let mut table = match spec.naming {
            TensorNaming::Llama => llama(spec, shape_of),
            TensorNaming::Bert => bert(spec, shape_of, "bert."),
            TensorNaming::Roberta if shape_of("roberta.emb_ln.weight").is_some() => jina_roberta(spec),
            TensorNaming::Roberta => bert(spec, shape_of, "roberta."),
            TensorNaming::Gte => gte(spec, shape_of),
            TensorNaming::ModernBert => modern_bert(spec, shape_of),
        };
        if let Some((of, names)) = spec.classifier.as_ref().and_then(|of| Some((of, of.module_tensors.as_ref()?))) {
            table.classifier = Some(classifier(of, spec.hidden_size, names.each_ref().map(String::as_str)));
        }
        if spec.classifier.is_none() {
            table.token_projection = token_projection(spec.hidden_size, shape_of);
        }
        table
    }

    /// Every tensor once, with its shape.
    pub fn all(&self) -> Vec<(&str, &[usize])> {
        let mut slices = vec![&self.words];
        slices.extend([&self.positions, &self.token_types, &self.output, &self.token_projection].into_iter().flatten());
        slices.extend(self.projector.iter().flatten());
        let mut norms: Vec<&NormTensors> = self.embedding_norm.iter().chain(&self.final_norm).collect();
        let mut linears: Vec<&LinearTensors> = Vec::new();
        for layer in &self.layers {
            norms.extend(layer.attention_norm.iter().chain(&layer.query_norm).chain(&layer.key_norm));
            norms.push(&layer.mlp_norm);
            linears.extend([&layer.query, &layer.key, &layer.value, &layer.output]);
            linears.extend(layer.gate.iter().chain([&layer.up, &layer.down]));
        }
        if let Some(classifier) = &self.classifier {
            norms.extend(&classifier.norm);
            linears.extend(classifier.dense.iter().chain(&classifier.outs));
        }
        slices.extend(norms.into_iter().flat_map(|norm| std::iter::once(&norm.weight).chain(&norm.bias)));
        slices.extend(linears.into_iter().flat_map(|linear| std::iter::once(&linear.weight).chain(&linear.bias)));
        let mut seen = BTreeSet::new();
        slices.retain(|slice| seen.insert(&slice.name));
        slices.into_iter().map(|slice| (slice.name.as_str(), slice.shape.as_slice())).collect()
    }
}

/// Whether a tensor that nothing reads may be in the checkpoint: buffers, a copy of tied
/// embeddings, heads of masked language models. Any other tensor outside the table means that the
/// checkpoint is of another architecture.
pub(super) fn is_ignored(name: &str, spec: &ModelSpec) -> bool {
    let buffer = ["position_ids", "rotary_emb.inv_freq", ".masked_bias", "attention.bias"];
    let masked_lm = ["cls.", "lm_head.", "decoder.", "head."];
    let is_own = |classifier: &ClassifierSpec| classifier.module_tensors.is_none();
    let is_bare_encoder = !spec.causal && !spec.classifier.as_ref().is_some_and(is_own);
    buffer.iter().any(|end| name.ends_with(end))
        || (spec.output == OutputMatrix::Tied && name == "lm_head.weight")
        || (is_bare_encoder
            && (name.contains("pooler.dense.") || masked_lm.iter().any(|start| name.starts_with(start))))
}

fn slice(name: String, shape: &[usize]) -> TensorSlice {
    TensorSlice { name, rows: 0..shape[0], shape: shape.to_vec() }
}

fn linear(path: &str, outputs: usize, inputs: usize, bias: bool) -> LinearTensors {
    LinearTensors {
        weight: slice(format!("{path}.weight"), &[outputs, inputs]),
        bias: bias.then(|| slice(format!("{path}.bias"), &[outputs])),
    }
}

/// Matrices that are stored as one, `parts` outputs each.
fn fused<const N: usize>(path: &str, parts: [usize; N], inputs: usize, bias: bool) -> [LinearTensors; N] {
    let whole = linear(path, parts.iter().sum(), inputs, bias);
    let mut start = 0;
    parts.map(|outputs| {
        let rows = start..start + outputs;
        start = rows.end;
        let part = |slice: &TensorSlice| TensorSlice { rows: rows.clone(), ..slice.clone() };
        LinearTensors { weight: part(&whole.weight), bias: whole.bias.as_ref().map(part) }
    })
}

fn norm(path: &str, width: usize, spec: NormSpec) -> NormTensors {
    NormTensors {
        weight: slice(format!("{path}.weight"), &[width]),
        bias: (spec.kind == NormKind::Layer { bias: true }).then(|| slice(format!("{path}.bias"), &[width])),
    }
}

fn classifier(spec: &ClassifierSpec, hidden: usize, [dense, norm_path, out]: [&str; 3]) -> ClassifierTensors {
    ClassifierTensors {
        dense: spec.dense.as_ref().map(|of| linear(dense, hidden, hidden, of.bias)),
        norm: spec.norm.map(|of| norm(norm_path, hidden, of)),
        outs: vec![linear(out, spec.labels, hidden, spec.bias)],
    }
}

/// `lm_head.N.linear_head`: a matrix for each of the layers from `start_layer` on.
fn layer_wise_classifier(spec: &ClassifierSpec, hidden: usize, start_layer: usize, layers: usize) -> ClassifierTensors {
    let out = |head: usize| linear(&format!("lm_head.{head}.linear_head"), spec.labels, hidden, spec.bias);
    ClassifierTensors { dense: None, norm: None, outs: (0..=layers - start_layer).map(out).collect() }
}

/// `model.layers.N.self_attn.q_proj`, `model.layers.N.mlp.gate_proj`, ...; a bare decoder's names
/// have no `model.`.
fn llama(spec: &ModelSpec, shape_of: ShapeOf<'_>) -> TensorTable {
    let prefix = if shape_of("embed_tokens.weight").is_some() { "" } else { "model." };
    let (hidden, query, key) = (spec.hidden_size, spec.query_width(), spec.key_width());
    let (attention, mlp) = (&spec.attention, &spec.mlp);
    let layer = |number: usize| {
        let path = |name: &str| format!("{prefix}layers.{number}.{name}");
        let head_norm = |name: &str| attention.qk_norm.map(|of| norm(&path(name), attention.head_dim, of));
        LayerTensors {
            attention_norm: Some(norm(&path("input_layernorm"), hidden, spec.norm)),
            query: linear(&path("self_attn.q_proj"), query, hidden, attention.qkv_bias),
            key: linear(&path("self_attn.k_proj"), key, hidden, attention.qkv_bias),
            value: linear(&path("self_attn.v_proj"), key, hidden, attention.qkv_bias),
            output: linear(&path("self_attn.o_proj"), hidden, query, attention.output_bias),
            query_norm: head_norm("self_attn.q_norm"),
            key_norm: head_norm("self_attn.k_norm"),
            mlp_norm: norm(&path("post_attention_layernorm"), hidden, spec.norm),
            gate: Some(linear(&path("mlp.gate_proj"), mlp.intermediate, hidden, mlp.bias)),
            up: linear(&path("mlp.up_proj"), mlp.intermediate, hidden, mlp.bias),
            down: linear(&path("mlp.down_proj"), hidden, mlp.intermediate, mlp.bias),
        }
    };
    TensorTable {
        words: slice(format!("{prefix}embed_tokens.weight"), &[spec.vocabulary, hidden]),
        positions: None,
        token_types: None,
        embedding_norm: None,
        layers: (0..spec.layers.len()).map(layer).collect(),
        final_norm: spec.final_norm.map(|of| norm(&format!("{prefix}norm"), hidden, of)),
        output: (spec.output == OutputMatrix::Own)
            .then(|| slice("lm_head.weight".to_owned(), &[spec.vocabulary, hidden])),
        projector: projector(hidden, shape_of),
        token_projection: None,
        classifier: spec.classifier.as_ref().map(|of| match of.start_layer {
            Some(start) => layer_wise_classifier(of, hidden, start, spec.layers.len()),
            None => classifier(of, hidden, ["", "", "score"]),
        }),
    }
}

/// The projector, if the file has one. Its widths are those of the file; they must fit the hidden
/// state and each other.
fn projector(hidden: usize, shape_of: ShapeOf<'_>) -> Option<[TensorSlice; 2]> {
    let width = |name: &str| shape_of(name).and_then(|shape| shape.first().copied());
    let middle = width("projector.0.weight")?;
    let outer = width("projector.2.weight").unwrap_or_default();
    Some([
        slice("projector.0.weight".to_owned(), &[middle, hidden]),
        slice("projector.2.weight".to_owned(), &[outer, middle]),
    ])
}

/// `ColBERT`'s projection, if the files have one: beside the model (Stanford's format) or in the
/// folder of its module (`PyLate`'s). Its width is that of the file.
fn token_projection(hidden: usize, shape_of: ShapeOf<'_>) -> Option<TensorSlice> {
    let found = ["linear.weight", "1_Dense/linear.weight"].into_iter().find_map(|name| Some((name, shape_of(name)?)));
    found.map(|(name, shape)| slice(name.to_owned(), &[shape.first().copied().unwrap_or_default(), hidden]))
}

/// `bert.encoder.layer.N.attention.self.query`, ...; a bare encoder's names have no `bert.`.
fn bert(spec: &ModelSpec, shape_of: ShapeOf<'_>, prefix: &str) -> TensorTable {
    let prefix = if shape_of("embeddings.word_embeddings.weight").is_some() { "" } else { prefix };
    let (hidden, intermediate) = (spec.hidden_size, spec.mlp.intermediate);
    let embedding = |name: &str, rows: usize| slice(format!("{prefix}embeddings.{name}.weight"), &[rows, hidden]);
    let layer = |number: usize| {
        let path = |name: &str| format!("{prefix}encoder.layer.{number}.{name}");
        let attention = |name: &str| linear(&path(name), hidden, hidden, true);
        LayerTensors {
            attention_norm: Some(norm(&path("attention.output.LayerNorm"), hidden, spec.norm)),
            query: attention("attention.self.query"),
            key: attention("attention.self.key"),
            value: attention("attention.self.value"),
            output: attention("attention.output.dense"),
            query_norm: None,
            key_norm: None,
            mlp_norm: norm(&path("output.LayerNorm"), hidden, spec.norm),
            gate: None,
            up: linear(&path("intermediate.dense"), intermediate, hidden, true),
            down: linear(&path("output.dense"), hidden, intermediate, true),
        }
    };
    let pooler = format!("{prefix}pooler.dense");
    let (dense, out) = if spec.naming == TensorNaming::Bert {
        (pooler.as_str(), "classifier")
    } else {
        ("classifier.dense", "classifier.out_proj")
    };
    TensorTable {
        words: embedding("word_embeddings", spec.vocabulary),
        positions: spec.embedding.positions.map(|of| embedding("position_embeddings", of.rows)),
        token_types: (spec.embedding.token_types > 0)
            .then(|| embedding("token_type_embeddings", spec.embedding.token_types)),
        embedding_norm: spec.embedding.norm.map(|of| norm(&format!("{prefix}embeddings.LayerNorm"), hidden, of)),
        layers: (0..spec.layers.len()).map(layer).collect(),
        final_norm: None,
        output: None,
        projector: None,
        token_projection: None,
        classifier: spec.classifier.as_ref().map(|of| classifier(of, hidden, [dense, "", out])),
    }
}

/// Jina's XLM-RoBERTa with the names of `FlashAttention`'s BERT: query, key and value are one
/// matrix.
fn jina_roberta(spec: &ModelSpec) -> TensorTable {
    let (hidden, intermediate) = (spec.hidden_size, spec.mlp.intermediate);
    let embedding = |name: &str, rows: usize| slice(format!("roberta.embeddings.{name}.weight"), &[rows, hidden]);
    let layer = |number: usize| {
        let path = |name: &str| format!("roberta.encoder.layers.{number}.{name}");
        let [query, key, value] = fused(&path("mixer.Wqkv"), [hidden; 3], hidden, true);
        LayerTensors {
            attention_norm: Some(norm(&path("norm1"), hidden, spec.norm)),
            query,
            key,
            value,
            output: linear(&path("mixer.out_proj"), hidden, hidden, true),
            query_norm: None,
            key_norm: None,
            mlp_norm: norm(&path("norm2"), hidden, spec.norm),
            gate: None,
            up: linear(&path("mlp.fc1"), intermediate, hidden, true),
            down: linear(&path("mlp.fc2"), hidden, intermediate, true),
        }
    };
    TensorTable {
        words: embedding("word_embeddings", spec.vocabulary),
        positions: spec.embedding.positions.map(|of| embedding("position_embeddings", of.rows)),
        token_types: (spec.embedding.token_types > 0)
            .then(|| embedding("token_type_embeddings", spec.embedding.token_types)),
        embedding_norm: spec.embedding.norm.map(|of| norm("roberta.emb_ln", hidden, of)),
        layers: (0..spec.layers.len()).map(layer).collect(),
        final_norm: None,
        output: None,
        projector: None,
        token_projection: None,
        classifier: spec
            .classifier
            .as_ref()
            .map(|of| classifier(of, hidden, ["classifier.dense", "", "classifier.out_proj"])),
    }
}

/// `new.encoder.layer.N.attention.qkv_proj`, `new.encoder.layer.N.mlp.up_gate_proj`, ...; a bare
/// encoder's names have no `new.`. Of `up_gate_proj` the second half is the gate.
fn gte(spec: &ModelSpec, shape_of: ShapeOf<'_>) -> TensorTable {
    let prefix = if shape_of("embeddings.word_embeddings.weight").is_some() { "" } else { "new." };
    let (hidden, intermediate) = (spec.hidden_size, spec.mlp.intermediate);
    let embedding = |name: &str, rows: usize| slice(format!("{prefix}embeddings.{name}.weight"), &[rows, hidden]);
    let layer = |number: usize| {
        let path = |name: &str| format!("{prefix}encoder.layer.{number}.{name}");
        let [query, key, value] = fused(&path("attention.qkv_proj"), [hidden; 3], hidden, true);
        let [up, gate] = fused(&path("mlp.up_gate_proj"), [intermediate; 2], hidden, false);
        LayerTensors {
            attention_norm: Some(norm(&path("attn_ln"), hidden, spec.norm)),
            query,
            key,
            value,
            output: linear(&path("attention.o_proj"), hidden, hidden, true),
            query_norm: None,
            key_norm: None,
            mlp_norm: norm(&path("mlp_ln"), hidden, spec.norm),
            gate: Some(gate),
            up,
            down: linear(&path("mlp.down_proj"), hidden, intermediate, true),
        }
    };
    let pooler = format!("{prefix}pooler.dense");
    TensorTable {
        words: embedding("word_embeddings", spec.vocabulary),
        positions: None,
        token_types: Some(embedding("token_type_embeddings", spec.embedding.token_types)),
        embedding_norm: spec.embedding.norm.map(|of| norm(&format!("{prefix}embeddings.LayerNorm"), hidden, of)),
        layers: (0..spec.layers.len()).map(layer).collect(),
        final_norm: None,
        output: None,
        projector: None,
        token_projection: None,
        classifier: spec.classifier.as_ref().map(|of| classifier(of, hidden, [&pooler, "", "classifier"])),
    }
}

/// `model.layers.N.attn.Wqkv`, `model.layers.N.mlp.Wi`, ...; a bare encoder's names have no
/// `model.`. Of `Wi` the first half is the gate.
fn modern_bert(spec: &ModelSpec, shape_of: ShapeOf<'_>) -> TensorTable {
    let prefix = if shape_of("embeddings.tok_embeddings.weight").is_some() { "" } else { "model." };
    let (hidden, intermediate) = (spec.hidden_size, spec.mlp.intermediate);
    let layer = |number: usize| {
        let path = |name: &str| format!("{prefix}layers.{number}.{name}");
        let [query, key, value] = fused(&path("attn.Wqkv"), [hidden; 3], hidden, spec.attention.qkv_bias);
        let [gate, up] = fused(&path("mlp.Wi"), [intermediate; 2], hidden, spec.mlp.bias);
        LayerTensors {
            attention_norm: spec.layers[number].attention_norm.then(|| norm(&path("attn_norm"), hidden, spec.norm)),
            query,
            key,
            value,
            output: linear(&path("attn.Wo"), hidden, hidden, spec.attention.output_bias),
            query_norm: None,
            key_norm: None,
            mlp_norm: norm(&path("mlp_norm"), hidden, spec.norm),
            gate: Some(gate),
            up,
            down: linear(&path("mlp.Wo"), hidden, intermediate, spec.mlp.bias),
        }
    };
    TensorTable {
        words: slice(format!("{prefix}embeddings.tok_embeddings.weight"), &[spec.vocabulary, hidden]),
        positions: None,
        token_types: None,
        embedding_norm: spec.embedding.norm.map(|of| norm(&format!("{prefix}embeddings.norm"), hidden, of)),
        layers: (0..spec.layers.len()).map(layer).collect(),
        final_norm: spec.final_norm.map(|of| norm(&format!("{prefix}final_norm"), hidden, of)),
        output: None,
        projector: None,
        token_projection: None,
        classifier: spec
            .classifier
            .as_ref()
            .map(|of| classifier(of, hidden, ["head.dense", "head.norm", "classifier"])),
    }
}
