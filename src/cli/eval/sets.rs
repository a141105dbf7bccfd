//! Reads the sets that the flags of `podium eval` name.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use super::super::UsageError;
use super::args::EvalArgs;
use crate::eval::datasets::{CollectionFiles, Dataset, TableFiles, set_name, slates};
use crate::eval::settings::EvalSettings;

impl EvalArgs {
    /// Reads every set; calls `before` with each name. Sets with the same name get their path as
    /// the name.
    pub(super) fn read_sets(&self, settings: &EvalSettings, before: impl Fn(&str)) -> anyhow::Result<Vec<Dataset>> {
        let mut sets = Vec::new();
        if let (Some(corpus), Some(queries), Some(qrels)) = (&self.corpus, &self.topics, &self.qrels) {
            let run = self.run.as_ref().map(|run| (run.clone().into(), run.display().to_string()));
            let (name, source) = (set_name(qrels), qrels.clone());
            let table = |path: &PathBuf| TableFiles::at(path, self.split.as_deref());
            let (corpus, queries, qrels) = (table(corpus)?, table(queries)?, table(qrels)?);
            before(&name);
            let files = CollectionFiles { name, source, corpus, queries, instructions: None, qrels, run };
            sets.push(files.read(settings)?);
        }
        let mut seen = HashSet::new();
        for path in &self.sets {
            if !seen.insert(path.canonicalize().unwrap_or_else(|_| path.clone())) {
                return Err(UsageError(format!("the set {} is given twice; remove one", path.display())).into());
            }
            before(&set_name(path));
            sets.push(self.read_set(path, settings)?);
        }
        make_names_unique(&mut sets);
        Ok(sets)
    }

    fn read_set(&self, path: &Path, settings: &EvalSettings) -> anyhow::Result<Dataset> {
        if path.is_dir() {
            let files = CollectionFiles::find(path, self.split.as_deref(), self.run.as_deref())?;
            return Ok(files.read(settings)?);
        }
        if self.run.is_some() || self.split.is_some() {
            let file = path.display();
            let problem = format!(
                "--run and --split work only with folders; {file} is a file of slates, which has its own order"
            );
            return Err(UsageError(problem).into());
        }
        Ok(slates::read(path, settings.queries, settings.seed)?)
    }
}

/// Renames sets with the same name to their paths.
fn make_names_unique(sets: &mut [Dataset]) {
    let mut names: HashMap<String, usize> = HashMap::new();
    for set in &*sets {
        *names.entry(set.name.clone()).or_default() += 1;
    }
    for set in sets {
        if names.get(&set.name).is_some_and(|count| *count > 1) {
            set.name.clone_from(&set.source);
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::super::{Cli, Command};

    #[test]
    fn sets_with_the_same_name_are_named_by_their_paths() {
        let folder = tempfile::tempdir().unwrap();
        let line = r#"{"query": "q", "positive": "a", "negative": "b"}"#;
        let paths = ["one/set.jsonl", "two/set.jsonl", "two/other.jsonl"].map(|path| folder.path().join(path));
        for path in &paths {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, line).unwrap();
        }
        let shown: Vec<&str> = paths.iter().map(|path| path.to_str().unwrap()).collect();
        let cli = Cli::parse_from(["podium", "eval"].into_iter().chain(shown.iter().copied()));
        let Command::Eval(made) = cli.command else { panic!("eval was asked for") };
        let sets = made.read_sets(&made.eval_settings(), |_| ()).unwrap();
        let names: Vec<&str> = sets.iter().map(|set| set.name.as_str()).collect();
        assert_eq!(names, [shown[0], shown[1], "other"]);
    }
}
