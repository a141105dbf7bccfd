//! Finds the tables of a set in a folder: BEIR's files, the Parquet files of MTEB's datasets on the
//! hub, or the exports of `ir_datasets`.
//!
//! | table | BEIR | MTEB | `ir_datasets` |
//! |---|---|---|---|
//! | documents | `corpus.jsonl` | `corpus/` | `docs.tsv`, `docs.jsonl` |
//! | queries | `queries.jsonl` | `queries/`, `query/` | `queries.tsv`, `queries.jsonl` |
//! | judgements | `qrels/test.tsv` | `qrels/`, `data/`, `default/` | `qrels.trec` |
//! | first stage | | `top_ranked/`, `top_ranked.jsonl` | `scoreddocs.trec` |
//! | instructions | | `instruction/`, `instructions.jsonl` | |
//!
//! Every file may be JSONL, TSV, TREC's columns or Parquet, and compressed with gzip. A folder has
//! one file for each split, or shards such as `test-00000-of-00002.parquet`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::records::TableFiles;
use super::{CollectionFiles, DataError, set_name};

/// The names of a table's file or folder, by preference.
type Names = &'static [&'static str];
const CORPUS: Names = &["corpus", "docs"];
const QUERIES: Names = &["queries", "query"];
const QRELS: Names = &["qrels", "data", "default"];
const FIRST_STAGE: Names = &["top_ranked", "scoreddocs"];
const INSTRUCTIONS: Names = &["instruction", "instructions"];

/// The extensions of a table's files, by preference.
const EXTENSIONS: [&str; 6] = ["jsonl", "tsv", "parquet", "trec", "txt", "run"];

/// The split that is evaluated by default.
const DEFAULT_SPLIT: &str = "test";

impl CollectionFiles {
    /// Finds the tables of a folder. The default `split` is `test`, or the only split of the
    /// judgements. A relative `run` is looked for in the folder first; without one, the folder's
    /// own first stage is taken, if it has one.
    ///
    /// # Errors
    /// [`DataError`] if a table or a split is missing, or a folder cannot be read.
    pub fn find(folder: &Path, split: Option<&str>, run: Option<&Path>) -> Result<Self, DataError> {
        let wanted = split.unwrap_or(DEFAULT_SPLIT);
        let required = |names: Names, shown: &str| {
            find_table(folder, names, wanted, false)?.map(|(_, files)| files).ok_or_else(|| {
                let problem = format!(
                    "{shown} is missing; a BEIR folder has corpus.jsonl, queries.jsonl and qrels/, one of MTEB has \
                     corpus/, queries/ and qrels/ or data/ with Parquet files, an export of ir_datasets docs.tsv, \
                     queries.tsv and qrels.trec"
                );
                DataError::Set { place: folder.to_owned(), problem }
            })
        };
        let (corpus, queries) = (required(CORPUS, "corpus.jsonl")?, required(QUERIES, "queries.jsonl")?);
        let qrels = find_table(folder, QRELS, wanted, split.is_some())?.map(|(_, files)| files);
        let qrels = qrels.map_or_else(|| required(QRELS, "qrels/"), Ok)?;
        let run = match run {
            Some(run) => {
                let inside = folder.join(run);
                let file = if inside.is_file() { inside } else { run.to_owned() };
                Some((file.into(), run.display().to_string()))
            }
            None => find_table(folder, FIRST_STAGE, wanted, false)?.map(|(name, files)| (files, name)),
        };
        let instructions = find_table(folder, INSTRUCTIONS, wanted, false)?.map(|(_, files)| files);
        let (name, source) = (set_name(folder), folder.to_owned());
        Ok(Self { name, source, corpus, queries, instructions, qrels, run })
    }
}

impl TableFiles {
    /// The table at a path: a file, or a folder with the files of splits, as in
    /// [`CollectionFiles::find`].
    ///
    /// # Errors
    /// [`DataError`] if a folder cannot be read or lacks the split.
    pub fn at(path: &Path, split: Option<&str>) -> Result<Self, DataError> {
        match (path.is_dir(), path.parent(), path.file_name().and_then(|name| name.to_str())) {
            (true, Some(parent), Some(name)) => choose_split(parent, name, split.unwrap_or(DEFAULT_SPLIT), false),
            _ => Ok(path.to_owned().into()),
        }
    }
}

