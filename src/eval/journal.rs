//! The finished queries of a run, one JSON line each, so that a run that was interrupted can be
//! continued.
//!
//! The first line has the system, the settings and the sets of the run; a journal of another run is
//! refused. A last line that is not complete is dropped, because the run was interrupted while it
//! wrote it.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::datasets::{Dataset, Query};
use super::query_run::QueryRun;
use super::report::SCHEMA;
use super::settings::EvalSettings;

/// The finished queries of a run, in a file.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    finished: HashMap<(String, String), QueryRun>,
}

/// The first line.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Header {
    schema: u32,
    system: String,
    settings: EvalSettings,
    sets: Vec<String>,
}

/// Another line: the results of one query.
#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    set: String,
    query: String,
    run: QueryRun,
}

/// The journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file cannot be read or written.
    #[error("cannot use the journal {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        #[source]
        cause: io::Error,
    },
    /// A line is not one of a journal.
    #[error("the journal {} line {line}: {problem}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line number, from 1.
        line: usize,
        /// The problem.
        problem: String,
    },
    /// The journal belongs to a run with other flags.
    #[error("the journal {} belongs to another run: {field}: {given} now, {expected} in the journal", path.display())]
    OtherRun {
        /// The file.
        path: PathBuf,
        /// The part that differs.
        field: &'static str,
        /// Its value now.
        given: String,
        /// Its value in the journal.
        expected: String,
    },
}

impl Journal {
    /// Opens a journal, or creates it. `system` names the system under evaluation.
    ///
    /// # Errors
    /// [`JournalError`] if the file cannot be used or belongs to another run.
    pub fn open(path: &Path, system: &str, settings: &EvalSettings, sets: &[Dataset]) -> Result<Self, JournalError> {
        let unusable = |cause| JournalError::File { path: path.to_owned(), cause };
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path).map_err(unusable)?;
        let mut journal = Self { path: path.to_owned(), file, finished: HashMap::new() };
        let header = Header {
            schema: SCHEMA,
            system: system.to_owned(),
            settings: settings.clone(),
            sets: sets.iter().map(|set| set.name.clone()).collect(),
        };
        let complete = journal.read(&header)?;
        journal.file.set_len(complete).map_err(unusable)?;
        journal.file.seek(SeekFrom::End(0)).map_err(unusable)?;
        if complete == 0 {
            journal.write_line(&header)?;
        }
        Ok(journal)
    }

    /// The results of a query, if the journal has them.
    #[must_use]
    pub fn finished(&self, set: &Dataset, query: &Query) -> Option<QueryRun> {
        self.finished.get(&(set.name.clone(), query.id.clone())).cloned()
    }

    /// Number of finished queries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.finished.len()
    }

    /// Whether no query is finished.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.finished.is_empty()
    }

    /// Adds the results of a query.
    ///
    /// # Errors
    /// [`JournalError::File`] if the file cannot be written.
    pub fn append(&mut self, set: &Dataset, query: &Query, run: &QueryRun) -> Result<(), JournalError> {
        self.write_line(&Entry { set: set.name.clone(), query: query.id.clone(), run: run.clone() })
    }

    fn write_line(&mut self, line: &impl Serialize) -> Result<(), JournalError> {
        let unusable = |cause| JournalError::File { path: self.path.clone(), cause };
        let mut bytes = serde_json::to_vec(line).map_err(|error| unusable(error.into()))?;
        bytes.push(b'\n');
        self.file.write_all(&bytes).map_err(unusable)
    }

    /// Reads all complete lines, and returns their length in bytes.
    fn read(&mut self, header: &Header) -> Result<u64, JournalError> {
        let mut complete = 0;
        let mut reader = BufReader::new(&self.file);
        let mut line = Vec::new();
        for number in 1.. {
            line.clear();
            let bytes = reader
                .read_until(b'\n', &mut line)
                .map_err(|cause| JournalError::File { path: self.path.clone(), cause })?;
            if line.last() != Some(&b'\n') {
                break;
            }
            let invalid = |error: serde_json::Error| JournalError::Line {
                path: self.path.clone(),
                line: number,
                problem: error.to_string(),
            };
            if number == 1 {
                let found: Header = serde_json::from_slice(&line).map_err(invalid)?;
                self.check_header(header, &found)?;
            } else {
                let entry: Entry = serde_json::from_slice(&line).map_err(invalid)?;
                self.finished.insert((entry.set, entry.query), entry.run);
            }
            complete += bytes as u64;
        }
        Ok(complete)
    }

    fn check_header(&self, given: &Header, expected: &Header) -> Result<(), JournalError> {
        let settings = |header: &Header| serde_json::to_string(&header.settings).unwrap_or_default();
        for (field, given, expected) in [
            ("schema", given.schema.to_string(), expected.schema.to_string()),
            ("system", given.system.clone(), expected.system.clone()),
            ("sets", given.sets.join(", "), expected.sets.join(", ")),
            ("settings", settings(given), settings(expected)),
        ] {
            if given != expected {
                return Err(JournalError::OtherRun { path: self.path.clone(), field, given, expected });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{pass, query_run, set, settings};
    use super::*;

    #[test]
    fn finished_queries_are_found_again_and_a_cut_line_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.jsonl");
        let set = set("s", 3);
        let run = query_run(vec![pass(&[0.1, 0.2], &[1, 0])]);
        let mut journal = Journal::open(&path, "m", &settings(), std::slice::from_ref(&set)).unwrap();
        assert!(journal.is_empty());
        journal.append(&set, &set.queries[0], &run).unwrap();
        journal.append(&set, &set.queries[1], &run).unwrap();
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 9]).unwrap();

        let mut journal = Journal::open(&path, "m", &settings(), std::slice::from_ref(&set)).unwrap();
        assert_eq!(journal.len(), 1);
        assert_eq!(journal.finished(&set, &set.queries[0]), Some(run.clone()));
        assert_eq!(journal.finished(&set, &set.queries[1]), None);
        journal.append(&set, &set.queries[1], &run).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), whole);
    }

    #[test]
    fn a_journal_of_another_run_or_another_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.jsonl");
        let set = set("s", 1);
        let open = |system: &str, settings: &EvalSettings| {
            Journal::open(&path, system, settings, std::slice::from_ref(&set))
                .map(|_| ())
                .map_err(|error| error.to_string())
        };
        open("m", &settings()).unwrap();
        let other = open("n", &settings()).unwrap_err();
        assert!(other.ends_with("belongs to another run: system: n now, m in the journal"), "{other}");
        let other = open("m", &EvalSettings { top: 9, ..settings() }).unwrap_err();
        assert!(other.contains("another run: settings: ") && other.contains("\"top\":9"), "{other}");
        std::fs::write(&path, "{}\n").unwrap();
        let other = open("m", &settings()).unwrap_err();
        assert!(other.contains(" line 1: missing field `schema`"), "{other}");
    }
}
