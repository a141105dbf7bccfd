//! Which documents an instruction asks for.

use std::collections::HashSet;

use super::EvidenceError;
use super::config::WishConfig;
use super::text::best_cosines;
use super::vector::{dot, mean};
use super::weights::{Linear, Standardizer, Weights, gelu};

/// The two networks: one reads whole texts, the other the instruction's words.
#[derive(Debug, PartialEq)]
pub(super) struct Wish {
    scale: f32,
    prefix: Standardizer,
    document_standard: Standardizer,
    query: Linear,
    instruction: Linear,
    document: Linear,
    first: Linear,
    second: Linear,
    last: Linear,
    /// Weights of the facts, from the projected instruction.
    facts: Linear,
    facts_standard: Standardizer,
    token: Standardizer,
    token_first: Linear,
    /// The instruction's whole meaning, for each of its words.
    token_context: Linear,
    token_last: Linear,
}

/// The output of the words' network for each word.
const MATCHES: usize = 4;
/// Plain numbers about a document.
pub(super) const SCALARS: usize = 8;
/// A cosine that says nothing.
const NO_MATCH: f32 = 0.5;

/// Query and instruction of a request, as the networks read them.
#[derive(Debug)]
pub(super) struct WishQuery {
    query: Vec<f32>,
    instruction: Vec<f32>,
    /// For each content token of the instruction what its matches weigh: after the earlier and the
    /// last layer, the same token, the same token beside the same neighbour.
    words: Vec<[f32; MATCHES]>,
    /// The weights of facts.
    facts: Vec<f32>,
    /// The content tokens after each layer, as unit vectors.
    tokens: [Vec<f32>; 2],
    /// Their ids, and what an exact match of each is worth.
    ids: Vec<u32>,
    worth: Vec<f32>,
}

/// The content tokens of an instruction.
pub(super) struct InstructionTokens {
    pub ids: Vec<u32>,
    /// `token_weight` of each.
    pub weights: Vec<f32>,
    /// The states of both layers, side by side.
    pub states: Vec<Vec<f32>>,
    /// As unit vectors, layer by layer.
    pub vectors: [Vec<f32>; 2],
}

/// A document as the wish reads it.
pub(super) struct WishDocument<'a> {
    /// Its best row.
    pub row: Row<'a>,
    /// The content tokens of that row: their ids, and their unit vectors after each layer.
    pub ids: &'a [u32],
    pub vectors: [&'a [f32]; 2],
    pub scalars: [f32; SCALARS],
    /// The facts about it and the instruction.
    pub facts: Vec<f32>,
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
    pub fn load(weights: &Weights<'_>, width: usize, config: WishConfig, facts: usize) -> Result<Self, EvidenceError> {
        let (digest, second) = (4 * width, config.inner / 2);
        let projected = |name: &str| weights.linear(name, (config.width, digest));
        Ok(Self {
            scale: config.scale,
            prefix: weights.standardizer("wish.prefix", digest)?,
            document_standard: weights.standardizer("wish.document", digest)?,
            query: projected("wish.query")?,
            instruction: projected("wish.instruction")?,
            document: projected("wish.document")?,
            first: weights.linear("wish.first", (config.inner, 6 * config.width + SCALARS + facts))?,
            second: weights.linear("wish.second", (second, config.inner))?,
            last: weights.linear("wish.last", (1, second))?,
            facts: weights.linear("wish.facts", (facts, config.width))?,
            facts_standard: weights.standardizer("wish.facts", facts)?,
            token: weights.standardizer("wish.token", 2 * width)?,
            token_first: weights.linear("wish.token_first", (config.token, 2 * width))?,
            token_context: weights.linear("wish.token_context", (config.token, config.width))?,
            token_last: weights.linear("wish.token_last", (MATCHES, config.token))?,
        })
    }

    /// Reads query and instruction.
    pub fn ask(&self, query: Row<'_>, instruction: Row<'_>, tokens: InstructionTokens) -> WishQuery {
        let projected = self.instruction.apply(&self.prefix.apply(&instruction.digest()));
        let meaning: Vec<f32> = projected.iter().map(|value| gelu(*value)).collect();
        let context = self.token_context.apply(&meaning);
        let words = tokens.states.iter().map(|state| {
            let mut inner = self.token_first.apply(&self.token.apply(state));
            inner.iter_mut().zip(&context).for_each(|(value, context)| *value = gelu(*value + context));
            let read = self.token_last.apply(&inner);
            std::array::from_fn(|place| read[place])
        });
        WishQuery {
            words: words.collect(),
            facts: self.facts.apply(&meaning),
            query: self.query.apply(&self.prefix.apply(&query.digest())),
            instruction: projected,
            tokens: tokens.vectors,
            ids: tokens.ids,
            worth: tokens.weights.iter().map(|weight| weight / 2.0).collect(),
        }
    }

    /// How well a document fits what is asked.
    pub fn read(&self, asked: &WishQuery, wished: &WishDocument<'_>) -> f32 {
        let document = self.document.apply(&self.document_standard.apply(&wished.row.digest()));
        let facts = self.facts_standard.apply(&wished.facts);
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
            &wished.scalars[..],
            &facts,
        ]
        .concat();
        let inner = self.second.apply_gelu(&self.first.apply_gelu(&x));
        let whole = self.last.apply(&inner).first().copied().unwrap_or_default();
        self.scale * (whole + dot(&facts, &asked.facts) + words(asked, wished))
    }
}

/// The sum over the instruction's words of their weights times their matches in the document.
fn words(asked: &WishQuery, wished: &WishDocument<'_>) -> f32 {
    let none = || vec![0.0; asked.ids.len()];
    let [earlier, last] = [0, 1]
        .map(|layer| best_cosines(&asked.tokens[layer], wished.vectors[layer], wished.row.width).unwrap_or_else(none));
    let pairs: HashSet<(u32, u32)> = wished.ids.windows(2).map(|pair| (pair[0], pair[1])).collect();
    let has = |left: Option<usize>, right: usize| {
        let pair = left.and_then(|left| Some((*asked.ids.get(left)?, *asked.ids.get(right)?)));
        pair.is_some_and(|pair| pairs.contains(&pair))
    };
    let yes = |holds: bool| f32::from(u8::from(holds));
    let of_word = |place: usize| {
        let matches = [
            earlier[place] - NO_MATCH,
            last[place] - NO_MATCH,
            asked.worth[place] * yes(wished.ids.contains(&asked.ids[place])),
            asked.worth[place] * yes(has(Some(place), place + 1) || has(place.checked_sub(1), place)),
        ];
        dot(&asked.words[place], &matches)
    };
    (0..asked.ids.len()).map(of_word).sum()
}
