//! Rotary position embeddings: the angle per position of each pair of a head's values.

use rayon::prelude::*;
use serde_json::{Map, Value, json};

use super::config::Config;

/// A rotary table: `head_dim / 2` frequencies.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::runtime) struct RotarySpec {
    pub theta: f64,
    pub scaling: RotaryScaling,
}

/// How frequencies are changed for sequences beyond those of pretraining.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::runtime) enum RotaryScaling {
    None,
    /// Positions are divided by the factor.
    Linear {
        factor: f64,
    },
    /// GTE: the base is multiplied by the factor, and frequencies are divided by its power
    /// `2 / head_dim`.
    Ntk {
        factor: f64,
    },
    /// Llama 3.1: low frequencies are divided by the factor, high ones kept, those between
    /// interpolated.
    Llama3 {
        factor: f64,
        low: f64,
        high: f64,
        original: f64,
    },
    /// Peng et al. 2023, by the count of turns over the original context; angles' cosines and sines
    /// are scaled besides.
    Yarn {
        factor: f64,
        beta_fast: f64,
        beta_slow: f64,
        original: f64,
        attention: f64,
    },
}

/// The type of a table: `rope_type`, or `type` of old configurations; `default` if there is
/// neither.
fn take_kind(name: &str, keys: &mut Map<String, Value>) -> Result<String, String> {
    let kinds = ["rope_type", "type"].map(|key| keys.remove(key).and_then(|kind| kind.as_str().map(str::to_owned)));
    match kinds {
        [Some(kind), Some(other)] if kind != other => Err(format!("{name} names both `{kind}` and `{other}`")),
        [Some(kind), _] | [None, Some(kind)] => Ok(kind),
        [None, None] => Ok("default".to_owned()),
    }
}

impl RotarySpec {
    /// Reads a decoder's one table from `rope_parameters` (transformers 5), else from `rope_theta`
    /// and `rope_scaling`. Where both objects are there, `rope_parameters` wins, and `rope_scaling`
    /// must only be valid.
    pub(super) fn parse(config: &mut Config, default_theta: f64, max_positions: usize) -> Result<Self, String> {
        let flat = config.number("rope_theta")?;
        let mut spec = None;
        for key in ["rope_parameters", "rope_scaling"] {
            if let Some(parameters) = config.take(key) {
                let read = Self::of_parameters(key, parameters, flat.unwrap_or(default_theta), max_positions)?;
                spec.get_or_insert(read);
            }
        }
        Ok(spec.unwrap_or(Self { theta: flat.unwrap_or(default_theta), scaling: RotaryScaling::None }))
    }

    /// A table from an object such as `{"rope_type": "linear", "factor": 2.0}`, all keys of which
    /// must be known.
    pub(super) fn of_parameters(
        name: &str,
        parameters: Value,
        theta: f64,
        max_positions: usize,
    ) -> Result<Self, String> {
        let Value::Object(mut keys) = parameters else { return Err(format!("{name} is not an object")) };
        let mut number = |key: &str| match keys.remove(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => {
                let read = value.as_f64().filter(|value| *value > 0.);
                read.map(Some).ok_or_else(|| format!("{name}.{key} is {value}, not a positive number"))
            }
        };
        let theta = number("rope_theta")?.unwrap_or(theta);
        let (factor, original) = (number("factor")?, number("original_max_position_embeddings")?);
        let (low, high) = (number("low_freq_factor")?, number("high_freq_factor")?);
        let (beta_fast, beta_slow) = (number("beta_fast")?, number("beta_slow")?);
        let attention = number("attention_factor")?;
        let kind = take_kind(name, &mut keys)?;
        if let Some((key, value)) = keys.iter().find(|(_, value)| !value.is_null() && **value != json!(false)) {
            return Err(format!("{name}.{key} is {value}: this key is not supported"));
        }
        let needed = |key: &str, value: Option<f64>| value.ok_or_else(|| format!("{name} has no {key}"));
        let scaling = match kind.as_str() {
            "default" => RotaryScaling::None,
            "linear" => RotaryScaling::Linear { factor: needed("factor", factor)? },
            "llama3" => RotaryScaling::Llama3 {
                factor: needed("factor", factor)?,
                low: needed("low_freq_factor", low)?,
                high: needed("high_freq_factor", high)?,
                original: needed("original_max_position_embeddings", original)?,
            },
            "yarn" => {
                let factor = needed("factor", factor)?;
                RotaryScaling::Yarn {
                    factor,
                    beta_fast: beta_fast.unwrap_or(32.),
                    beta_slow: beta_slow.unwrap_or(1.),
                    original: original.unwrap_or(max_positions as f64),
                    attention: attention.unwrap_or(if factor <= 1. { 1. } else { 0.1 * factor.ln() + 1. }),
                }
            }
            other => return Err(format!("{name}: rotary embedding of type `{other}` is not supported")),
        };
        Ok(Self { theta, scaling })
    }

    /// Cosines and sines, `[positions, head_dim / 2]` each. Angles are products in f32, as in
    /// transformers.
    pub fn table(&self, head_dim: usize, positions: usize) -> (Vec<f32>, Vec<f32>) {
        let frequencies = self.frequencies(head_dim);
        let attention = match self.scaling {
            RotaryScaling::Yarn { attention, .. } => attention as f32,
            RotaryScaling::None
            | RotaryScaling::Linear { .. }
            | RotaryScaling::Ntk { .. }
            | RotaryScaling::Llama3 { .. } => 1.,
        };
        let angles = |position: usize| frequencies.iter().map(move |turn| position as f32 * turn);
        let angles = (0..positions).into_par_iter().flat_map_iter(angles);
        angles.map(|angle| (angle.cos() * attention, angle.sin() * attention)).unzip()
    }

    fn frequencies(&self, head_dim: usize) -> Vec<f32> {
        let dim = head_dim as f64;
        let plain = |pair: usize| self.theta.powf(-2. * pair as f64 / dim);
        let scaled = |pair: usize| -> f64 {
            let frequency = plain(pair);
            match self.scaling {
                RotaryScaling::None => frequency,
                RotaryScaling::Linear { factor } => frequency / factor,
                RotaryScaling::Ntk { factor } => {
                    (self.theta * factor).powf(-2. * pair as f64 / dim) / factor.powf(2. / dim)
                }
                RotaryScaling::Llama3 { factor, low, high, original } => {
                    let turns = original * frequency / std::f64::consts::TAU;
                    let kept = ((turns - low) / (high - low)).clamp(0., 1.);
                    (1. - kept) * frequency / factor + kept * frequency
                }
                RotaryScaling::Yarn { factor, beta_fast, beta_slow, original, .. } => {
                    // The pair whose frequency makes so many turns over the original context.
                    let pair_of =
                        |turns: f64| dim * (original / (turns * std::f64::consts::TAU)).ln() / (2. * self.theta.ln());
                    let first = pair_of(beta_fast).floor().max(0.);
                    let last = pair_of(beta_slow).ceil().min(dim - 1.);
                    let width = if last - first < 0.001 { 0.001 } else { last - first };
                    let kept = 1. - ((pair as f64 - first) / width).clamp(0., 1.);
                    (1. - kept) * frequency / factor + kept * frequency
                }
            }
        };
        (0..head_dim / 2).map(|pair| scaled(pair) as f32).collect()
    }
}
