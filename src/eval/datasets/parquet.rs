//! Reads the rows of Parquet files, as the datasets of the Hugging Face hub have them.
//!
//! Only the columns that a set can have are read, so that others may have any type. Pages are
//! decompressed one by one; the file is never in memory as a whole.

use std::fs::File;
use std::path::Path;

use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use parquet::record::reader::RowIter;
use parquet::schema::types::Type;
use serde_json::{Map, Number, Value};

use super::DataError;
use super::object::Object;

/// The first bytes of a Parquet file.
pub(super) const MAGIC: &[u8] = b"PAR1";

/// The columns that a set can have.
const COLUMNS: [&str; 19] = [
    "_id",
    "id",
    "doc_id",
    "query_id",
    "query-id",
    "corpus-id",
    "corpus-ids",
    "score",
    "relevance",
    "title",
    "text",
    "body",
    "abstract",
    "contents",
    "query",
    "instruction",
    "documents",
    "positive",
    "negative",
];

/// Calls `read_row` with the number, from 1, and the fields of every row.
///
/// # Errors
/// [`DataError`] for a file that is not valid, a compression that is not supported, or the first
/// error that `read_row` returns.
pub(super) fn for_each_row(
    path: &Path,
    mut read_row: impl FnMut(usize, Object) -> Result<(), String>,
) -> Result<(), DataError> {
    let unreadable = |cause| DataError::Unreadable { path: path.to_owned(), cause };
    let invalid = |problem| DataError::Set { place: path.to_owned(), problem };
    let broken = |error: ParquetError| invalid(format!("is not a valid Parquet file: {error}"));
    let reader = SerializedFileReader::new(File::open(path).map_err(unreadable)?).map_err(broken)?;
    let schema = reader.metadata().file_metadata().schema();
    let known = schema.get_fields().iter().filter(|column| COLUMNS.contains(&column.name()));
    let columns = known.cloned().collect();
    let projection = Type::group_type_builder(schema.name()).with_fields(columns).build().map_err(broken)?;
    check_compression(&reader).map_err(invalid)?;
    let rows = RowIter::from_file_into(Box::new(reader)).project(Some(projection)).map_err(broken)?;
    for (index, row) in rows.enumerate() {
        let invalid = |problem| DataError::Line { file: path.to_owned(), line: index + 1, problem };
        let fields = row.map_err(broken)?.into_columns().into_iter();
        let fields = fields
            .map(|(name, field)| to_json(&name, field).map(|value| (name, value)))
            .collect::<Result<Map<String, Value>, String>>()
            .map_err(invalid)?;
        read_row(index + 1, Object::nested(fields, String::new())).map_err(invalid)?;
    }
    Ok(())
}

/// Rejects compressions whose code is not compiled in.
fn check_compression(reader: &SerializedFileReader<File>) -> Result<(), String> {
    let groups = reader.metadata().row_groups().iter();
    let used = groups.flat_map(|group| group.columns()).map(|column| column.compression());
    let supported =
        |kind: &Compression| matches!(kind, Compression::UNCOMPRESSED | Compression::SNAPPY | Compression::GZIP(_));
    used.into_iter().find(|kind| !supported(kind)).map_or(Ok(()), |kind| {
        let name = format!("{kind:?}");
        let name = name.split('(').next().unwrap_or_default();
        Err(format!("is compressed with {name}; write it with SNAPPY, GZIP or without compression"))
    })
}

/// Converts a value to JSON, which the readers of other files have too.
fn to_json(name: &str, field: Field) -> Result<Value, String> {
    let unsupported = |kind: &str| Err(format!("{name}: a {kind} is not supported"));
    Ok(match field {
        Field::Null => Value::Null,
        Field::Bool(flag) => Value::Bool(flag),
        Field::Byte(number) => number.into(),
        Field::Short(number) => number.into(),
        Field::Int(number) => number.into(),
        Field::Long(number) => number.into(),
        Field::UByte(number) => number.into(),
        Field::UShort(number) => number.into(),
        Field::UInt(number) => number.into(),
        Field::ULong(number) => number.into(),
        Field::Float16(number) => finite(name, number.to_f64())?,
        Field::Float(number) => finite(name, f64::from(number))?,
        Field::Double(number) => finite(name, number)?,
        Field::Str(text) => Value::String(text),
        Field::Bytes(bytes) => match std::str::from_utf8(bytes.data()) {
            Ok(text) => Value::String(text.to_owned()),
            Err(_) => return Err(format!("{name}: is not UTF-8")),
        },
        Field::ListInternal(list) => {
            let items = list.elements().iter().map(|item| to_json(name, item.clone()));
            Value::Array(items.collect::<Result<_, _>>()?)
        }
        Field::Group(row) => {
            let fields = row.into_columns().into_iter();
            let fields = fields.map(|(inner, field)| to_json(&inner, field).map(|value| (inner, value)));
            Value::Object(fields.collect::<Result<_, _>>()?)
        }
        Field::MapInternal(_) => return unsupported("map"),
        Field::Decimal(_) => return unsupported("decimal number"),
        Field::Date(_) => return unsupported("date"),
        Field::TimeMillis(_) | Field::TimeMicros(_) => return unsupported("time of day"),
        Field::TimestampMillis(_) | Field::TimestampMicros(_) => return unsupported("timestamp"),
    })
}

