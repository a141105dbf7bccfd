//! Quality against cost: what each compared system reaches, and what it takes for that.
//!
//! A system is whatever a report was made with: a model, the same model with passages, a cascade
//! with another `keep`, an early exit after another layer.

use serde::Serialize;

use super::report::Report;
use super::statistics::mean;

/// How much quality a cheaper system may lack to be recommended.
const TOLERANCE: f64 = 0.01;

/// Quality and cost of several systems on the same sets.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PriceTable {
    /// The measure by which costs are compared.
    pub cost: Cost,
    /// The systems, in the order of the reports.
    pub points: Vec<PricePoint>,
    /// The index of the cheapest system within .01 of the best quality.
    pub recommended: usize,
}

/// A cost of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cost {
    /// Tokens through the model; where every system reports them.
    Tokens,
    /// Milliseconds.
    Milliseconds,
}

/// Quality and cost of one system: means over the sets.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PricePoint {
    /// The system's name.
    pub system: String,
    /// The mean of the measure.
    pub quality: f64,
    /// Tokens of a request through all layers; `None` if the system does not report them. Tokens
    /// that left early count by the share of the layers that was computed for them.
    pub tokens: Option<f64>,
    /// Milliseconds of a request.
    pub milliseconds: f64,
    /// Whether no other system is as good and cheaper, or better and as cheap.
    pub is_efficient: bool,
}

impl PricePoint {
    fn cost(&self, cost: Cost) -> f64 {
        match cost {
            Cost::Tokens => self.tokens.unwrap_or(f64::INFINITY),
            Cost::Milliseconds => self.milliseconds,
        }
    }
}

impl PriceTable {
    /// The table of systems with these names and qualities.
    #[must_use]
    pub fn new<'a>(systems: &[String], qualities: &[f64], reports: impl IntoIterator<Item = &'a Report>) -> Self {
        let mut points: Vec<PricePoint> = systems
            .iter()
            .zip(qualities)
            .zip(reports)
            .map(|((system, quality), report)| PricePoint {
                system: system.clone(),
                quality: *quality,
                tokens: tokens_per_request(report),
                milliseconds: mean(&report.sets.iter().map(|set| set.latency_ms.mean).collect::<Vec<_>>()),
                is_efficient: false,
            })
            .collect();
        let has_tokens = points.iter().all(|point| point.tokens.is_some());
        let cost = if has_tokens { Cost::Tokens } else { Cost::Milliseconds };
        let place: Vec<(f64, f64)> = points.iter().map(|point| (point.quality, point.cost(cost))).collect();
        for (point, (quality, price)) in points.iter_mut().zip(&place) {
            let is_beaten_by = |(other_quality, other_price): &(f64, f64)| {
                other_quality >= quality && other_price <= price && (other_quality > quality || other_price < price)
            };
            point.is_efficient = !place.iter().any(is_beaten_by);
        }
        let best = place.iter().map(|(quality, _)| *quality).fold(f64::NEG_INFINITY, f64::max);
        let good_enough = place.iter().enumerate().filter(|(_, (quality, _))| *quality >= best - TOLERANCE);
        let recommended = good_enough.min_by(|(_, a), (_, b)| a.1.total_cmp(&b.1)).map_or(0, |(index, _)| index);
        Self { cost, points, recommended }
    }
}

/// The mean over the sets; `None` if one of them has no count.
fn tokens_per_request(report: &Report) -> Option<f64> {
    let tokens: Option<Vec<f64>> =
        report.sets.iter().map(|set| set.tokens.map(|tokens| tokens.per_request.mean)).collect();
    tokens.map(|tokens| mean(&tokens))
}

#[cfg(test)]
mod tests {
    use super::super::report::{Distribution, Tokens};
    use super::super::testing::report;
    use super::*;

    fn costing(tokens: f64, milliseconds: f64) -> Report {
        let mut report = report(&[("a", 0.9)]);
        let distribution = Distribution { mean: tokens, p50: tokens, p95: tokens, max: tokens };
        report.sets[0].tokens = Some(Tokens { per_request: distribution, per_document: distribution, per_second: 1.0 });
        report.sets[0].latency_ms.mean = milliseconds;
        report
    }

    fn table(systems: &[(f64, f64, f64)]) -> PriceTable {
        let names: Vec<String> = systems.iter().enumerate().map(|(index, _)| format!("s{index}")).collect();
        let qualities: Vec<f64> = systems.iter().map(|(quality, _, _)| *quality).collect();
        let reports: Vec<Report> = systems.iter().map(|(_, tokens, time)| costing(*tokens, *time)).collect();
        PriceTable::new(&names, &qualities, &reports)
    }

    #[test]
    fn the_cheapest_system_close_to_the_best_is_recommended() {
        let found = table(&[(0.70, 9000.0, 90.0), (0.695, 3000.0, 30.0), (0.66, 1000.0, 10.0), (0.69, 5000.0, 50.0)]);
        assert_eq!((found.cost, found.recommended), (Cost::Tokens, 1));
        let efficient: Vec<bool> = found.points.iter().map(|point| point.is_efficient).collect();
        assert_eq!(efficient, [true, true, true, false], "the last is worse and dearer than the second");
    }

    #[test]
    fn without_token_counts_the_time_decides() {
        let reports = [costing(1.0, 50.0), {
            let mut other = costing(1.0, 20.0);
            other.sets[0].tokens = None;
            other
        }];
        let found = PriceTable::new(&["a".to_owned(), "b".to_owned()], &[0.5, 0.5], &reports);
        assert_eq!((found.cost, found.recommended, found.points[1].tokens), (Cost::Milliseconds, 1, None));
    }
}
