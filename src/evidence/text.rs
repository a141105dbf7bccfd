//! Features of a text, from its states.

use std::ops::Range;

use super::config::{LaterPassages, WindowConfig};
use super::vector::{add, dot, make_unit, mean};

/// The states of a text's rows after one layer.
#[derive(Debug, Clone, Copy)]
pub(super) struct RowStates<'a> {
    /// The states of all texts of the pass.
    pub states: &'a [f32],
    pub width: usize,
}

impl<'a> RowStates<'a> {
    /// The states of these tokens.
    pub fn of(self, tokens: &Range<usize>) -> &'a [f32] {
        &self.states[tokens.start * self.width..tokens.end * self.width]
    }

    /// The tokens between the first and the last of a row, each as a unit vector.
    pub fn content(self, row: &Range<usize>) -> Vec<f32> {
        if row.len() <= 2 {
            return Vec::new();
        }
        let mut vectors = self.of(&(row.start + 1..row.end - 1)).to_vec();
        vectors.chunks_exact_mut(self.width).for_each(make_unit);
        vectors
    }
}

/// The vectors of a query or an instruction that documents are compared with.
#[derive(Debug)]
pub(super) struct QueryVectors {
    /// The unit vector of the mean of all states.
    pub mean: Vec<f32>,
    /// The content tokens, as unit vectors.
    tokens: Vec<f32>,
    /// The weight of each; their sum is 1.
    weights: Vec<f32>,
}

impl QueryVectors {
    /// `weights` has one for each content token of the row.
    pub fn new(states: RowStates<'_>, row: &Range<usize>, weights: &[f32]) -> Self {
        let mut vector = mean(states.of(row), states.width);
        make_unit(&mut vector);
        let sum: f32 = weights.iter().sum();
        let weights = weights.iter().map(|weight| if sum > 0.0 { weight / sum } else { 0.0 }).collect();
        Self { mean: vector, tokens: states.content(row), weights }
    }
}

/// A document's vectors of the last layer.
#[derive(Debug)]
pub(super) struct DocumentVectors {
    /// The unit vector of the mean of all states.
    pub mean: Vec<f32>,
    /// The unit vector of each window, and the number of its row.
    windows: Vec<(usize, Vec<f32>)>,
    /// The content tokens of all rows, as unit vectors.
    tokens: Vec<f32>,
    /// How many of them are of the first row.
    first_tokens: usize,
    later: LaterPassages,
}

/// How well a document fits a query or an instruction.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Fit {
    /// The highest cosine of a window; later rows count less.
    pub window: f32,
    /// The row of that window.
    pub row: usize,
    /// The weighted mean of each token's highest cosine.
    pub maxsim: f32,
}

impl DocumentVectors {
    pub fn new(states: RowStates<'_>, rows: &[Range<usize>], config: WindowConfig, later: LaterPassages) -> Self {
        let width = states.width;
        let mut sums = vec![0.0; width];
        let (mut windows, mut tokens, mut first_tokens) = (Vec::new(), Vec::new(), 0);
        for (number, row) in rows.iter().enumerate() {
            states.of(row).chunks_exact(width).for_each(|state| add(&mut sums, state));
            for start in (0..row.len()).step_by(config.stride) {
                if start > 0 && start + config.last_start >= row.len() {
                    break;
                }
                let end = (start + config.tokens).min(row.len());
                let mut vector = mean(states.of(&(row.start + start..row.start + end)), width);
                make_unit(&mut vector);
                windows.push((number, vector));
            }
            tokens.extend(states.content(row));
            if number == 0 {
                first_tokens = tokens.len() / width;
            }
        }
        make_unit(&mut sums);
        Self { mean: sums, windows, tokens, first_tokens, later }
    }

    pub fn fit(&self, query: &QueryVectors) -> Fit {
        let (mut window, mut row) = (f32::NEG_INFINITY, 0);
        for (number, vector) in &self.windows {
            let margin = if *number > 0 { self.later.window_margin } else { 0.0 };
            let cosine = dot(vector, &query.mean) - margin;
            if cosine > window {
                (window, row) = (cosine, *number);
            }
        }
        let width = query.mean.len();
        let (first, others) = self.tokens.split_at(self.first_tokens * width);
        let best = |tokens: &[f32]| best_cosines(&query.tokens, tokens, width);
        let best = match (best(first), best(others)) {
            (Some(first), Some(others)) => {
                let later = |(first, other): (f32, f32)| first.max(other - self.later.token_margin);
                Some(first.into_iter().zip(others).map(later).collect::<Vec<f32>>())
            }
            (first, others) => first.or(others),
        };
        let maxsim = best.map_or(0.0, |best| dot(&best, &query.weights));
        Fit { window, row, maxsim }
    }
}

/// For each vector of `left` the highest cosine with one of `right`; all are unit vectors. `None`
/// if one side has none.
pub(super) fn best_cosines(left: &[f32], right: &[f32], width: usize) -> Option<Vec<f32>> {
    if left.is_empty() || right.is_empty() {
        return None;
    }
    let mut best = vec![f32::NEG_INFINITY; left.len() / width];
    for right in right.chunks_exact(width) {
        for (best, left) in best.iter_mut().zip(left.chunks_exact(width)) {
            *best = best.max(dot(left, right));
        }
    }
    Some(best)
}
