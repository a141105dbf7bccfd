//! Pointwise scores: the logits of one or two answers after each document's prompt.
//!
//! raw = logit(positive) - logit(negative), or logit(positive) where the family has no negative;
//! relevance = sigmoid(scale raw + bias). Qwen3-Reranker: `sigmoid(yes - no)`, which is the softmax
//! of the two. mxbai-rerank-v2: `sigmoid(1 - 0 + bias)`, of the logits of the tokens "1" and "0",
//! with a bias of -4.5 or -6 by checkpoint. zerank: `sigmoid(Yes / 5)`.

use crate::prompt::Calibration;

use super::sigmoid;

/// The raw score: the logits of the answers are given positive first.
#[must_use]
pub fn raw(logits: &[f32]) -> f32 {
    match logits {
        [positive, negative, ..] => positive - negative,
        [positive] => *positive,
        [] => f32::NAN,
    }
}

/// Turns a raw score into a relevance.
#[must_use]
pub fn relevance(raw: f32, calibration: Calibration) -> f32 {
    sigmoid(calibration.scale * raw + calibration.bias)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(left: f32, right: f32) -> bool {
        (left - right).abs() < 1e-6
    }

    #[test]
    fn two_answers_are_their_softmax() {
        let (yes, no) = (1.25_f32, -0.5_f32);
        let softmax = yes.exp() / (yes.exp() + no.exp());
        assert!(close(relevance(raw(&[yes, no]), Calibration { scale: 1.0, bias: 0.0 }), softmax));
    }

    #[test]
    fn a_single_answer_is_scaled() {
        assert!(close(relevance(raw(&[5.0]), Calibration { scale: 0.2, bias: 0.0 }), sigmoid(1.0)));
        assert!(raw(&[]).is_nan());
    }
}
