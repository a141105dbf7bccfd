//! The read-out of podium-mini: scores from the token states of an encoder that was not trained for
//! it. `training/MODEL.md` has the formulas, `tests/fixtures/podium_mini.json` golden values.
//!
//! Query, instruction and documents are encoded apart. A document's score is a **base**, which
//! never sees the instruction, plus what the instruction asks for (the **wish**), times how much it
//! asks (the **gate**):
//!
//! | file | what it computes |
//! |---|---|
//! | `slate` | the scores of a slate, from the states of its rows ([`SlateReader`]) |
//! | `text` | what a text's states show: means, windows, tokens |
//! | `gate`, `wish` | how much an instruction asks, and which documents it asks for |
//! | `facts` | what can be counted in a text |
//! | `weights`, `config` | the trained numbers and the constants |

mod config;
mod facts;
mod gate;
mod slate;
mod text;
mod vector;
mod weights;
mod wish;

pub use config::EvidenceConfig;
pub use facts::CountedFacts;
pub use slate::{DocumentRows, InstructionRow, SlateReader, SlateRows};
pub use weights::EvidenceError;

use self::gate::Gate;
use self::weights::Weights;
use self::wish::Wish;

/// The trained numbers of the read-out.
#[derive(Debug, PartialEq)]
pub struct EvidenceModel {
    config: EvidenceConfig,
    /// How much a token of a query or an instruction counts, by its id.
    token_weights: Vec<f32>,
    gate: Gate,
    wish: Wish,
    /// Numbers of a state.
    width: usize,
}

impl EvidenceModel {
    /// Reads the weights (`instructions.safetensors`) for an encoder whose states have `width`
    /// numbers.
    ///
    /// # Errors
    /// [`EvidenceError`] when a tensor is missing, of another shape or type, or not finite.
    pub fn new(config: EvidenceConfig, bytes: &[u8], width: usize) -> Result<Self, EvidenceError> {
        let weights = Weights::new(bytes)?;
        let token_weights = weights.vector("token_weight", None)?;
        let gate = Gate::load(&weights, width, config.gate)?;
        let wish = Wish::load(&weights, width, config.wish, config.facts.count())?;
        Ok(Self { config, token_weights, gate, wish, width })
    }

    /// Counts in a document what instructions ask for.
    #[must_use]
    pub fn count_document(&self, text: &str) -> CountedFacts {
        self.config.facts.count_document(text)
    }

    /// Number of tokens of the vocabulary that it knows.
    #[must_use]
    pub fn vocabulary(&self) -> usize {
        self.token_weights.len()
    }
}
