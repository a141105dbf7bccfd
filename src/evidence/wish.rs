//! Which documents an instruction asks for.

use super::EvidenceError;
use super::config::WishConfig;
use super::text::best_cosines;
use super::vector::{add, dot, mean};
use super::weights::{Linear, Standard, Weights};

/// The two networks: one reads whole texts, the other the instruction's words.
#[derive(Debug, PartialEq)]
pub(super) struct Wish {
    scale: f32,
    prefix: Standard,
    document_standard: Standard,
    query: Linear,
    instruction: Linear,
    document: Linear,
    first: Linear,
    second: Linear,
    last: Linear,
    token: Standard,
    token_first: Linear,
    token_last: Linear,
}

/// Inner numbers of the second layer, and of the words' network.
const SECOND: usize = 128;
const TOKEN: usize = 64;
/// Plain numbers about a document.
pub(super) const SCALARS: usize = 8;
/// A cosine that says nothing.
const NO_MATCH: f32 = 0.5;

/// Query and instruction of a request.
#[derive(Debug)]
pub(super) struct Asked {
    query: Vec<f32>,
    instruction: Vec<f32>,
    /// The weights of each content token of the instruction: for the earlier and the last layer.
    words: Vec<[f32; 2]>,
    /// The content tokens after each layer, as unit vectors.
    tokens: [Vec<f32>; 2],
}

/// The states of a row after both layers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row<'a> {
    pub earlier: &'a [f32],
    pub last: &'a [f32],
    pub width: usize,
}

impl Row<'_> {
    /// Mean, maximum and minimum of the earlier states, and the mean of the last ones.
    fn digest(&self) -> Vec<f32> {
        let width = self.width;
        let fold = |start: f32, pick: fn(f32, f32) -> f32| -> Vec<f32> {
            let mut best = vec![start; width];
            for state in self.earlier.chunks_exact(width) {
                best.iter_mut().zip(state).for_each(|(best, value)| *best = pick(*best, *value));
            }
            best
        };
        let (highest, lowest) = (fold(f32::NEG_INFINITY, f32::max), fold(f32::INFINITY, f32::min));
        [mean(self.earlier, width), highest, lowest, mean(self.last, width)].concat()
    }
}

impl Wish {
    pub fn load(weights: &Weights<'_>, width: usize, config: WishConfig) -> Result<Self, EvidenceError> {
        let digest = 4 * width;
        let projected = |name: &str| weights.linear(name, (config.width, digest));
        Ok(Self {
            scale: config.scale,
            prefix: weights.standard("wish.prefix", digest)?,
            document_standard: weights.standard("wish.document", digest)?,
            query: projected("wish.query")?,
            instruction: projected("wish.instruction")?,
            document: projected("wish.document")?,
            first: weights.linear("wish.first", (config.inner, 6 * config.width + SCALARS))?,
            second: weights.linear("wish.second", (SECOND, config.inner))?,
            last: weights.linear("wish.last", (1, SECOND))?,
            token: weights.standard("wish.token", 2 * width)?,
            token_first: weights.linear("wish.token_first", (TOKEN, 2 * width))?,
            token_last: weights.linear("wish.token_last", (2, TOKEN))?,
        })
    }

    /// Reads query and instruction. `states` has the instruction's content tokens, both layers side
    /// by side; `tokens` the same as unit vectors, layer by layer.
    pub fn ask(&self, query: Row<'_>, instruction: Row<'_>, states: &[Vec<f32>], tokens: [Vec<f32>; 2]) -> Asked {
        let words = states.iter().map(|state| {
            let read = self.token_last.apply(&self.token_first.apply_gelu(&self.token.apply(state)));
            [read[0], read[1]]
        });
        Asked {
            query: self.query.apply(&self.prefix.apply(&query.digest())),
            instruction: self.instruction.apply(&self.prefix.apply(&instruction.digest())),
            words: words.collect(),
            tokens,
        }
    }

    /// How well a document fits what is asked. `tokens` are the content tokens of its row after
    /// each layer, as unit vectors.
    pub fn read(&self, asked: &Asked, row: Row<'_>, tokens: [&[f32]; 2], scalars: [f32; SCALARS]) -> f32 {
        let document = self.document.apply(&self.document_standard.apply(&row.digest()));
        let product = |left: &[f32], right: &[f32]| -> Vec<f32> {
            left.iter().zip(right).map(|(left, right)| left * right).collect()
        };
        let (query, instruction) = (&asked.query, &asked.instruction);
        let x = [
            &document,
            instruction,
            query,
            &product(&document, instruction),
            &product(&document, query),
            &product(instruction, query),
            &scalars[..],
        ]
        .concat();
        let inner = self.second.apply_gelu(&self.first.apply_gelu(&x));
        let whole = self.last.apply(&inner).first().copied().unwrap_or_default();
        self.scale * (whole + words(asked, tokens, row.width))
    }
}

/// The sum over the instruction's words of their weights times their best matches.
fn words(asked: &Asked, tokens: [&[f32]; 2], width: usize) -> f32 {
    let mut sum = 0.0;
    for layer in 0..2 {
        let weights: Vec<f32> = asked.words.iter().map(|weights| weights[layer]).collect();
        let mut matches =
            best_cosines(&asked.tokens[layer], tokens[layer], width).unwrap_or_else(|| vec![0.0; weights.len()]);
        add(&mut matches, &vec![-NO_MATCH; weights.len()]);
        sum += dot(&weights, &matches);
    }
    sum
}
