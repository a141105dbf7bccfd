//! The canary: a few fixed questions that a model answers once after it is loaded, through the same
//! code as requests. Each has three documents, one of which plainly answers it.
//!
//! It finds models that load without an error and rank wrongly: a head that was never trained or
//! has the wrong sign, the prompt of another family, the tokenizer of another model. The first
//! ranking also does what only a first pass does.

use std::time::{Duration, Instant};

use super::Reranker;
use super::cost::estimate;
use super::lists::Lists;
use crate::context::RequestContext;
use crate::rerank::{Mode, RerankError, RerankRequest};

struct Question {
    query: &'static str,
    documents: [&'static str; 3],
    /// The index of the document that answers it.
    answer: usize,
}

/// The answers stand in different places, so that no fixed order is right.
const QUESTIONS: [Question; 4] = [
    Question {
        query: "What is the capital of France?",
        documents: [
            "A violin has four strings and is played with a bow.",
            "The capital of France is Paris.",
            "Bread rises because yeast makes gas in the dough.",
        ],
        answer: 1,
    },
    Question {
        query: "how do I reset my password",
        documents: [
            "To reset your password, open the settings, choose Security, and follow the link in the email.",
            "Penguins live in the southern hemisphere and cannot fly.",
            "The recipe needs two eggs, flour and a spoon of sugar.",
        ],
        answer: 0,
    },
    Question {
        query: "Why is the sky blue?",
        documents: [
            "The train to the airport leaves every twenty minutes.",
            "A chess game begins with sixteen pieces on each side.",
            "The sky is blue because air scatters blue light more than red light.",
        ],
        answer: 2,
    },
    Question {
        query: "symptoms of the flu",
        documents: [
            "The museum is closed on Mondays and on public holidays.",
            "Common symptoms of the flu are fever, cough, a sore throat and muscle pain.",
            "Steel is an alloy of iron and carbon.",
        ],
        answer: 1,
    },
];

/// Scores of one question that differ by less than this part of the largest are equal.
const EQUAL: f32 = 1e-5;

/// Relevances nearer than this to 0 or 1 are saturated.
const SATURATED: f32 = 1e-6;

/// How a model answered the canary's questions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CanaryReport {
    /// Questions whose answer the model ranked first.
    pub right: usize,
    /// All questions, each counted for every mode that the model ranks in.
    pub questions: usize,
    /// The problem, where not all are right.
    pub warning: Option<String>,
    /// Time that the questions took.
    pub time: Duration,
}

/// A model that does not rank.
#[derive(Debug, thiserror::Error)]
pub enum CanaryError {
    /// A ranking failed, for example because a score is not finite.
    #[error("its first ranking failed")]
    Ranking(#[from] RerankError),
    /// The scores mean nothing.
    #[error(
        "its scores mean nothing: {problem}; wrong family or head? `--family` names another family; a head that was not \
         trained or not converted needs another checkpoint"
    )]
    Meaningless {
        /// The problem, with the scores.
        problem: String,
    },
}

/// The scores of one question's documents, in their order.
#[derive(Debug, Clone, PartialEq)]
struct Scores {
    query: &'static str,
    answer: usize,
    relevance: Vec<f32>,
    raw: Vec<f32>,
}

impl Reranker {
    /// Asks the canary's questions, and keeps the report. No limit on requests rejects them, and
    /// the measured throughput does not change. Logs a warning for a model that ranks wrongly.
    ///
    /// # Errors
    /// [`CanaryError`] for a model that cannot rank, or whose scores are equal or saturated.
    pub async fn run_canary(&self) -> Result<&CanaryReport, CanaryError> {
        let started = Instant::now();
        let facts = self.prompter.facts();
        let has_both = facts.listwise.is_some() && facts.pointwise.is_some();
        let modes: &[Mode] = if has_both { &[Mode::Listwise, Mode::Pointwise] } else { &[Mode::Auto] };
        let mut answers = Vec::new();
        for &mode in modes {
            let mut scores = Vec::new();
            for question in &QUESTIONS {
                scores.push(self.ask(question, mode).await?);
            }
            find_meaningless(&scores)?;
            answers.extend(scores);
        }
        let right = answers.iter().filter(|scores| scores.is_right()).count();
        let warning = describe_wrong(&answers);
        if let Some(problem) = &warning {
            tracing::warn!(model = self.name(), family = self.family(), "this model ranks wrongly: {problem}");
        }
        let report = CanaryReport { right, questions: answers.len(), warning, time: started.elapsed() };
        Ok(self.canary.get_or_init(|| report))
    }

    /// The report of [`Reranker::run_canary`], if it ran.
    #[must_use]
    pub fn canary(&self) -> Option<&CanaryReport> {
        self.canary.get()
    }

    async fn ask(&self, question: &Question, mode: Mode) -> Result<Scores, RerankError> {
        let documents = question.documents.map(str::to_owned).to_vec();
        let request = RerankRequest { mode, ..RerankRequest::new(question.query, documents) };
        let limits = self.policy().limits.clone();
        let permit = self.scheduler.admit_warm_up(estimate(&request, &self.prompter, &limits, 1));
        let (_context, rankings) =
            self.rank(Lists::Requests(vec![request]), &limits, permit, RequestContext::internal()).await?;
        let mut results = rankings.into_iter().flat_map(|ranking| ranking.results).collect::<Vec<_>>();
        results.sort_by_key(|result| result.index);
        Ok(Scores {
            query: question.query,
            answer: question.answer,
            relevance: results.iter().map(|result| result.relevance_score).collect(),
            raw: results.iter().map(|result| result.raw_score).collect(),
        })
    }
}

impl Scores {
    /// The sort key of a document: relevance, then the raw score.
    fn key(&self, document: usize) -> (f32, f32) {
        (self.relevance[document], self.raw[document])
    }

