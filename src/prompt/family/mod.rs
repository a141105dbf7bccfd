//! Families as data: the declarations `prompts/<name>.toml`, with one file for each of their
//! sections, and the rules that recognise a checkpoint's family.

mod bi_encoder;
mod declaration;
mod detect;
mod families;
mod listwise;
mod pointwise;
mod rows;

pub use bi_encoder::BiEncoderReadout;
pub(super) use declaration::CutRule;
pub use declaration::{Family, FamilyFacts};
pub use detect::{ANY_FAMILY, CheckpointFacts, Recognised};
pub use families::Families;
pub(super) use listwise::{Layout, ListwiseFacts, ListwiseReadout, SlateRule};
pub use pointwise::EarlyExitFacts;
pub(super) use pointwise::{AnswerFacts, AnswerToken, BudgetScope, PointwiseFacts};
pub(super) use rows::EvidenceFacts;
