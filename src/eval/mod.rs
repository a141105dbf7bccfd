//! Is it any good? Labelled data in, measures with their uncertainty out (`podium eval`).
//!
//! Data flows down this list; nothing here prints:
//!
//! | file | question |
//! |---|---|
//! | [`settings`] | what is asked of a run? |
//! | [`datasets`] | what is judged? BEIR folders, TREC files, slates; the sample of queries |
//! | [`first_stage`] | what does BM25 find, and how does it order the candidates? |
//! | [`system`] | who reranks? the model in this process, or an [`endpoint`] |
//! | [`run`] | every query in every order, with and without its instruction |
//! | [`measures`] | how good is one ranking? nDCG, MRR, Hit, Recall, MAP |
//! | [`statistics`], [`calibration`] | how sure is that? |
//! | [`summary`] | what came out for a set? |
//! | [`report`], [`page`] | the JSON, and the page that shows it |
//! | [`gate`] | is it worse than it was? |

pub mod answer;
pub mod calibration;
pub mod datasets;
pub mod endpoint;
pub mod first_stage;
pub mod gate;
pub mod measures;
pub mod page;
pub mod report;
pub mod run;
pub mod settings;
pub mod statistics;
pub mod summary;
pub mod system;
#[cfg(test)]
mod testing;
