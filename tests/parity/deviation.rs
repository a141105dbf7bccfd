//! How far numbers are from the expected ones.

use std::collections::BTreeSet;

use comfy_table::presets::NOTHING;

/// The largest difference over two lists of rows of the same shape.
pub fn largest(found: &[Vec<f32>], expected: &[Vec<f32>]) -> f32 {
    most(found, expected, |found, expected| largest_of_row(found, expected))
}

/// The same in units of the expected number, where that is over 1.
pub fn largest_relative(found: &[Vec<f32>], expected: &[Vec<f32>]) -> f32 {
    most(found, expected, |found, expected| largest_relative_of_row(found, expected))
}

/// The largest difference over two rows.
pub fn largest_of_row(found: &[f32], expected: &[f32]) -> f32 {
    most(found, expected, |found, expected| (found - expected).abs())
}

/// The same in units of the expected number, where that is over 1.
pub fn largest_relative_of_row(found: &[f32], expected: &[f32]) -> f32 {
    most(found, expected, |found, expected| (found - expected).abs() / expected.abs().max(1.0))
}

fn most<T>(found: &[T], expected: &[T], difference: impl Fn(&T, &T) -> f32) -> f32 {
    assert_eq!(found.len(), expected.len(), "as many numbers as are expected");
    found.iter().zip(expected).fold(0.0, |most, (found, expected)| larger(most, difference(found, expected)))
}

/// Unlike `f32::max`, this keeps a NaN.
fn larger(known: f32, next: f32) -> f32 {
    if known.is_nan() || known >= next { known } else { next }
}

/// The largest deviation by what was compared and by quantity.
#[derive(Default)]
pub struct Table {
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    what: String,
    shape: String,
    quantity: &'static str,
    deviation: f32,
}

impl Table {
    /// Notes one comparison.
    pub fn note(&mut self, what: &str, shape: &str, quantity: &'static str, deviation: f32) {
        let known = self.rows.iter_mut().find(|row| row.what == what && row.shape == shape && row.quantity == quantity);
        match known {
            Some(row) => row.deviation = larger(row.deviation, deviation),
            None => self.rows.push(Row { what: what.into(), shape: shape.into(), quantity, deviation }),
        }
    }

    /// Asserts that every deviation is at most `tolerance`.
    pub fn assert_within(&self, tolerance: f32) {
        let far: Vec<_> = self.rows.iter().filter(|row| row.deviation.is_nan() || row.deviation > tolerance).collect();
        assert!(far.is_empty(), "over {tolerance:e}: {far:#?}\nof\n{}", self.to_text());
    }

    /// A line for each thing compared, a column for each quantity.
    pub fn to_text(&self) -> String {
        let mut quantities: Vec<&str> = Vec::new();
        for row in &self.rows {
            if !quantities.contains(&row.quantity) {
                quantities.push(row.quantity);
            }
        }
        let mut table = comfy_table::Table::new();
        table.load_preset(NOTHING).set_header(["case", "shape"].iter().chain(&quantities));
        let mut printed = BTreeSet::new();
        for Row { what, shape, .. } in &self.rows {
            if !printed.insert((what, shape)) {
                continue;
            }
            let of = |quantity: &&str| {
                let row =
                    self.rows.iter().find(|row| (&row.what, &row.shape, &row.quantity) == (what, shape, quantity));
                row.map_or(String::new(), |row| format!("{:.1e}", row.deviation))
            };
            table.add_row([what.clone(), shape.clone()].into_iter().chain(quantities.iter().map(of)));
        }
        table.trim_fmt()
    }
}
