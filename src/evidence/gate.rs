//! How much an instruction asks, in [0, 1].

use super::EvidenceError;
use super::config::GateConfig;
use super::vector::{add, softmax};
use super::weights::{Linear, Weights};

/// The network that tells whether an instruction is neutral, a preference or a demand.
#[derive(Debug, PartialEq)]
pub(super) struct Gate {
    config: GateConfig,
    importance: Linear,
    first: Linear,
    last: Linear,
}

/// Inner numbers of the network.
const INNER: usize = 64;

impl Gate {
    pub fn load(weights: &Weights<'_>, width: usize, config: GateConfig) -> Result<Self, EvidenceError> {
        Ok(Self {
            config,
            importance: weights.linear("gate.importance", (1, 2 * width))?,
            first: weights.linear("gate.first", (INNER, 4 * width))?,
            last: weights.linear("gate.last", (3, INNER))?,
        })
    }

    /// The gate of an instruction, from the states of both layers of all its tokens, side by side.
    pub fn open(&self, states: &[Vec<f32>]) -> f32 {
        let importance: Vec<f32> = states.iter().flat_map(|state| self.importance.apply(state)).collect();
        let shares = softmax(&importance);
        let width = states.first().map_or(0, Vec::len);
        let (mut mean, mut weighted) = (vec![0.0; width], vec![0.0; width]);
        for (state, share) in states.iter().zip(shares) {
            add(&mut mean, state);
            weighted.iter_mut().zip(state).for_each(|(sum, value)| *sum += share * value);
        }
        for sum in &mut mean {
            *sum /= states.len() as f32;
        }
        let read = self.last.apply(&self.first.apply_gelu(&[mean, weighted].concat()));
        let [neutral, preference, demand] = softmax(&read)[..] else { return 0.0 };
        let GateConfig { closed, open, preference: partly } = self.config;
        let asks = ((1.0 - neutral - closed) / (open - closed)).clamp(0.0, 1.0);
        asks * (partly * preference + demand) / (preference + demand).max(f32::MIN_POSITIVE)
    }
}
