//! Files that are read line by line: what is wrong with a line is said with the file and the number.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind};
use std::path::Path;

use super::DataError;

/// Calls `take` with every line that is not blank, without line end and byte order mark.
///
/// # Errors
/// A file that cannot be read, and the first line for which `take` returns a problem.
pub(super) fn for_each_line(
    path: &Path,
    mut take: impl FnMut(usize, &str) -> Result<(), String>,
) -> Result<(), DataError> {
    let unreadable = |cause| DataError::Unreadable { path: path.to_owned(), cause };
    let file = File::open(path).map_err(unreadable)?;
    for (index, line) in BufReader::new(file).lines().enumerate() {
        let number = index + 1;
        let refuse = |problem| DataError::Line { file: path.to_owned(), line: number, problem };
        let line = line.map_err(|cause| {
            if cause.kind() == ErrorKind::InvalidData { refuse("is not UTF-8".to_owned()) } else { unreadable(cause) }
        })?;
        let line = if index == 0 { line.trim_start_matches('\u{feff}') } else { &line };
        if !line.trim().is_empty() {
            take(number, line).map_err(refuse)?;
        }
    }
    Ok(())
}

/// The columns of a line: between tabs where a line has any, else between blanks.
pub(super) fn columns(line: &str) -> Vec<&str> {
    if line.contains('\t') { line.split('\t').map(str::trim).collect() } else { line.split_whitespace().collect() }
}

/// A finite number.
pub(super) fn number(what: &str, text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|value: &f64| value.is_finite()).ok_or_else(|| format!("the {what} {text:?} is no number"))
}
