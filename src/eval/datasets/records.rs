//! Reads files record by record: lines of JSON or of columns, or the rows of Parquet files. A table
//! of a set may be split into several files.

use std::fmt;
use std::path::{Path, PathBuf};

use super::DataError;
use super::lines::{for_each_line, starts_with};
use super::object::Object;
use super::parquet::{self, for_each_row};

/// A record of a file.
pub(super) enum Record<'a> {
    /// The fields of a line of JSON, or of a row of a Parquet file.
    Fields(Object),
    /// A line of another file.
    Line(&'a str),
}

/// The place of a record.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    /// The file.
    pub(super) file: &'a Path,
    /// The number of the line or row, from 1.
    pub(super) number: usize,
}

/// The files of a table, in order: usually one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableFiles(Vec<PathBuf>);

impl TableFiles {
    /// The shards of a table. At least one.
    pub(super) fn new(shards: Vec<PathBuf>) -> Self {
        Self(shards)
    }

    /// Calls `read_record` with every record and its place. A file is JSONL if its first character
    /// is `{`.
    ///
    /// # Errors
    /// [`DataError`] for an unreadable file, an invalid line or row, or the first error that
    /// `read_record` returns.
    pub(super) fn for_each_record(
        &self,
        mut read_record: impl FnMut(Place, Record) -> Result<(), String>,
    ) -> Result<(), DataError> {
        for file in &self.0 {
            let unreadable = |cause| DataError::Unreadable { path: file.clone(), cause };
            if starts_with(file, parquet::MAGIC).map_err(unreadable)? {
                for_each_row(file, |number, row| read_record(Place { file, number }, Record::Fields(row)))?;
                continue;
            }
            let mut is_json = None;
            for_each_line(file, |number, line| {
                let is_json = *is_json.get_or_insert_with(|| line.trim_start().starts_with('{'));
                let record = if is_json { Record::Fields(Object::parse(line)?) } else { Record::Line(line) };
                read_record(Place { file, number }, record)
            })?;
        }
        Ok(())
    }

    /// The file for messages about the table: the only one, or the folder of its shards.
    pub(super) fn path(&self) -> &Path {
        match &self.0[..] {
            [only] => only,
            shards => shards.first().and_then(|shard| shard.parent()).unwrap_or(Path::new("")),
        }
    }
}

impl From<PathBuf> for TableFiles {
    fn from(file: PathBuf) -> Self {
        Self(vec![file])
    }
}

impl fmt::Display for TableFiles {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path().display().fmt(formatter)
    }
}
