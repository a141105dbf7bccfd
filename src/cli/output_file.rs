//! A file that is written completely or not at all.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use tempfile::NamedTempFile;

use super::UsageError;

/// A file that is written at the end of a command. [`OutputFile::create`] fails early if it cannot
/// be written.
pub(super) struct OutputFile {
    path: PathBuf,
    temporary: NamedTempFile,
}

impl OutputFile {
    /// Creates a temporary file beside `path`.
    ///
    /// # Errors
    /// `path` is a folder, or its folder cannot be written.
    pub(super) fn create(path: &Path) -> Result<Self, UsageError> {
        let refuse =
            |problem: &dyn std::fmt::Display| UsageError(format!("cannot write {}: {problem}", path.display()));
        if path.is_dir() {
            return Err(refuse(&"it is a folder"));
        }
        let folder = match path.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        let mut builder = tempfile::Builder::new();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            // The umask applies, as for any other file.
            builder.permissions(std::fs::Permissions::from_mode(0o666));
        }
        let temporary = builder.prefix(".podium-").tempfile_in(folder).map_err(|error| refuse(&error))?;
        Ok(Self { path: path.to_owned(), temporary })
    }

    /// Writes the text and moves the file to its path.
    ///
    /// # Errors
    /// The file cannot be written or moved.
    pub(super) fn write(mut self, text: &str) -> anyhow::Result<()> {
        let context = || format!("cannot write {}", self.path.display());
        self.temporary
            .write_all(text.as_bytes())
            .and_then(|()| self.temporary.write_all(b"\n"))
            .with_context(context)?;
        self.temporary.persist(&self.path).with_context(|| format!("cannot write {}", self.path.display()))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_replaces_an_older_one_when_it_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.json");
        std::fs::write(&path, "old").unwrap();
        let file = OutputFile::create(&path).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "old");
        file.write("new").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "new\n");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_path_that_cannot_be_written_is_refused_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("no/such/out.json");
        let UsageError(problem) = OutputFile::create(&missing).err().unwrap();
        assert!(problem.starts_with(&format!("cannot write {}: ", missing.display())), "{problem}");
        let UsageError(problem) = OutputFile::create(folder.path()).err().unwrap();
        assert!(problem.ends_with(": it is a folder"), "{problem}");
    }
}
