//! Families as data: the declarations `prompts/<name>.toml`, and the rules that recognise a checkpoint's family.

mod declaration;
mod detect;
mod early_exit;
mod families;

pub(super) use declaration::{
    AnswerFacts, AnswerToken, BudgetScope, CutRule, EvidenceFacts, Layout, ListwiseFacts, ListwiseReadout,
    PointwiseFacts, SlateRule,
};
pub use declaration::{BiEncoderReadout, Family, FamilyFacts};
pub use detect::{ANY_FAMILY, Calibration, CheckpointFacts, PodiumConfig, Recognised};
pub use early_exit::EarlyExitFacts;
pub use families::Families;
