//! How far numbers are from the expected ones.

use std::fmt::Write;

/// The largest difference over two lists of rows of the same shape.
pub fn largest(found: &[Vec<f32>], expected: &[Vec<f32>]) -> f32 {
    assert_eq!(found.len(), expected.len(), "rows");
    let rows = found.iter().zip(expected);
    rows.map(|(found, expected)| largest_of_row(found, expected)).fold(0.0, f32::max)
}

/// The largest difference over two rows of the same length.
pub fn largest_of_row(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len(), "columns");
    let differences = found.iter().zip(expected).map(|(found, expected)| (found - expected).abs());
    // Not f32::max alone, which would drop a NaN.
    differences.fold(0.0, |most, next| if next.is_nan() || next > most { next } else { most })
}

/// Deviations by what was compared, printed as a table.
#[derive(Default)]
pub struct Table {
    rows: Vec<(String, String, String, f32)>,
}

impl Table {
    /// Notes one comparison; the larger one stays where there was one of the same name.
    pub fn note(&mut self, what: &str, shape: &str, quantity: &str, deviation: f32) {
        let known = self.rows.iter_mut().find(|row| row.0 == what && row.1 == shape && row.2 == quantity);
        match known {
            Some(row) => row.3 = if deviation.is_nan() { deviation } else { row.3.max(deviation) },
            None => self.rows.push((what.into(), shape.into(), quantity.into(), deviation)),
        }
    }

    /// Asserts that every deviation is at most `tolerance`.
    pub fn assert_within(&self, tolerance: f32) {
        let far: Vec<_> = self.rows.iter().filter(|row| row.3.is_nan() || row.3 > tolerance).collect();
        assert!(far.is_empty(), "over {tolerance:e}: {far:#?}\nof\n{}", self.to_text());
    }

    /// One line for each comparison.
    pub fn to_text(&self) -> String {
        let width = |of: fn(&(String, String, String, f32)) -> &String| self.rows.iter().map(|row| of(row).len()).max();
        let (what, shape) = (width(|row| &row.0).unwrap_or(0), width(|row| &row.1).unwrap_or(0));
        let quantity = width(|row| &row.2).unwrap_or(0);
        let mut text = String::new();
        for row in &self.rows {
            let _ = writeln!(text, "{:what$}  {:shape$}  {:quantity$}  {:.1e}", row.0, row.1, row.2, row.3);
        }
        text
    }
}