    fn others(&self) -> impl Iterator<Item = (f32, f32)> {
        (0..self.raw.len()).filter(|index| *index != self.answer).map(|index| self.key(index))
    }

    /// Whether the answer is first, and no other document scores the same.
    fn is_right(&self) -> bool {
        self.others().all(|other| other < self.key(self.answer))
    }

    /// Whether the answer is last, and no other document scores the same.
    fn is_reversed(&self) -> bool {
        self.others().all(|other| other > self.key(self.answer))
    }

    /// Whether the scores do not depend on the document.
    fn is_equal(&self) -> bool {
        let highest = self.raw.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let lowest = self.raw.iter().copied().fold(f32::INFINITY, f32::min);
        highest - lowest <= EQUAL * highest.abs().max(1.0)
    }

    fn listed(&self) -> String {
        format!("relevance {:?} (raw scores {:?}) for the documents of \"{}\"", self.relevance, self.raw, self.query)
    }
}

/// Refuses scores that are the same for every document of a question, and relevances that are all
/// 0 or all 1, unless the raw scores still give the right order.
fn find_meaningless(answers: &[Scores]) -> Result<(), CanaryError> {
    let seen = answers.first().map(Scores::listed).unwrap_or_default();
    if answers.iter().all(Scores::is_equal) {
        let problem = format!("they do not depend on the document: {seen}, of which only one answers it");
        return Err(CanaryError::Meaningless { problem });
    }
    let relevance = || answers.iter().flat_map(|scores| &scores.relevance);
    let saturated = relevance().all(|&value| value <= SATURATED) || relevance().all(|&value| value >= 1.0 - SATURATED);
    if saturated && !answers.iter().all(Scores::is_right) {
        return Err(CanaryError::Meaningless { problem: format!("all of them are saturated: {seen}") });
    }
    Ok(())
}

/// The problem of the order of the answers.
fn describe_wrong(answers: &[Scores]) -> Option<String> {
    let first = answers.iter().find(|scores| !scores.is_right())?;
    let (right, all) = (answers.iter().filter(|scores| scores.is_right()).count(), answers.len());
    let cause = if answers.iter().all(Scores::is_reversed) {
        "it ranks the answer last in all of them: the sign of the head, or the order of yes and no, is probably swapped"
    } else {
        "check the family (--family), the head and the tokenizer"
    };
    Some(format!(
        "it ranks the answer first in {right} of {all} simple questions; {cause}; {}, of which document {} answers it",
        first.listed(),
        first.answer
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The scores of all questions; `raw` gives those of the answer and of the others.
    fn scores(raw: impl Fn(usize, bool) -> f32, relevance: impl Fn(f32) -> f32) -> Vec<Scores> {
        let of = |(number, question): (usize, &Question)| {
            let raw: Vec<f32> = (0..3).map(|index| raw(number, index == question.answer)).collect();
            let relevance = raw.iter().map(|&score| relevance(score)).collect();
            Scores { query: question.query, answer: question.answer, relevance, raw }
        };
        QUESTIONS.iter().enumerate().map(of).collect()
    }

    fn sigmoid(value: f32) -> f32 {
        1.0 / (1.0 + (-value).exp())
    }

    #[test]
    fn a_model_that_answers_the_questions_raises_no_warning() {
        let answers = scores(|_, is_answer| if is_answer { 8.6 } else { -4.3 }, sigmoid);
        find_meaningless(&answers).unwrap();
        assert_eq!(describe_wrong(&answers), None);
    }

    #[test]
    fn scores_that_do_not_depend_on_the_document_are_refused() {
        // By a bias alone, and by the query alone.
        for step in [0.0, 1.0] {
            let raw = |number: usize| -0.203 + step * number as f32;
            let error = find_meaningless(&scores(|number, _| raw(number), sigmoid)).unwrap_err().to_string();
            assert!(error.starts_with("its scores mean nothing: they do not depend on the document: "), "{error}");
            assert!(error.contains("wrong family or head?"), "{error}");
        }
        let nearly = scores(|_, is_answer| if is_answer { 0.501 } else { 0.5 }, sigmoid);
        find_meaningless(&nearly).unwrap();
    }

    #[test]
    fn saturated_scores_are_refused_unless_the_raw_order_is_right() {
        let wrong = scores(|number, is_answer| if is_answer { -60.0 } else { -50.0 - number as f32 }, sigmoid);
        let error = find_meaningless(&wrong).unwrap_err().to_string();
        assert!(error.contains("all of them are saturated: relevance [") && error.contains("-60.0"), "{error}");
        let ones = scores(|number, is_answer| if is_answer { 40.0 } else { 50.0 + number as f32 }, sigmoid);
        assert!(find_meaningless(&ones).is_err());
        let right = scores(|_, is_answer| if is_answer { -50.0 } else { -60.0 }, sigmoid);
        find_meaningless(&right).unwrap();
    }

    #[test]
    fn a_wrong_order_and_a_reversed_one_are_told_apart() {
        let some = scores(|number, is_answer| if is_answer == (number > 0) { 1.0 } else { 0.0 }, sigmoid);
        let problem = describe_wrong(&some).unwrap();
        assert!(
            problem.starts_with("it ranks the answer first in 3 of 4 simple questions; check the family"),
            "{problem}"
        );
        assert!(problem.ends_with("What is the capital of France?\", of which document 1 answers it"), "{problem}");
        let reversed = describe_wrong(&scores(|_, is_answer| if is_answer { -1.0 } else { 1.0 }, sigmoid)).unwrap();
        assert!(reversed.contains("0 of 4") && reversed.contains("probably swapped"), "{reversed}");
    }
}
