//! Reads files of texts with ids (corpora and queries), as JSONL (`_id`, `title`, `text`) or as
//! `id<TAB>text`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::lines::for_each_line;
use super::object::{Object, join_title};
use super::{DataError, Document};

/// The texts of a file, and the index of each id.
pub(super) struct Texts {
    pub(super) path: PathBuf,
    pub(super) items: Vec<Document>,
    indices: HashMap<String, usize>,
}

impl Texts {
    /// Reads a file.
    ///
    /// # Errors
    /// [`DataError`] for a file that is unreadable or empty, a line without id or text, or a
    /// duplicate id.
    pub(super) fn read(path: &Path) -> Result<Self, DataError> {
        let mut texts = Self { path: path.to_owned(), items: Vec::new(), indices: HashMap::new() };
        for_each_text(path, |document| {
            if texts.indices.insert(document.id.clone(), texts.items.len()).is_some() {
                return Err(format!("the id {:?} is already used on an earlier line", document.id));
            }
            texts.items.push(document);
            Ok(())
        })?;
        Ok(texts)
    }

    /// Whether the file has this id.
    pub(super) fn has(&self, id: &str) -> bool {
        self.indices.contains_key(id)
    }

    /// The index of an id; `what` names it in the error.
    pub(super) fn find(&self, what: &str, id: &str) -> Result<usize, String> {
        let missing = || format!("the {what} {id:?} is not in {}", self.path.display());
        self.indices.get(id).copied().ok_or_else(missing)
    }
}

/// Calls `read_text` with every text of a file, and returns their number. The file is JSONL if its
/// first character is `{`.
///
/// # Errors
/// [`DataError`] for a file that is unreadable or empty, a line without id or text, or the first
/// error that `read_text` returns.
pub(super) fn for_each_text(
    path: &Path,
    mut read_text: impl FnMut(Document) -> Result<(), String>,
) -> Result<usize, DataError> {
    let (mut is_json, mut count) = (None, 0);
    for_each_line(path, |_, line| {
        count += 1;
        let is_json = *is_json.get_or_insert_with(|| line.trim_start().starts_with('{'));
        read_text(if is_json { parse_json_line(line) } else { parse_tab_line(line) }?)
    })?;
    if count == 0 {
        return Err(DataError::Set { place: path.to_owned(), problem: "the file is empty".to_owned() });
    }
    Ok(count)
}

fn parse_json_line(line: &str) -> Result<Document, String> {
    let mut fields = Object::parse(line)?;
    let id = fields.id(&["_id", "id"])?.ok_or("_id: this field is required")?;
    let title = fields.text("title")?;
    Ok(Document { id, text: join_title(title, fields.required_text("text")?) })
}

fn parse_tab_line(line: &str) -> Result<Document, String> {
    match line.split_once('\t') {
        Some((id, text)) if !id.trim().is_empty() => {
            Ok(Document { id: id.trim().to_owned(), text: text.trim().to_owned() })
        }
        _ => Err("expected a JSON object, or an id, a tab and a text".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::file;
    use super::*;

    fn read(content: &str) -> Result<Vec<(String, String)>, String> {
        let file = file(content);
        let texts = Texts::read(file.path()).map_err(|error| error.to_string())?;
        Ok(texts.items.into_iter().map(|item| (item.id, item.text)).collect())
    }

    fn problem(content: &str) -> String {
        let message = read(content).unwrap_err();
        message.split_once(" line ").map_or(message.clone(), |(_, rest)| rest.to_owned())
    }

    #[test]
    fn json_lines_have_ids_titles_and_texts() {
        let lines = "\u{feff}{\"_id\": \"a\", \"title\": \"T\", \"text\": \"x\"}\n\n{\"id\": 7, \"title\": \"\", \"text\": \"y\"}\n";
        let found = read(lines).unwrap();
        assert_eq!(found, [("a".to_owned(), "T x".to_owned()), ("7".to_owned(), "y".to_owned())]);
    }

    #[test]
    fn tabs_separate_ids_from_texts() {
        let found = read("1\tone\ttwo\r\n2\t\n").unwrap();
        assert_eq!(found, [("1".to_owned(), "one\ttwo".to_owned()), ("2".to_owned(), String::new())]);
    }

    #[test]
    fn an_invalid_line_is_reported_with_field_and_value() {
        for (content, message) in [
            ("{\"_id\": \"a\", \"text\": \"x\"}\n{\"text\": \"x\"}", "2: _id: this field is required"),
            ("{\"_id\": \"a\"}", "1: text: this field is required"),
            ("{\"_id\": 1.5, \"text\": \"x\"}", "1: _id: expected a string or an integer, found the number 1.5"),
            ("{\"_id\": \"\", \"text\": \"x\"}", "1: _id: must not be empty"),
            ("{\"_id\": \"a\", \"text\": [1]}", "1: text: expected a string, found an array of length 1"),
            ("{\"_id\": \"a\", \"title\": 3, \"text\": \"\"}", "1: title: expected a string, found the number 3"),
            ("{\"_id\": \"a\",", "1: is not JSON: EOF while parsing a value (column 12)"),
            ("1\tx\n1\ty", "2: the id \"1\" is already used on an earlier line"),
            ("1\tx\nno tab", "2: expected a JSON object, or an id, a tab and a text"),
        ] {
            assert_eq!(problem(content), message, "{content}");
        }
        assert!(read("\n").unwrap_err().ends_with(": the file is empty"));
    }

    #[test]
    fn bytes_that_are_not_utf_8_are_reported_with_their_line() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"1\tone\n2\t\xff\xfe\n").unwrap();
        let message = Texts::read(file.path()).err().unwrap().to_string();
        assert!(message.ends_with(" line 2: is not UTF-8"), "{message}");
    }
}
