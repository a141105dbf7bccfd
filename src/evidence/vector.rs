//! Operations on vectors of f32.

/// Sums that run side by side, so that the compiler can use vector instructions.
const LANES: usize = 16;

/// The sum of products.
pub(super) fn dot(left: &[f32], right: &[f32]) -> f32 {
    let mut sums = [0.0_f32; LANES];
    let (left, left_rest) = left.as_chunks::<LANES>();
    let (right, right_rest) = right.as_chunks::<LANES>();
    for (left, right) in left.iter().zip(right) {
        for lane in 0..LANES {
            sums[lane] += left[lane] * right[lane];
        }
    }
    let rest: f32 = left_rest.iter().zip(right_rest).map(|(left, right)| left * right).sum();
    sums.iter().sum::<f32>() + rest
}

/// Adds a vector to sums.
pub(super) fn add(sums: &mut [f32], values: &[f32]) {
    sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
}

/// Divides a vector by its length; a vector of zeros stays.
pub(super) fn make_unit(vector: &mut [f32]) {
    let length = dot(vector, vector).sqrt();
    if length > 0.0 {
        for value in vector {
            *value /= length;
        }
    }
}

/// The mean of states of `width` numbers.
pub(super) fn mean(states: &[f32], width: usize) -> Vec<f32> {
    let mut sums = vec![0.0; width];
    states.chunks_exact(width).for_each(|state| add(&mut sums, state));
    let count = (states.len() / width).max(1) as f32;
    for sum in &mut sums {
        *sum /= count;
    }
    sums
}

/// Probabilities in proportion to the exponentials.
pub(super) fn softmax(values: &[f32]) -> Vec<f32> {
    let highest = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f32> = values.iter().map(|value| (value - highest).exp()).collect();
    let sum: f32 = powers.iter().sum();
    powers.into_iter().map(|power| power / sum).collect()
}
