//! Helpers: writes small sets, runs the program, starts a server.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

const CORPUS: &str = r#"{"_id": "bread", "title": "Bread", "text": "Dough rises because yeast makes gas out of sugar."}
{"_id": "oven", "title": "", "text": "An oven is preheated for half an hour before baking."}
{"_id": "tides", "text": "The moon pulls the sea, and that makes the tides."}
{"_id": "moon", "text": "The moon is a quarter as wide as the earth."}
{"_id": "rust", "text": "Iron rusts when water and air reach it."}
{"_id": "paint", "text": "Paint keeps water away from iron and wood."}
"#;

const QUERIES: &str = r#"{"_id": "q1", "text": "Why does dough rise?"}
{"_id": "q2", "text": "What causes the tides of the sea?"}
{"_id": "q3", "text": "How is iron kept from rusting?"}
{"_id": "q4", "text": "How large is the moon?"}
{"_id": "q5", "text": "Nobody judged this."}
"#;

const GRADES: &str = "query-id\tcorpus-id\tscore\nq1\tbread\t2\nq1\toven\t0\nq2\ttides\t1\nq2\tmoon\t-1\nq3\tpaint\t2\nq3\trust\t1\nq4\tbread\t0\n";

const RUN: &str = "q1 Q0 oven 1 9.0 t\nq1 Q0 bread 2 8.0 t\nq1 Q0 rust 3 7.0 t\nq2 Q0 moon 1 3 t\nq2 Q0 tides 2 2 t\nq3 Q0 rust 1 1 t\nq3 Q0 paint 2 0.5 t\nq3 Q0 tides 3 0.1 t\n";

const SLATES: &str = r#"{"query": "fruit", "instruction": "Prefer what is yellow.", "documents": ["a red apple", "a yellow banana", {"title": "Stone", "text": "a grey stone"}], "relevance": [0.5, 2, 0]}
{"query": "capital of France", "id": "france", "positive": "Paris is the capital of France.", "negative": ["Lyon is a city in France.", "Berlin is the capital of Germany."]}
"#;

/// Creates a folder with the set `small`, which has a run, and the file `slates.jsonl`.
pub fn write_sets() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let small = folder.path().join("small");
    fs::create_dir_all(small.join("qrels")).unwrap();
    for (name, content) in
        [("corpus.jsonl", CORPUS), ("queries.jsonl", QUERIES), ("qrels/test.tsv", GRADES), ("first.trec", RUN)]
    {
        fs::write(small.join(name), content).unwrap();
    }
    fs::write(folder.path().join("slates.jsonl"), SLATES).unwrap();
    folder
}

/// Runs `podium eval` in a folder.
pub fn eval(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_podium"));
    command.current_dir(folder).env_clear().arg("eval").args(arguments).stdin(Stdio::null()).output().unwrap()
}

/// Runs `podium eval --json -` and parses its output.
pub fn eval_json(folder: &Path, arguments: &[&str]) -> Value {
    let output = eval(folder, &[arguments, &["--json", "-"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A server on a free port; it is killed when dropped.
pub struct Server {
    pub url: String,
    process: Child,
}

impl Server {
    pub fn start() -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_podium"))
            .args(["serve", "--listen", "127.0.0.1:0", "--device", "cpu"])
            .env_clear()
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(process.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains("listening on http://") {
            line.clear();
            assert!(log.read_line(&mut line).unwrap() > 0, "the server exited before it listened");
        }
        let (_, address) = line.split_once("listening on ").unwrap();
        let address = address.split_whitespace().next().unwrap();
        // Keep reading the log, because the server would block on a full pipe.
        let url = address.chars().filter(|letter| !letter.is_control()).collect();
        std::thread::spawn(move || log.lines().all(|line| line.is_ok()));
        Self { url, process }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}
