//! Reads the trained numbers from a safetensors file. Matrices are F32, or I8 with a scale for each
//! row in `NAME.scale`.

use half::f16;
use safetensors::{Dtype, SafeTensors};

use super::vector::dot;

/// The weights cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum EvidenceError {
    /// The file is not safetensors.
    #[error("not a safetensors file: {0}")]
    File(String),
    /// A tensor is missing or wrong.
    #[error("tensor `{name}`: {problem}")]
    Tensor {
        /// Its name.
        name: String,
        /// The problem, and what is expected.
        problem: String,
    },
}

/// The tensors of a file.
pub(super) struct Weights<'a>(SafeTensors<'a>);

/// A matrix with a bias: y = W x + b.
#[derive(Debug, PartialEq)]
pub(super) struct Linear {
    /// `[outputs, inputs]`
    matrix: Vec<f32>,
    bias: Vec<f32>,
    inputs: usize,
}

/// Centre and spread of each input.
#[derive(Debug, PartialEq)]
pub(super) struct Standardizer {
    center: Vec<f32>,
    spread: Vec<f32>,
}

impl<'a> Weights<'a> {
    pub fn new(bytes: &'a [u8]) -> Result<Self, EvidenceError> {
        SafeTensors::deserialize(bytes).map(Self).map_err(|error| EvidenceError::File(error.to_string()))
    }

    /// A tensor's numbers, in one row.
    pub fn vector(&self, name: &str, length: Option<usize>) -> Result<Vec<f32>, EvidenceError> {
        let problem = |problem: String| EvidenceError::Tensor { name: name.to_owned(), problem };
        let tensor = self.0.tensor(name).map_err(|_| problem("it is missing".to_owned()))?;
        let count: usize = tensor.shape().iter().product();
        if length.is_some_and(|length| length != count) {
            return Err(problem(format!("it has the shape {:?}; expected {length:?} numbers", tensor.shape())));
        }
        let values: Vec<f32> = if tensor.dtype() == Dtype::F32 {
            tensor.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
        } else if tensor.dtype() == Dtype::F16 {
            tensor.data().as_chunks::<2>().0.iter().map(|bytes| f16::from_le_bytes(*bytes).to_f32()).collect()
        } else {
            return Err(problem(format!("it is {}; expected F32 or F16", tensor.dtype())));
        };
        if values.iter().any(|value| !value.is_finite()) {
            return Err(problem("it holds a number that is not finite".to_owned()));
        }
        Ok(values)
    }

    /// `NAME.weight`, `[outputs, inputs]`, and `NAME.bias`.
    pub fn linear(&self, name: &str, (outputs, inputs): (usize, usize)) -> Result<Linear, EvidenceError> {
        let weight = format!("{name}.weight");
        let problem = |problem: String| EvidenceError::Tensor { name: weight.clone(), problem };
        let tensor = self.0.tensor(&weight).map_err(|_| problem("it is missing".to_owned()))?;
        if tensor.shape() != [outputs, inputs] {
            return Err(problem(format!("it has the shape {:?}; expected [{outputs}, {inputs}]", tensor.shape())));
        }
        let matrix = if tensor.dtype() == Dtype::I8 {
            let scales = self.vector(&format!("{weight}.scale"), Some(outputs))?;
            let rows = tensor.data().chunks_exact(inputs).zip(&scales);
            rows.flat_map(|(row, scale)| row.iter().map(move |value| f32::from(value.cast_signed()) * scale)).collect()
        } else {
            self.vector(&weight, Some(outputs * inputs))?
        };
        Ok(Linear { matrix, bias: self.vector(&format!("{name}.bias"), Some(outputs))?, inputs })
    }

    /// `NAME_center` and `NAME_spread`.
    pub fn standardizer(&self, name: &str, length: usize) -> Result<Standardizer, EvidenceError> {
        let center = self.vector(&format!("{name}_center"), Some(length))?;
        Ok(Standardizer { center, spread: self.vector(&format!("{name}_spread"), Some(length))? })
    }
}

impl Linear {
    /// W x + b
    pub fn apply(&self, x: &[f32]) -> Vec<f32> {
        let rows = self.matrix.chunks_exact(self.inputs).zip(&self.bias);
        rows.map(|(row, bias)| dot(row, x) + bias).collect()
    }

    /// GELU(W x + b)
    pub fn apply_gelu(&self, x: &[f32]) -> Vec<f32> {
        self.apply(x).into_iter().map(gelu).collect()
    }
}

impl Standardizer {
    /// (x - center) / spread
    pub fn apply(&self, x: &[f32]) -> Vec<f32> {
        x.iter().zip(&self.center).zip(&self.spread).map(|((x, center), spread)| (x - center) / spread).collect()
    }
}

/// x times the normal distribution's share below x.
pub(super) fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2))
}

/// The error function, within 1.5e-7 (Abramowitz and Stegun 7.1.26).
fn erf(x: f32) -> f32 {
    let x = f64::from(x);
    let t = 1.0 / (1.0 + 0.327_591_1 * x.abs());
    let series = [1.061_405_429, -1.453_152_027, 1.421_413_741, -0.284_496_736, 0.254_829_592];
    let sum = series.iter().fold(0.0, |sum, factor| (sum + factor) * t);
    ((1.0 - sum * (-x * x).exp()) * x.signum()) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gelu_matches_torch() {
        // torch.nn.functional.gelu
        for (x, expected) in
            [(-2.0, -0.045_500_26), (-0.5, -0.154_268_77), (0.0, 0.0), (1.0, 0.841_344_7), (3.0, 2.995_950_5)]
        {
            assert!((gelu(x) - expected).abs() < 1e-6, "{x}");
        }
    }

    #[test]
    fn a_missing_or_misshapen_tensor_is_named() {
        use safetensors::tensor::TensorView;
        let data = [0_u8; 24];
        let tensors = [("a.weight", TensorView::new(Dtype::F32, vec![2, 3], &data).unwrap())];
        let bytes = safetensors::serialize(tensors, None).unwrap();
        let weights = Weights::new(&bytes).unwrap();
        let problem = |name: &str, shape| weights.linear(name, shape).map(|_| ()).unwrap_err().to_string();
        assert_eq!(problem("b", (1, 1)), "tensor `b.weight`: it is missing");
        assert_eq!(problem("a", (3, 3)), "tensor `a.weight`: it has the shape [2, 3]; expected [3, 3]");
        assert_eq!(problem("a", (2, 3)), "tensor `a.bias`: it is missing");
    }
}
