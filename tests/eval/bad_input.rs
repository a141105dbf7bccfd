//! Invalid data and flags end with exit code 2 and one message; failing systems with exit code 1.

use std::fs;

use crate::support::{eval, text, write_sets};

#[test]
fn errors_in_files_are_reported_with_line_and_value() {
    for (file, content, message) in [
        (
            "small/qrels/test.tsv",
            "q1\tbread\t1\nq1\toven\tx\n",
            "small/qrels/test.tsv line 2: the grade \"x\" is not a number",
        ),
        (
            "small/qrels/test.tsv",
            "q1\tcake\t1\n",
            "small/qrels/test.tsv line 1: the document \"cake\" is not in small/corpus.jsonl",
        ),
        (
            "small/qrels/test.tsv",
            "q1\tbread\t0\n",
            "small: no query has a relevant document (a grade of 1 or more); the highest grade is 0",
        ),
        (
            "small/first.trec",
            "q1 Q0 cake 1 1 t\n",
            "small/first.trec line 1: the document \"cake\" is not in small/corpus.jsonl",
        ),
        ("small/queries.jsonl", "{\"_id\": \"q1\"}\n", "small/queries.jsonl line 1: text: this field is required"),
    ] {
        let folder = write_sets();
        fs::write(folder.path().join(file), content).unwrap();
        let output = eval(folder.path(), &["small", "--run", "first.trec"]);
        assert_eq!(text(&output.stderr), format!("error: {message}\n"));
        assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(2), ""));
    }
}

#[test]
fn invalid_flags_exit_with_2() {
    let folder = write_sets();
    for (arguments, message) in [
        (&["nothing"][..], "cannot read nothing: No such file or directory (os error 2)"),
        (&["small", "--run", "no.trec"], "cannot read no.trec: No such file or directory (os error 2)"),
        (
            &["small", "--split", "dev"],
            "small: qrels/dev.tsv is missing; choose a split with --split (available: test)",
        ),
        (
            &["slates.jsonl", "--run", "first.trec"],
            "--run and --split work only with folders; slates.jsonl is a file of slates, which has its own order",
        ),
        (&["small", "small"], "the set small is given twice"),
        (
            &["small", "--json", "a.json", "--gate", "a.json"],
            "--json would overwrite the baseline of --gate; choose another file",
        ),
        (&["small", "--gate", "a.json"], "cannot read the baseline a.json: No such file or directory (os error 2)"),
        (&["small", "--report", "no/out.html"], "cannot write no/out.html: No such file or directory (os error 2)"),
        (&["small", "--url", "ftp://h/x"], "\"ftp://h/x\" is not a valid http or https URL: its scheme is \"ftp\""),
        (
            &["small", "--url", "http://h", "--api-key-env", "NO_SUCH_KEY"],
            "--api-key-env: the environment variable NO_SUCH_KEY is not set or empty",
        ),
        (
            &["small", "--url", "http://h", "--model", "m"],
            "--model, --revision, --family, --device, --dtype, --quantize and --offline cannot be used with --url; use --url-model to name the endpoint's model",
        ),
        (
            &["small", "--url", "http://h", "--api", "tei", "--mode", "pointwise"],
            "--mode and --max-tokens-per-doc work only with --api rerank",
        ),
    ] {
        let output = eval(folder.path(), arguments);
        let printed = text(&output.stderr);
        assert!(printed.starts_with(&format!("error: {message}")), "{arguments:?}: {printed}");
        assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(2), ""), "{arguments:?}");
    }
    for arguments in [
        &[][..],
        &["small", "--top", "0"],
        &["small", "--gate", "a", "--max-drop", "-1"],
        &["small", "--max-drop", "1"],
        &["--corpus", "small/corpus.jsonl"],
        &["small", "--api-key-env", "KEY"],
        &["small", "--corpus", "c", "--topics", "t", "--qrels", "q"],
    ] {
        assert_eq!(eval(folder.path(), arguments).status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn a_request_that_the_model_rejects_exits_with_2_and_names_the_query() {
    let folder = write_sets();
    let output = eval(folder.path(), &["slates.jsonl", "--mode", "pointwise", "--max-tokens-per-doc", "1"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let long = format!("{{\"query\": \"q\", \"positive\": \"a\", \"negative\": [{}]}}", vec!["\"b\""; 1001].join(","));
    fs::write(folder.path().join("long.jsonl"), long).unwrap();
    let output = eval(folder.path(), &["long.jsonl", "--top", "2000"]);
    assert_eq!(
        text(&output.stderr),
        "error: long, query \"1\": documents: 1002 documents are over the limit of 1000 in one request\n"
    );
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn an_unreachable_endpoint_exits_with_1_and_names_set_and_query() {
    let folder = write_sets();
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let output = eval(folder.path(), &["small", "--url", &format!("http://127.0.0.1:{port}/x?key=secret")]);
    let printed = text(&output.stderr);
    let start = format!("error: small, query \"q1\": no reply from http://127.0.0.1:{port}/x: ");
    assert!(printed.starts_with(&start), "{printed}");
    assert!(!printed.contains("secret"), "{printed}");
    assert_eq!(output.status.code(), Some(1));
}