fn finite(name: &str, number: f64) -> Result<Value, String> {
    Number::from_f64(number).map(Value::Number).ok_or_else(|| format!("{name}: {number} is not a finite number"))
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;

    use super::*;

    /// A column: its type in the schema, and its values.
    pub enum Column<'a> {
        /// Strings.
        Texts(&'a str, &'a [&'a str]),
        /// Integers.
        Numbers(&'a str, &'a [i64]),
        /// A list of strings for each row.
        Lists(&'a str, &'a [&'a [&'a str]]),
    }

    /// Writes a file with these columns in one row group.
    pub fn write(path: &Path, columns: &[Column], compression: Compression) {
        let declare = |column: &Column| match column {
            Column::Texts(name, _) => format!("REQUIRED BINARY {name} (UTF8);"),
            Column::Numbers(name, _) => format!("REQUIRED INT64 {name};"),
            Column::Lists(name, _) => {
                format!("REQUIRED GROUP {name} (LIST) {{ REPEATED GROUP list {{ REQUIRED BINARY element (UTF8); }} }}")
            }
        };
        let fields: String = columns.iter().map(declare).collect();
        let schema = Arc::new(parse_message_type(&format!("message schema {{ {fields} }}")).unwrap());
        let properties = Arc::new(WriterProperties::builder().set_compression(compression).build());
        let mut writer = SerializedFileWriter::new(File::create(path).unwrap(), schema, properties).unwrap();
        let mut group = writer.next_row_group().unwrap();
        for column in columns {
            let mut open = group.next_column().unwrap().unwrap();
            match column {
                Column::Texts(_, texts) => {
                    let values: Vec<ByteArray> = texts.iter().map(|text| ByteArray::from(*text)).collect();
                    open.typed::<ByteArrayType>().write_batch(&values, None, None).unwrap();
                }
                Column::Numbers(_, numbers) => {
                    open.typed::<Int64Type>().write_batch(numbers, None, None).unwrap();
                }
                Column::Lists(_, lists) => {
                    let values: Vec<ByteArray> = lists.concat().iter().map(|text| ByteArray::from(*text)).collect();
                    let repeated: Vec<i16> =
                        lists.iter().flat_map(|list| (0..list.len()).map(|at| i16::from(at > 0))).collect();
                    let defined = vec![1; repeated.len()];
                    open.typed::<ByteArrayType>().write_batch(&values, Some(&defined), Some(&repeated)).unwrap();
                }
            }
            open.close().unwrap();
        }
        group.close().unwrap();
        writer.close().unwrap();
    }

    fn read(path: &Path) -> Result<Vec<String>, String> {
        let mut rows = Vec::new();
        let found = for_each_row(path, |number, mut row| {
            let ids = row.list_or_string("corpus-ids")?;
            rows.push(format!("{number} {:?} {:?} {}", row.id(&["_id"])?, row.text("text")?, Value::Array(ids)));
            Ok(())
        });
        found.map(|()| rows).map_err(|error| error.to_string())
    }

    #[test]
    fn rows_have_texts_integers_and_lists_and_other_columns_are_ignored() {
        let folder = tempfile::tempdir().unwrap();
        for (name, compression) in [
            ("plain", Compression::UNCOMPRESSED),
            ("snappy", Compression::SNAPPY),
            ("gzip", Compression::GZIP(parquet::basic::GzipLevel::default())),
        ] {
            let path = folder.path().join(name);
            let columns = [
                Column::Numbers("_id", &[7, 8]),
                Column::Texts("text", &["one", "zwölf"]),
                Column::Lists("corpus-ids", &[&["a", "b"], &["c"]]),
                Column::Numbers("unrelated", &[1, 2]),
            ];
            write(&path, &columns, compression);
            let expected = ["1 Some(\"7\") Some(\"one\") [\"a\",\"b\"]", "2 Some(\"8\") Some(\"zwölf\") [\"c\"]"];
            assert_eq!(read(&path).unwrap(), expected, "{name}");
        }
    }

    #[test]
    fn a_damaged_file_and_an_invalid_row_are_reported() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("corpus.parquet");
        std::fs::write(&path, "PAR1 and then nothing").unwrap();
        let damaged = read(&path).unwrap_err();
        assert!(damaged.contains("corpus.parquet: is not a valid Parquet file: "), "{damaged}");
        write(&path, &[Column::Texts("_id", &["a", ""])], Compression::SNAPPY);
        let empty = read(&path).unwrap_err();
        assert!(empty.ends_with("corpus.parquet row 2: _id: must not be empty"), "{empty}");
    }
}
