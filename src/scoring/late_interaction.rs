//! Late interaction: a document's score is the cosine of its vector and the query's, both read at
//! marks of the same pass. Several slates are merged by a common query vector.
//!
//! Formulas (in f32, as in jina-reranker-v3's reference): for each slate `b` with document vectors
//! `D`, query vector `q_b` and cosines `s = cos(D, q_b)`, the weight `w_b = max (1 + s) / 2`; the
//! merged query `Q = sum(w_b q_b) / sum(w_b)`, of raw vectors; the score of every document of every
//! slate is `cos(D, Q)`. With one slate that is `s`.

use crate::prompt::Relevance;

use super::sigmoid;

/// The lower bound of a norm in torch's cosine.
const EPSILON: f32 = 1e-8;

/// The vectors of one slate.
#[derive(Debug, Clone, PartialEq)]
pub struct SlateVectors {
    /// The projected state of each document, all of one width.
    pub documents: Vec<Vec<f32>>,
    /// The projected state of the query.
    pub query: Vec<f32>,
}

/// x.y / (|x| |y|), each norm at least 1e-8.
#[must_use]
pub fn cosine(left: &[f32], right: &[f32]) -> f32 {
    let norm = |vector: &[f32]| dot(vector, vector).sqrt().max(EPSILON);
    dot(left, right) / (norm(left) * norm(right))
}

fn dot(left: &[f32], right: &[f32]) -> f32 {
    left.iter().zip(right).map(|(left, right)| left * right).sum()
}

/// The cosines of a slate's documents with its own query.
#[must_use]
pub fn own_cosines(slate: &SlateVectors) -> Vec<f32> {
    slate.documents.iter().map(|document| cosine(document, &slate.query)).collect()
}

/// The cosines of all slates' documents with the merged query, slate by slate.
#[must_use]
pub fn merged_cosines(slates: &[SlateVectors]) -> Vec<Vec<f32>> {
    let Some(first) = slates.first() else { return Vec::new() };
    let mut weights: Vec<f32> = slates
        .iter()
        .map(|slate| own_cosines(slate).into_iter().map(|cosine| f32::midpoint(1.0, cosine)).fold(0.0, f32::max))
        .collect();
    if weights.iter().sum::<f32>() <= 0.0 {
        // Every document is opposite to its query: all slates weigh the same.
        weights.fill(1.0);
    }
    let total: f32 = weights.iter().sum();
    let mut query = vec![0.0; first.query.len()];
    for (slate, weight) in slates.iter().zip(&weights) {
        for (sum, value) in query.iter_mut().zip(&slate.query) {
            *sum += weight * value;
        }
    }
    for sum in &mut query {
        *sum /= total;
    }
    slates.iter().map(|slate| slate.documents.iter().map(|document| cosine(document, &query)).collect()).collect()
}

/// Turns a cosine into a relevance in [0, 1].
#[must_use]
pub fn relevance(cosine: f32, formula: Relevance) -> f32 {
    match formula {
        Relevance::HalfShift => f32::midpoint(1.0, cosine).clamp(0.0, 1.0),
        Relevance::Sigmoid(calibration) => sigmoid(calibration.scale * cosine + calibration.bias),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompt::Calibration;

    fn close(left: f32, right: f32) -> bool {
        (left - right).abs() < 1e-6
    }

    #[test]
    fn a_cosine_equals_torchs_also_for_a_zero_vector() {
        assert!(close(cosine(&[1.0, 0.0], &[2.0, 2.0]), std::f32::consts::FRAC_1_SQRT_2));
        assert!(close(cosine(&[0.0, 0.0], &[2.0, 2.0]), 0.0));
    }

    #[test]
    fn one_slate_keeps_its_own_cosines() {
        let slate = SlateVectors { documents: vec![vec![1.0, 0.5], vec![-1.0, 2.0]], query: vec![0.3, 0.7] };
        let merged = merged_cosines(std::slice::from_ref(&slate));
        for (merged, own) in merged[0].iter().zip(own_cosines(&slate)) {
            assert!(close(*merged, own));
        }
    }

    #[test]
    fn slates_merge_by_their_best_document() {
        // Slate 0: cosines 1 and 0, weight 1. Slate 1: cosine 0, weight 1/2.
        let slates = [
            SlateVectors { documents: vec![vec![2.0, 0.0], vec![0.0, 3.0]], query: vec![1.0, 0.0] },
            SlateVectors { documents: vec![vec![1.0, 0.0]], query: vec![0.0, 4.0] },
        ];
        // Q = (1 * (1, 0) + 0.5 * (0, 4)) / 1.5 = (2/3, 4/3)
        let norm = 5.0_f32.sqrt();
        let merged = merged_cosines(&slates);
        assert!(close(merged[0][0], 1.0 / norm) && close(merged[0][1], 2.0 / norm) && close(merged[1][0], 1.0 / norm));
    }

    #[test]
    fn opposite_documents_do_not_divide_by_zero() {
        let slate = SlateVectors { documents: vec![vec![-1.0]], query: vec![1.0] };
        assert!(close(merged_cosines(&[slate.clone(), slate])[1][0], -1.0));
    }

    #[test]
    fn relevance_lies_between_0_and_1() {
        assert!(close(relevance(-1.0, Relevance::HalfShift), 0.0) && close(relevance(1.0, Relevance::HalfShift), 1.0));
        assert!(relevance(1.000_001, Relevance::HalfShift) <= 1.0);
        let calibrated = Relevance::Sigmoid(Calibration { scale: 8.0, bias: -3.0 });
        assert!(close(relevance(0.375, calibrated), 0.5));
    }
}