/// Finds the files of a table and its name: one file, or the files of a split in a folder. If
/// `exact`, a folder's split must be the wanted one; otherwise its only split will do.
fn find_table(
    folder: &Path,
    names: Names,
    wanted: &str,
    exact: bool,
) -> Result<Option<(String, TableFiles)>, DataError> {
    for name in names {
        let files = EXTENSIONS.iter().flat_map(|kind| [format!("{name}.{kind}"), format!("{name}.{kind}.gz")]);
        if let Some(file) = files.map(|file| folder.join(file)).find(|file| file.is_file()) {
            return Ok(Some(((*name).to_owned(), file.into())));
        }
        if folder.join(name).is_dir() {
            return Ok(Some(((*name).to_owned(), choose_split(folder, name, wanted, exact)?)));
        }
    }
    Ok(None)
}

/// The files of the wanted split in the folder `name` of `parent`, or unless `exact` those of its
/// only split.
fn choose_split(parent: &Path, name: &str, wanted: &str, exact: bool) -> Result<TableFiles, DataError> {
    let splits = list_splits(&parent.join(name))?;
    let only = (!exact && splits.len() == 1).then(|| splits.values().next()).flatten();
    if let Some(shards) = splits.get(wanted).or(only) {
        return Ok(TableFiles::new(shards.clone()));
    }
    let available: Vec<&str> = splits.keys().map(String::as_str).collect();
    let available = if available.is_empty() { "none".to_owned() } else { available.join(", ") };
    let problem = format!("{name}/{wanted}.tsv is missing; choose a split with --split (available: {available})");
    Err(DataError::Set { place: parent.to_owned(), problem })
}

/// The files of each split of a folder, in the order of their names. Of a split that is there in
/// several formats, one counts, TSV first.
fn list_splits(folder: &Path) -> Result<BTreeMap<String, Vec<PathBuf>>, DataError> {
    let unreadable = |cause| DataError::Unreadable { path: folder.to_owned(), cause };
    let mut splits: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if let Some(split) = split_of(&path) {
            splits.entry(split).or_default().push(path);
        }
    }
    for shards in splits.values_mut() {
        shards.sort();
        let preferred = shards.iter().map(|shard| format_of(shard)).min();
        shards.retain(|shard| Some(format_of(shard)) == preferred);
    }
    Ok(splits)
}

/// A file's format as a sort key: TSV, then the others by [`EXTENSIONS`], each before its `.gz`.
fn format_of(path: &Path) -> (bool, Option<usize>, bool) {
    let name = path.to_string_lossy();
    let plain = name.strip_suffix(".gz").unwrap_or(&name);
    let place = EXTENSIONS.iter().position(|kind| plain.ends_with(&format!(".{kind}")));
    let is_tsv = place.is_some_and(|place| EXTENSIONS[place] == "tsv");
    (!is_tsv, place, plain.len() < name.len())
}

