//! Heads on the final states: projections, logits of some tokens, classes. All in f32.

use candle_core::{D, DType, Result, Tensor, bail};

use super::candle_layers::{Loader, Norm, activate};
use super::table::Table;
use crate::runtime::Head;
use crate::runtime::spec::{Activation, ClassifierSpec, ModelSpec};
use crate::runtime::tensors::{ClassifierTensors, LinearTensors, TensorTable};

/// The heads that a checkpoint has.
pub(super) struct Heads {
    /// `[vocabulary, hidden]`; the word embeddings where the model ties them.
    output: Option<Table>,
    projector: Option<[Tensor; 2]>,
    /// `[width, hidden]`.
    token_projection: Option<Tensor>,
    classifier: Option<Classifier>,
}

struct Classifier {
    dense: Option<(Linear, Activation)>,
    norm: Option<Norm>,
    /// One for all layers, or one for each from `start_layer` on.
    outs: Vec<Linear>,
    start_layer: Option<usize>,
    temperature: f64,
}

/// A matrix, `[outputs, inputs]`, and its bias.
struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Heads {
    /// `output` is the output matrix, if the model has one.
    pub fn load(spec: &ModelSpec, tensors: &TensorTable, loader: Loader<'_>, output: Option<Table>) -> Result<Self> {
        let in_f32 = Loader { dtype: DType::F32, ..loader };
        let projector = match &tensors.projector {
            Some([first, second]) => {
                let load = |slice| loader.weights.load_slice(slice, Some(DType::F32), loader.device);
                Some([load(first)?, load(second)?])
            }
            None => None,
        };
        let load = |slice| loader.weights.load_slice(slice, Some(DType::F32), loader.device);
        let token_projection = tensors.token_projection.as_ref().map(load).transpose()?;
        let classifier = spec.classifier.as_ref().zip(tensors.classifier.as_ref());
        let classifier = classifier.map(|(spec, tensors)| Classifier::load(spec, tensors, in_f32)).transpose()?;
        Ok(Self { output, projector, token_projection, classifier })
    }

    /// Whether the checkpoint has the projection of a head.
    pub fn has_projection(&self, head: &Head) -> bool {
        match head {
            Head::Projector => self.projector.is_some(),
            Head::MaxSim { .. } => self.token_projection.is_some(),
            Head::Hidden | Head::Vocabulary(_) | Head::Classifier | Head::Reader(_) => false,
        }
    }

    /// States after `layer` layers through a head: `[n, hidden]` to `[n, width]`. For
    /// [`Head::MaxSim`], the unit vectors that it compares.
    pub fn apply(&self, head: &Head, layer: usize, states: &Tensor) -> Result<Tensor> {
        if let (Head::MaxSim { .. }, Some(projection)) = (head, &self.token_projection) {
            return unit_rows(&states.matmul(&projection.t()?)?);
        }
        match (head, &self.projector, &self.output, &self.classifier) {
            (Head::Hidden, ..) => Ok(states.clone()),
            (Head::Projector, Some([first, second]), ..) => states.matmul(&first.t()?)?.relu()?.matmul(&second.t()?),
            (Head::Vocabulary(token_ids), _, Some(output), _) => {
                states.matmul(&output.rows(token_ids)?.to_dtype(DType::F32)?.t()?)
            }
            (Head::Classifier, .., Some(classifier)) => classifier.forward(layer, states),
            (Head::Projector | Head::Vocabulary(_) | Head::Classifier | Head::MaxSim { .. } | Head::Reader(_), ..) => {
                bail!("the checkpoint has no {head:?}")
            }
        }
    }
}

/// Rows divided by their norms, each norm at least 1e-12 as in torch's `normalize`.
fn unit_rows(rows: &Tensor) -> Result<Tensor> {
    let norms = rows.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?;
    rows.broadcast_div(&norms.maximum(1e-12)?)
}

impl Classifier {
    fn load(spec: &ClassifierSpec, tensors: &ClassifierTensors, loader: Loader<'_>) -> Result<Self> {
        let dense = spec.dense.as_ref().zip(tensors.dense.as_ref());
        Ok(Self {
            dense: dense
                .map(|(spec, tensors)| Ok::<_, candle_core::Error>((Linear::load(tensors, loader)?, spec.activation)))
                .transpose()?,
            norm: Norm::load_if(tensors.norm.as_ref(), spec.norm, loader)?,
            outs: tensors.outs.iter().map(|out| Linear::load(out, loader)).collect::<Result<_>>()?,
            start_layer: spec.start_layer,
            temperature: f64::from(spec.temperature),
        })
    }

    fn forward(&self, layer: usize, states: &Tensor) -> Result<Tensor> {
        let own = self.start_layer.map_or(Some(0), |start| layer.checked_sub(start));
        let Some(out) = own.and_then(|own| self.outs.get(own)) else {
            bail!("the checkpoint has no classifier after layer {layer}")
        };
        let mut x = states.clone();
        if let Some((dense, activation)) = &self.dense {
            x = activate(*activation, &dense.forward(&x)?)?;
        }
        if let Some(norm) = &self.norm {
            x = norm.forward(&x)?;
        }
        out.forward(&x)? / self.temperature
    }
}

impl Linear {
    fn load(tensors: &LinearTensors, loader: Loader<'_>) -> Result<Self> {
        let load = |slice| loader.weights.load_slice(slice, Some(loader.dtype), loader.device);
        Ok(Self { weight: load(&tensors.weight)?, bias: tensors.bias.as_ref().map(load).transpose()? })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let product = x.matmul(&self.weight.t()?)?;
        match &self.bias {
            Some(bias) => product.broadcast_add(bias),
            None => Ok(product),
        }
    }
}
