//! Linear layers that read the same rows.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use candle_core::{Result, Tensor};
use candle_nn::Linear;
use mistralrs_quant::{QuantMethod, QuantMethodConfig, QuantizeOntoGuard, UnquantLinear};

use super::Loader;
use crate::runtime::tensors::{LinearTensors, TensorSlice};

/// Products of the same rows with several matrices.
pub(super) enum Products {
    /// As one product: their weights one after the other.
    Joined { weight: Tensor, bias: Option<Tensor>, widths: Vec<usize> },
    /// One by one, in a quantised form.
    Apart(Vec<Arc<dyn QuantMethod>>),
}

impl Products {
    pub fn load(tensors: &[&LinearTensors], loader: Loader<'_>) -> Result<Self> {
        if loader.isq.is_some() {
            return Ok(Self::Apart(tensors.iter().map(|tensors| linear(tensors, loader)).collect::<Result<_>>()?));
        }
        let load = |slice: &TensorSlice| loader.weights.load_slice(slice, Some(loader.dtype), loader.device);
        let weights: Vec<Tensor> = tensors.iter().map(|tensors| load(&tensors.weight)).collect::<Result<_>>()?;
        let widths: Vec<usize> = weights.iter().map(|weight| weight.dim(0)).collect::<Result<_>>()?;
        let bias = |(tensors, width): (&&LinearTensors, &usize)| {
            tensors.bias.as_ref().map_or_else(|| Tensor::zeros(*width, loader.dtype, loader.device), load)
        };
        let has_bias = tensors.iter().any(|tensors| tensors.bias.is_some());
        let biases = has_bias.then(|| tensors.iter().zip(&widths).map(bias).collect::<Result<Vec<_>>>()).transpose()?;
        Ok(Self::Joined {
            weight: Tensor::cat(&weights, 0)?,
            bias: biases.map(|biases| Tensor::cat(&biases, 0)).transpose()?,
            widths,
        })
    }

    /// The products with the matrices of these numbers, `[rows, heads, dim]` each; those of joined
    /// matrices are parts of wider rows.
    pub fn heads(&self, x: &Tensor, numbers: Range<usize>, dim: usize) -> Result<Vec<Tensor>> {
        match self {
            Self::Joined { weight, bias, widths } => {
                let start = widths[..numbers.start].iter().sum();
                let width = widths[numbers.clone()].iter().sum();
                let bias = bias.as_ref().map(|bias| bias.narrow(0, start, width)).transpose()?;
                let all =
                    product(x, &weight.narrow(0, start, width)?, bias.as_ref())?.reshape(((), width / dim, dim))?;
                let mut first = 0;
                let part = |width: &usize| {
                    let part = all.narrow(1, first, width / dim);
                    first += width / dim;
                    part
                };
                widths[numbers].iter().map(part).collect()
            }
            Self::Apart(layers) => {
                let apart = |layer: &Arc<dyn QuantMethod>| {
                    let product = layer.forward_autocast(x)?;
                    let heads = product.dim(1)? / dim;
                    product.reshape(((), heads, dim))
                };
                layers[numbers].iter().map(apart).collect()
            }
        }
    }
}

/// `x` times the transposed weight, plus the bias.
pub(super) fn product(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let product = x.matmul(&weight.t()?)?;
    match bias {
        Some(bias) => product.broadcast_add(bias),
        None => Ok(product),
    }
}

/// A linear layer, in the quantised form that is asked for, made by mistral.rs.
pub(super) fn linear(tensors: &LinearTensors, loader: Loader<'_>) -> Result<Arc<dyn QuantMethod>> {
    let load = |slice| loader.weights.load_slice(slice, Some(loader.dtype), loader.device);
    let layer = Linear::new(load(&tensors.weight)?, tensors.bias.as_ref().map(load).transpose()?);
    let layer: Arc<dyn QuantMethod> =
        Arc::new(<UnquantLinear as QuantMethod>::new(QuantMethodConfig::Unquantized(layer))?);
    let Some(isq) = loader.isq else { return Ok(layer) };
    layer.apply_isq(Some(isq), loader.device.clone(), &AtomicUsize::new(0), None, QuantizeOntoGuard::new())
}