/// The split that a file belongs to: its name without extensions and `-00000-of-00001`. `None` for
/// a file that is not a table.
fn split_of(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let (stem, extension) = name.strip_suffix(".gz").unwrap_or(name).rsplit_once('.')?;
    if stem.is_empty() || !EXTENSIONS.contains(&extension) {
        return None;
    }
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let split = stem.rsplit_once("-of-").and_then(|(start, total)| {
        let (split, number) = start.rsplit_once('-')?;
        (is_number(number) && is_number(total)).then_some(split)
    });
    Some(split.unwrap_or(stem).to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use parquet::basic::Compression;

    use super::super::parquet::tests::{Column, write};
    use super::super::{Dataset, FirstStage};
    use super::*;
    use crate::eval::testing::settings;

    fn read(folder: &Path, split: Option<&str>) -> Result<Dataset, String> {
        let files = CollectionFiles::find(folder, split, None).map_err(|error| error.to_string())?;
        files.read(&settings()).map_err(|error| error.to_string())
    }

    /// A folder as MTEB pushes a reranking task with instructions: shards of Parquet files.
    fn mteb() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, columns: &[Column]| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            write(&path, columns, Compression::SNAPPY);
        };
        for (shard, id, text) in [(0, "a", "one"), (1, "b", "two")] {
            let name = format!("corpus/test-0000{shard}-of-00002.parquet");
            file(&name, &[Column::Texts("id", &[id]), Column::Texts("title", &[""]), Column::Texts("text", &[text])]);
        }
        let queries = [Column::Numbers("id", &[1, 2]), Column::Texts("text", &["one?", "two?"])];
        file("queries/test-00000-of-00001.parquet", &queries);
        let judged = |score| {
            [Column::Numbers("query-id", &[1]), Column::Texts("corpus-id", &["b"]), Column::Numbers("score", score)]
        };
        file("data/test-00000-of-00001.parquet", &judged(&[2]));
        file("data/dev-00000-of-00001.parquet", &judged(&[1]));
        let ranked = [Column::Numbers("query-id", &[1]), Column::Lists("corpus-ids", &[&["b", "a"]])];
        file("top_ranked/test-00000-of-00001.parquet", &ranked);
        let instructions = [Column::Numbers("query-id", &[1, 2]), Column::Texts("instruction", &["first", "second"])];
        file("instruction/test-00000-of-00001.parquet", &instructions);
        folder
    }

    #[test]
    fn the_parquet_files_of_mteb_are_read_with_their_first_stage_and_instructions() {
        let folder = mteb();
        let set = read(folder.path(), None).unwrap();
        assert_eq!((set.corpus_size, set.queries.len(), set.left_out.queries_unjudged), (2, 1, 1));
        assert_eq!(set.first_stage, FirstStage::Run("top_ranked".to_owned()));
        let (query, id) = (&set.queries[0], |place: usize| set.documents[place].id.as_str());
        assert_eq!(
            (query.id.as_str(), query.text.as_str(), query.instruction.as_deref()),
            ("1", "one?", Some("first"))
        );
        assert_eq!(query.candidates.iter().map(|place| id(*place)).collect::<Vec<_>>(), ["b", "a"]);
        assert_eq!(query.grades.iter().map(|(place, grade)| (id(*place), *grade)).collect::<Vec<_>>(), [("b", 2.0)]);
        let text = |wanted: &str| &set.documents.iter().find(|document| document.id == wanted).unwrap().text;
        assert_eq!((text("a").as_str(), text("b").as_str()), ("one", "two"));
        let missing = read(folder.path(), Some("train")).unwrap_err();
        assert!(
            missing.ends_with("data/train.tsv is missing; choose a split with --split (available: dev, test)"),
            "{missing}"
        );
    }

    #[test]
    fn an_export_of_ir_datasets_is_read_with_its_first_stage() {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in [
            ("docs.tsv", "a\tone\nb\ttwo\n"),
            ("queries.jsonl", "{\"query_id\": \"q\", \"text\": \"two?\"}\n"),
            ("qrels.trec", "q 0 b 1\n"),
            ("scoreddocs.trec", "q Q0 a 0 2.0 run\nq Q0 b 1 1.0 run\n"),
        ] {
            fs::write(folder.path().join(name), content).unwrap();
        }
        let set = read(folder.path(), None).unwrap();
        assert_eq!(set.first_stage, FirstStage::Run("scoreddocs".to_owned()));
        let ranked: Vec<&str> =
            set.queries[0].candidates.iter().map(|place| set.documents[*place].id.as_str()).collect();
        assert_eq!((ranked, set.documents.len()), (vec!["a", "b"], 2));
    }

    #[test]
    fn a_table_may_be_given_as_a_folder_of_shards() {
        let folder = mteb();
        let corpus = TableFiles::at(&folder.path().join("corpus"), None).unwrap();
        let mut ids = Vec::new();
        super::super::texts::for_each_text(&corpus, |_, text| {
            ids.push(text.document.id);
            Ok(())
        })
        .unwrap();
        assert_eq!(ids, ["a", "b"]);
        let missing = TableFiles::at(&folder.path().join("data"), Some("train")).unwrap_err().to_string();
        assert!(missing.ends_with("data/train.tsv is missing; choose a split with --split (available: dev, test)"));
    }

    #[test]
    fn a_split_in_several_formats_is_read_once() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["test.jsonl", "test.tsv.gz", "test.tsv", "dev.jsonl", "dev.parquet"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        let splits = list_splits(folder.path()).unwrap();
        let paths = |names: &[&str]| names.iter().map(|name| folder.path().join(name)).collect::<Vec<_>>();
        assert_eq!(
            splits,
            BTreeMap::from([("dev".to_owned(), paths(&["dev.jsonl"])), ("test".to_owned(), paths(&["test.tsv"]))])
        );
    }

    #[test]
    fn a_split_is_a_files_name_without_shard_and_extensions() {
        for (name, split) in [
            ("test.tsv", Some("test")),
            ("test.jsonl.gz", Some("test")),
            ("dev-00001-of-00012.parquet", Some("dev")),
            ("0000.parquet", Some("0000")),
            ("one-of-two.tsv", Some("one-of-two")),
            ("README.md", None),
            (".tsv", None),
        ] {
            assert_eq!(split_of(Path::new(name)).as_deref(), split, "{name}");
        }
    }
}
