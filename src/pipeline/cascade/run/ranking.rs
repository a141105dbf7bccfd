//! The ranking of all stages together.

use std::sync::Arc;

use super::CascadeRun;
use crate::context::RequestContext;
use crate::rerank::cascade::scale_down_earlier_stages;
use crate::rerank::{BudgetReport, CascadeReport, RankedDocument, Ranking, SkipReason, Usage};

impl CascadeRun {
    /// Puts the ranking together. Scores fall along it.
    pub(super) fn into_ranking(mut self, context: &RequestContext) -> (Ranking, CascadeReport) {
        scale_down_earlier_stages(&mut self.order);
        let last = self.ranked_by.and_then(|index| self.stages[index].ready.as_ref().ok());
        let last = last.map(|ready| Arc::clone(&ready.reranker));
        let count = self.documents.len();
        let read = self.order.iter().filter(|document| document.stage != Some(0)).count();
        let truncated = |document: &&RankedDocument| document.tokens_read > 0 && document.truncated();
        let usage =
            Usage { prompt_tokens: self.tokens, truncated_documents: self.order.iter().filter(truncated).count() };
        let budget = self.request.constraints.budget.is_set().then(|| BudgetReport {
            tokens_per_document: self.tokens_per_document,
            documents_read: read,
            documents_left_in_input_order: count - read,
            reason: self.budget_reasons.join("; "),
        });
        if budget.is_some() && self.reports.iter().any(|report| report.skipped == Some(SkipReason::Budget)) {
            let skipped = self.reports.iter().filter(|report| report.skipped == Some(SkipReason::Budget));
            let skipped: Vec<String> = skipped.map(|report| report.stage.to_string()).collect();
            self.warnings.push(format!("budget: nothing was left for stage {}", skipped.join(", ")));
        }
        let report = CascadeReport { tokens_saved: self.tokens_saved(), name: self.name, stages: self.reports };
        let timing = context.timeline.timing(context.received_at.elapsed());
        let mut ranking = Ranking {
            results: self.order,
            documents: count,
            model: self.request.model.as_deref().unwrap_or_default().to_owned(),
            profile: self.profile,
            mode: self.mode,
            slates: self.slates,
            passages: self.passages,
            usage,
            warnings: self.warnings,
            min_score: None,
            budget,
            early_exit: self.early_exit,
            cascade: Some(report.clone()),
            timing,
        };
        if let Some(last) = last {
            last.select(&mut ranking, self.min_score, self.request.top_n);
        }
        (ranking, report)
    }

    /// Estimate of the tokens of documents that the last model did not read, because the stages
    /// before it chose others.
    fn tokens_saved(&self) -> usize {
        let all = self.documents.len();
        let Some(last) = self.reports.last() else { return 0 };
        match last.skipped {
            None => last.tokens * (all - last.documents) / last.documents.max(1),
            Some(SkipReason::NotLoaded | SkipReason::Failed) => 0,
            Some(SkipReason::KeepsAll | SkipReason::Sure | SkipReason::Budget) => {
                self.tokens_of(self.stages.len() - 1, all)
            }
        }
    }
}
