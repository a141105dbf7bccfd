//! Reads files line by line, also files compressed with gzip; errors have the file and the line
//! number.

use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;

use super::DataError;

/// Calls `read_line` with the number and the text of every line that is not blank, without its line
/// end and the byte order mark.
///
/// # Errors
/// [`DataError`] for an unreadable file, or the first error that `read_line` returns.
pub(super) fn for_each_line(
    path: &Path,
    mut read_line: impl FnMut(usize, &str) -> Result<(), String>,
) -> Result<(), DataError> {
    let unreadable = |cause| DataError::Unreadable { path: path.to_owned(), cause };
    for (index, line) in open(path).map_err(unreadable)?.lines().enumerate() {
        let number = index + 1;
        let invalid = |problem| DataError::Line { file: path.to_owned(), line: number, problem };
        let line = line.map_err(|cause| {
            if cause.kind() == ErrorKind::InvalidData { invalid("is not UTF-8".to_owned()) } else { unreadable(cause) }
        })?;
        let line = if index == 0 { line.trim_start_matches('\u{feff}') } else { &line };
        if !line.trim().is_empty() {
            read_line(number, line).map_err(invalid)?;
        }
    }
    Ok(())
}

/// Whether the file begins with these bytes.
pub(super) fn starts_with(path: &Path, bytes: &[u8]) -> io::Result<bool> {
    Ok(BufReader::new(File::open(path)?).fill_buf()?.starts_with(bytes))
}

/// Opens a file, and decompresses it if it begins as gzip does.
fn open(path: &Path) -> io::Result<Box<dyn BufRead>> {
    let mut file = BufReader::new(File::open(path)?);
    let is_gzip = file.fill_buf()?.starts_with(&[0x1f, 0x8b]);
    Ok(if is_gzip { Box::new(BufReader::new(MultiGzDecoder::new(file))) } else { Box::new(file) })
}

/// Splits a line into columns: at tabs if it has any, otherwise at white space.
pub(super) fn split_columns(line: &str) -> Vec<&str> {
    if line.contains('\t') { line.split('\t').map(str::trim).collect() } else { line.split_whitespace().collect() }
}

/// Parses a finite number; `what` names it in the error.
pub(super) fn parse_number(what: &str, text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|value: &f64| value.is_finite())
        .ok_or_else(|| format!("the {what} {text:?} is not a number"))
}
