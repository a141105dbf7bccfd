//! Ranking quality (`podium eval`): computes measures and their confidence intervals from labelled
//! data.
//!
//! Data flows down this table; nothing in this module prints:
//!
//! | module | purpose |
//! |---|---|
//! | [`settings`] | the settings of a run |
//! | [`datasets`] | reads the layouts of BEIR, MTEB and ir_datasets, TREC files and slates; samples queries |
//! | [`first_stage`] | BM25: retrieves candidates, and ranks them as the baseline |
//! | [`system`], [`answer`] | the system (a model here or an [`endpoint`]) and its reply |
//! | [`query_run`] | the rankings of one query |
//! | [`run`] | reranks every query in every input order, with and without its instruction |
//! | [`journal`] | the finished queries of a run, to continue it |
//! | [`measures`] | the quality of one ranking: nDCG, MRR, MAP and others |
//! | [`run_files`] | the rankings as TREC files |
//! | [`statistics`], [`calibration`] | confidence intervals, significance, calibration of scores |
//! | [`summary`] | the results of one set |
//! | [`report`], [`page`] | the report as JSON and as an HTML page |
//! | [`comparison`] | compares the reports of several systems |
//! | [`gate`] | compares a run with an earlier report, for CI |

pub mod answer;
pub mod calibration;
pub mod comparison;
pub mod datasets;
pub mod endpoint;
pub mod first_stage;
pub mod gate;
pub mod journal;
pub mod measures;
pub mod page;
pub mod query_run;
pub mod report;
pub mod run;
pub mod run_files;
pub mod settings;
pub mod statistics;
pub mod summary;
pub mod system;
#[cfg(test)]
mod testing;
