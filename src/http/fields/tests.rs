//! The reader of fields: types, aliases, repeated fields and messages.

use super::*;

fn fields(json: &str) -> Fields {
    Fields::parse(json.as_bytes()).unwrap()
}

fn problem<T: fmt::Debug>(result: Result<T, RerankError>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn a_count_may_be_written_in_every_way_that_json_has_for_whole_numbers() {
    for (json, count) in [
        ("3", Some(3)),
        ("3.0", Some(3)),
        ("3e2", Some(300)),
        ("0", Some(0)),
        ("null", None),
        ("18446744073709551615", Some(usize::MAX)),
        ("99999999999999999999999", Some(usize::MAX)),
        ("1e300", Some(usize::MAX)),
    ] {
        assert_eq!(
            fields(&format!(r#"{{"top_n":{json}}}"#)).read::<Option<usize>>(&["top_n"]).unwrap(),
            count,
            "{json}"
        );
    }
    assert_eq!(fields("{}").read::<Option<usize>>(&["top_n"]).unwrap(), None);
}

#[test]
fn every_other_value_of_a_count_is_an_error_that_names_the_field() {
    for (json, message) in [
        ("-1", "top_n: -1 is negative; the least value is 1"),
        ("-0.5", "top_n: -0.5 is negative; the least value is 1"),
        ("2.5", "top_n: 2.5 is not a whole number"),
        ("\"x\"", "top_n: expected a whole number, found the string \"x\""),
        ("\"-3\"", "top_n: -3 is negative; the least value is 1"),
        ("true", "top_n: expected a whole number, found true"),
        ("[1]", "top_n: expected a whole number, found an array of 1 item"),
        ("{}", "top_n: expected a whole number, found an object of 0 fields"),
    ] {
        assert_eq!(problem(fields(&format!(r#"{{"top_n":{json}}}"#)).read::<Option<usize>>(&["top_n"])), message);
    }
}

#[test]
fn flags_may_be_written_as_strings() {
    for (json, flag) in [("true", true), ("\"true\"", true), ("\"True\"", true), ("\"false\"", false), ("null", true)] {
        let found = fields(&format!(r#"{{"truncation":{json}}}"#)).read(&["truncation"]).unwrap();
        assert_eq!(flag_or(found, true), flag, "{json}");
    }
    assert_eq!(
        problem(fields(r#"{"truncation":2}"#).read::<Flag>(&["truncation"])),
        "truncation: expected true or false, found the number 2"
    );
}

#[test]
fn a_value_of_another_type_is_converted_with_a_warning() {
    let mut fields = fields(r#"{"top_n":" 3 ","flag":0,"other":"yes","names":"title"}"#);
    assert_eq!(fields.read::<Option<usize>>(&["top_n"]).unwrap(), Some(3));
    assert_eq!(fields.read::<Option<Flag>>(&["flag"]).unwrap(), Some(Flag(false)));
    assert_eq!(fields.read::<Option<Flag>>(&["other"]).unwrap(), Some(Flag(true)));
    assert_eq!(fields.read::<Vec<String>>(&["names"]).unwrap(), ["title"]);
    let expected = [
        "top_n: the string \" 3 \" was read as 3",
        "flag: 0 was read as false",
        "other: the string \"yes\" was read as true",
        "names: the string \"title\" was read as a list of 1 item",
    ];
    assert_eq!(fields.take_warnings(), expected);
}

#[test]
fn a_part_has_fields_of_its_own_and_gives_the_rest_to_the_body() {
    request! {
        struct Inner {
            count | number: Option<usize>,
        }
    }
    let mut body = fields(r#"{"inner":{"number":"2","cuont":1}}"#);
    let inner = body.read::<Part<Inner>>(&["inner"]).unwrap().take(&mut body);
    assert_eq!(inner.count, Some(2));
    assert_eq!(body.take_warnings(), ["inner.number: the string \"2\" was read as 2"]);
    assert_eq!(body.unread().collect::<Vec<_>>(), ["inner.cuont"]);
    assert_eq!(body.suggestion("inner.cuont"), "; did you mean \"inner.count\"?");
    let mut wrong = fields(r#"{"inner":{"count":"x"}}"#);
    let found = problem(wrong.read::<Part<Inner>>(&["inner"]));
    assert_eq!(found, "inner.count: expected a whole number, found the string \"x\"");
}

#[test]
fn an_alias_may_repeat_its_name_but_not_contradict_it() {
    assert_eq!(fields(r#"{"top_k":2}"#).read::<Option<usize>>(&["top_n", "top_k"]).unwrap(), Some(2));
    assert_eq!(fields(r#"{"top_k":2,"top_n":2}"#).read::<Option<usize>>(&["top_n", "top_k"]).unwrap(), Some(2));
    assert_eq!(fields(r#"{"top_k":2,"top_n":null}"#).read::<Option<usize>>(&["top_n", "top_k"]).unwrap(), Some(2));
    assert_eq!(
        problem(fields(r#"{"top_k":2,"top_n":3}"#).read::<Option<usize>>(&["top_n", "top_k"])),
        "top_k: differs from `top_n`, which means the same; give one of them"
    );
}

#[test]
fn a_field_given_twice_is_an_error_if_it_is_read() {
    let mut fields = fields(r#"{"query":"a","query":"a","other":1,"other":2}"#);
    assert_eq!(problem(fields.read::<String>(&["query"])), "query: given more than once");
    assert_eq!(fields.read::<Option<String>>(&["absent"]).unwrap(), None);
}

#[test]
fn an_unknown_field_is_matched_to_the_most_similar_known_field() {
    let mut fields = fields(r#"{"instructions":"i","zebra":1,"extra_body":{"x":1,"top_n":2},"options":{"x":1}}"#);
    fields.read::<Option<String>>(&["instruction", "instruct"]).unwrap();
    fields.read::<Option<usize>>(&["top_n", "top_k"]).unwrap();
    for (name, meant) in [
        ("instructions", "instruction"),
        ("topN", "top_n"),
        ("topK", "top_k"),
        ("top-n", "top_n"),
        ("TOP_N", "top_n"),
        ("limit", "top_n"),
    ] {
        assert_eq!(fields.suggestion(name), format!("; did you mean {meant:?}?"), "{name}");
    }
    assert_eq!(fields.suggestion("extra_body"), "; \"top_n\" is read only at the top level of the body");
    for name in ["zebra", "querry", "options", "threshold"] {
        assert_eq!(fields.suggestion(name), "", "{name}");
    }
}

#[test]
fn malformed_json_is_an_error_that_says_what_to_change() {
    for (body, expected) in [
        (r#"{"documents":["a"],"x":True}"#, "expected value at line 1 column 24; JSON writes true, false and null"),
        (
            "[object Object]",
            "expected value at line 1 column 2; it is JavaScript's name of an object; send JSON.stringify(object)",
        ),
        (r#"{"x":None}"#, "expected value at line 1 column 6; JSON writes true, false and null"),
        ("{\n  // a comment\n}", "key must be a string at line 2 column 3; JSON has no comments"),
        ("{“query”:1}", "key must be a string at line 1 column 2; JSON quotes names and texts with \""),
        ("{query:1}", "key must be a string at line 1 column 2; names are in quotation marks"),
        (r#"{"path":"C:\Users"}"#, r"invalid escape at line 1 column 13; a backslash is written as \\"),
        (r#"{"a":[1,]}"#, "trailing comma at line 1 column 9"),
        ("{\"a\":1}\n{\"a\":2}", "trailing characters at line 2 column 1; a request has one object"),
        (
            "{\"a\":\"one\ntwo\"}",
            "control character (\\u0000-\\u001F) found while parsing a string at line 2 column 0; inside a text, a line \
             break is written as \\n and a tab as \\t",
        ),
    ] {
        match Fields::parse(body.as_bytes()) {
            Err(ParseError::MalformedJson { problem }) => assert_eq!(problem, expected, "{body}"),
            other => panic!("{body}: {other:?}"),
        }
    }
}

#[test]
fn json_that_is_no_object_is_an_error_that_says_what_to_change() {
    for (body, expected) in [
        (r#""{\"query\":1}""#, "found the string \"{\\\"query\\\":1}\"; it holds an object that was encoded twice"),
        (r#"[{"query":1}]"#, "found an array of 1 item; send each object by itself"),
        (r#"["q",["a"]]"#, "found an array of 2 items"),
        ("[]", "found an array of 0 items"),
    ] {
        match Fields::parse(body.as_bytes()) {
            Err(ParseError::NotAnObject(error)) => {
                assert_eq!(error.to_string(), format!("body: expected an object, {expected}"));
            }
            other => panic!("{body}: {other:?}"),
        }
    }
}

#[test]
fn a_list_that_was_encoded_twice_is_not_a_list_of_one_text() {
    let mut fields = fields(r#"{"texts":" [\"a\",\"b\"]","other":"[a link](x)"}"#);
    let expected = "texts: expected an array, found the string \" [\\\"a\\\",\\\"b\\\"]\"";
    assert_eq!(problem(fields.read::<Vec<String>>(&["texts"])), expected);
    assert_eq!(fields.read::<Vec<String>>(&["other"]).unwrap(), ["[a link](x)"]);
}

#[test]
fn a_message_cuts_a_long_value_between_characters() {
    let text = "ä".repeat(50);
    assert_eq!(quoted(&text), format!("{:?} and 20 bytes more", "ä".repeat(40)));
    assert_eq!(quoted("a\n\u{1b}[0m"), r#""a\n\u{1b}[0m""#);
}

#[test]
fn a_body_that_is_not_json_and_one_that_is_not_an_object_are_different_errors() {
    for malformed in ["", "  ", "{", "{\"a\":NaN}", "{\"a\":1e999}", "{} {}", "{'a':1}"] {
        assert!(matches!(Fields::parse(malformed.as_bytes()), Err(ParseError::MalformedJson { .. })), "{malformed}");
    }
    assert!(matches!(Fields::parse(b"{\"a\":\"\xff\"}"), Err(ParseError::MalformedJson { .. })));
    // A byte order mark and half of a surrogate pair are not worth a refusal.
    assert!(Fields::parse("\u{feff}{}".as_bytes()).is_ok());
    assert!(Fields::parse(b"{\"a\":\"\\ud800\"}").is_ok());
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(matches!(Fields::parse(deep.as_bytes()), Err(ParseError::MalformedJson { .. })));
    for (other, found) in [
        ("[]", "an array of 0 items"),
        ("null", "null"),
        ("3", "the number 3"),
        ("\"text\"", "the string \"text\""),
        ("true", "true"),
    ] {
        let failure = Fields::parse(other.as_bytes()).unwrap_err();
        assert_eq!(failure.to_string(), format!("body: expected an object, found {found}"));
    }
}
