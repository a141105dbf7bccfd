//! A file that is there whole or not at all.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use tempfile::NamedTempFile;

use super::UsageError;

/// A file to be written at the end; that it can be written is known from the beginning.
pub(super) struct OutputFile {
    path: PathBuf,
    draft: NamedTempFile,
}

impl OutputFile {
    /// Begins a draft beside `path`.
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
            // Less what the umask takes, like any other file.
            builder.permissions(std::fs::Permissions::from_mode(0o666));
        }
        let draft = builder.prefix(".podium-").tempfile_in(folder).map_err(|error| refuse(&error))?;
        Ok(Self { path: path.to_owned(), draft })
    }

    /// Puts the text in place.
    pub(super) fn write(mut self, text: &str) -> anyhow::Result<()> {
        let context = || format!("cannot write {}", self.path.display());
        self.draft.write_all(text.as_bytes()).and_then(|()| self.draft.write_all(b"\n")).with_context(context)?;
        self.draft.persist(&self.path).with_context(|| format!("cannot write {}", self.path.display()))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_appears_when_it_is_written_and_replaces_an_older_one() {
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
    fn a_place_that_cannot_be_written_is_known_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("no/such/out.json");
        let UsageError(problem) = OutputFile::create(&missing).err().unwrap();
        assert!(problem.starts_with(&format!("cannot write {}: ", missing.display())), "{problem}");
        let UsageError(problem) = OutputFile::create(folder.path()).err().unwrap();
        assert!(problem.ends_with(": it is a folder"), "{problem}");
    }
}
