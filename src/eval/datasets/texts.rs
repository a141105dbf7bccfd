//! Reads tables of texts with ids (corpora and queries): JSONL and Parquet with the fields of BEIR,
//! MTEB or ir_datasets, or lines of `id<TAB>text`.

use std::collections::HashMap;

use super::object::{Object, join_title};
use super::records::{Place, Record, TableFiles};
use super::{DataError, Document};

/// The names of an id's field: BEIR's, MTEB's, and those of ir_datasets.
const ID_FIELDS: [&str; 4] = ["_id", "id", "doc_id", "query_id"];

/// The names of a text's field; ir_datasets has all of them.
const TEXT_FIELDS: [&str; 4] = ["text", "body", "abstract", "contents"];

/// The texts of a table, and the index of each id.
pub(super) struct Texts {
    pub(super) files: TableFiles,
    pub(super) items: Vec<Document>,
    /// The instructions of queries, by index; those of blank instructions are left out.
    pub(super) instructions: HashMap<usize, String>,
    indices: HashMap<String, usize>,
}

impl Texts {
    /// Reads a table.
    ///
    /// # Errors
    /// [`DataError`] for a table that is unreadable or empty, a record without id or text, or a
    /// duplicate id.
    pub(super) fn read(files: &TableFiles) -> Result<Self, DataError> {
        let (items, instructions, indices) = (Vec::new(), HashMap::new(), HashMap::new());
        let mut texts = Self { files: files.clone(), items, instructions, indices };
        for_each_text(files, |_, text| {
            let Text { document, instruction } = text;
            if texts.indices.insert(document.id.clone(), texts.items.len()).is_some() {
                return Err(format!("the id {:?} is already used on an earlier line", document.id));
            }
            if let Some(instruction) = instruction {
                texts.instructions.insert(texts.items.len(), instruction);
            }
            texts.items.push(document);
            Ok(())
        })?;
        Ok(texts)
    }

    /// Reads MTEB's table of instructions: fields `query-id` and `instruction`.
    ///
    /// # Errors
    /// [`DataError`] for an unreadable table, an unknown query or a missing field.
    pub(super) fn read_instructions(&mut self, files: &TableFiles) -> Result<(), DataError> {
        files.for_each_record(|_, record| {
            let Record::Fields(mut fields) = record else { return Err("expected a JSON object".to_owned()) };
            let id = fields.required_id(&["query-id", "query_id", "_id", "id"])?;
            let instruction = fields.required_text("instruction")?;
            let index = self.find("query", &id)?;
            if !instruction.trim().is_empty() && self.instructions.insert(index, instruction).is_some() {
                return Err(format!("the query {id:?} has a second instruction"));
            }
            Ok(())
        })
    }

    /// Whether the table has this id.
    pub(super) fn has(&self, id: &str) -> bool {
        self.indices.contains_key(id)
    }

    /// The index of an id; `what` names it in the error.
    pub(super) fn find(&self, what: &str, id: &str) -> Result<usize, String> {
        let missing = || format!("the {what} {id:?} is not in {}", self.files);
        self.indices.get(id).copied().ok_or_else(missing)
    }
}

/// A text of a table.
pub(super) struct Text {
    pub(super) document: Document,
    /// A query's own instruction; `None` if it is absent or blank.
    pub(super) instruction: Option<String>,
}

/// Calls `read_text` with every text of a table and its place, and returns their number.
///
/// # Errors
/// [`DataError`] for a table that is unreadable or empty, a record without id or text, or the first
/// error that `read_text` returns.
pub(super) fn for_each_text(
    files: &TableFiles,
    mut read_text: impl FnMut(Place, Text) -> Result<(), String>,
) -> Result<usize, DataError> {
    let mut count = 0;
    files.for_each_record(|place, record| {
        count += 1;
        let text = match record {
            Record::Fields(fields) => parse_fields(fields),
            Record::Line(line) => parse_tab_line(line),
        };
        read_text(place, text?)
    })?;
    if count == 0 {
        return Err(DataError::Set { place: files.path().to_owned(), problem: "the file is empty".to_owned() });
    }
    Ok(count)
}

fn parse_fields(mut fields: Object) -> Result<Text, String> {
    let is_topic = fields.has("query_id");
    let id = fields.required_id(&ID_FIELDS)?;
    let title = fields.text("title")?;
    let instruction = fields.text("instruction")?.filter(|text| !text.trim().is_empty());
    let name = TEXT_FIELDS.into_iter().find(|name| fields.has(name));
    let text = match (name, title) {
        // TREC's topics have a title, a description and a narrative; the title is the query.
        (None, Some(title)) if is_topic => title,
        (name, title) => join_title(title, fields.required_text(name.unwrap_or("text"))?),
    };
    Ok(Text { document: Document { id, text }, instruction })
}

fn parse_tab_line(line: &str) -> Result<Text, String> {
    match line.split_once('\t') {
        Some((id, text)) if !id.trim().is_empty() => {
            let document = Document { id: id.trim().to_owned(), text: text.trim().to_owned() };
            Ok(Text { document, instruction: None })
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
        let texts = Texts::read(&file.path().to_owned().into()).map_err(|error| error.to_string())?;
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
    fn fields_may_have_the_names_of_ir_datasets() {
        let lines = concat!(
            r#"{"doc_id": "a", "url": "u", "title": "T", "body": "x"}"#,
            "\n",
            r#"{"query_id": 3, "title": "the title", "description": "d", "narrative": "n"}"#,
        );
        let found = read(lines).unwrap();
        assert_eq!(found, [("a".to_owned(), "T x".to_owned()), ("3".to_owned(), "the title".to_owned())]);
    }

    #[test]
    fn queries_may_have_instructions_of_their_own_or_in_another_table() {
        let queries =
            file("{\"_id\": \"a\", \"text\": \"x\", \"instruction\": \"i\"}\n{\"_id\": \"b\", \"text\": \"y\"}");
        let mut texts = Texts::read(&queries.path().to_owned().into()).unwrap();
        assert_eq!(texts.instructions, HashMap::from([(0, "i".to_owned())]));
        let table = file("{\"query-id\": \"b\", \"instruction\": \"j\"}");
        texts.read_instructions(&table.path().to_owned().into()).unwrap();
        assert_eq!(texts.instructions.get(&1).map(String::as_str), Some("j"));
        let second = texts.read_instructions(&table.path().to_owned().into()).unwrap_err().to_string();
        assert!(second.ends_with(" line 1: the query \"b\" has a second instruction"), "{second}");
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
        let message = Texts::read(&file.path().to_owned().into()).err().unwrap().to_string();
        assert!(message.ends_with(" line 2: is not UTF-8"), "{message}");
    }
}
