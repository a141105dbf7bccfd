//! The rooms' import rules, as a test: who may name whom, and where `async` and the big dependencies may stand.
//!
//! Reads the source as text, without comments, strings' contents and test modules. `src/lib.rs` has the map.

#![expect(clippy::unwrap_used, reason = "a test that cannot read the sources should fail")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What the code of one room may name of the others.
struct Rule {
    room: &'static str,
    may_import: &'static [&'static str],
}

const RULES: &[Rule] = &[
    Rule { room: "rerank", may_import: &[] },
    Rule { room: "runtime", may_import: &[] },
    Rule { room: "spelling", may_import: &[] },
    Rule { room: "prompt", may_import: &["rerank", "runtime"] },
    Rule { room: "scoring", may_import: &["rerank", "prompt", "runtime"] },
    Rule { room: "schedule", may_import: &["rerank", "runtime"] },
    Rule { room: "context", may_import: &["rerank", "schedule"] },
    Rule { room: "pipeline", may_import: &["context", "rerank", "prompt", "scoring", "schedule", "runtime"] },
    Rule { room: "telemetry", may_import: &["context", "rerank", "pipeline", "runtime", "schedule"] },
    Rule { room: "models", may_import: &["context", "rerank", "pipeline", "runtime", "schedule"] },
    Rule { room: "http", may_import: &["context", "rerank", "models", "pipeline", "spelling", "telemetry"] },
    Rule { room: "eval", may_import: &["rerank", "pipeline"] },
    Rule { room: "bench", may_import: &["eval", "pipeline", "prompt", "rerank", "runtime"] },
    Rule {
        room: "config",
        may_import: &["http", "models", "pipeline", "prompt", "rerank", "runtime", "schedule", "spelling", "telemetry"],
    },
    Rule {
        room: "cli",
        may_import: &["app", "bench", "config", "eval", "http", "models", "pipeline", "rerank", "telemetry"],
    },
    Rule {
        room: "app",
        may_import: &[
            "config",
            "http",
            "models",
            "pipeline",
            "prompt",
            "rerank",
            "runtime",
            "schedule",
            "scoring",
            "telemetry",
        ],
    },
];

/// Crates that only one room may name. A name ending in `*` is a prefix.
const OWNED_CRATES: &[(&str, &str)] = &[
    ("mistralrs*", "runtime"),
    ("candle*", "runtime"),
    ("hf_hub", "runtime"),
    ("axum", "http"),
    ("hyper_util", "http"),
    ("tower_http*", "http"),
    ("clap", "cli"),
];

/// Rooms of plain functions over plain data.
const SYNCHRONOUS: &[&str] = &["rerank", "prompt", "scoring"];

/// The parts of `runtime` that are plain types; the rooms above the scheduler have no business with the others.
const NOT_PLAIN: &[&str] = &["runtime::packed", "runtime::fake", "runtime::Runtime", "tokio"];

/// What is wrong with one file, in sentences.
fn violations(path: &Path, source: &str) -> Vec<String> {
    let modules = module_path(path);
    let Some(room) = modules.first().map(String::as_str) else { return Vec::new() };
    let code = code_of(source);
    let place = path.display();
    let mut found = Vec::new();

    if let Some(rule) = RULES.iter().find(|rule| rule.room == room) {
        for other in imported_rooms(&code, modules.len()) {
            let is_room = RULES.iter().any(|rule| rule.room == other);
            if is_room && other != room && !rule.may_import.contains(&other.as_str()) {
                found.push(format!("{place}: {room} imports {other}"));
            }
        }
    } else if room != "main" {
        found.push(format!("{place}: {room} has no rule in tests/layers.rs"));
    }
    let words: BTreeSet<&str> = words(&code).collect();
    for (name, owner) in OWNED_CRATES {
        let named = match name.strip_suffix('*') {
            Some(prefix) => words.iter().any(|word| word.starts_with(prefix)),
            None => words.contains(name),
        };
        if named && room != *owner {
            found.push(format!("{place}: only {owner} may name {name}"));
        }
    }
    if SYNCHRONOUS.contains(&room) {
        if words.contains("async") {
            found.push(format!("{place}: {room} holds no async"));
        }
        for part in NOT_PLAIN {
            if code.contains(part) {
                found.push(format!("{place}: {room} may not name {part}"));
            }
        }
    }
    found
}

/// `src/http/dialects/mod.rs` is `["http", "dialects"]`; `src/lib.rs` is nothing.
fn module_path(path: &Path) -> Vec<String> {
    let mut modules: Vec<String> =
        path.with_extension("").components().map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
    if let Some(start) = modules.iter().rposition(|part| part == "src") {
        modules.drain(..=start);
    }
    modules.pop_if(|last| last == "mod" || last == "lib");
    modules
}

/// The source up to its test module, without comments and without what strings hold.
fn code_of(source: &str) -> String {
    let production = source.split("#[cfg(test)]").next().unwrap_or_default();
    let mut code = String::new();
    for line in production.lines() {
        let mut in_string = false;
        let mut previous = ' ';
        for (place, letter) in line.char_indices() {
            if letter == '"' && previous != '\\' && previous != '\'' {
                in_string = !in_string;
            } else if !in_string {
                if line[place..].starts_with("//") {
                    break;
                }
                code.push(letter);
            }
            previous = letter;
        }
        code.push('\n');
    }
    code
}

/// The first names after the crate's root: `crate::a`, `crate::{a, b::c}`, and `super::` as often as it takes.
fn imported_rooms(code: &str, depth: usize) -> BTreeSet<String> {
    let up = "super::".repeat(depth);
    let mut rooms = BTreeSet::new();
    for root in ["crate::", up.as_str()] {
        for (place, _) in code.match_indices(root) {
            let after = &code[place + root.len()..];
            match after.strip_prefix('{') {
                None => rooms.extend(words(after).next().map(str::to_owned)),
                Some(group) => {
                    let mut level = 1;
                    let mut expect_name = true;
                    let mut rest = group;
                    while let Some(letter) = rest.chars().next() {
                        match letter {
                            '{' => level += 1,
                            '}' => level -= 1,
                            ',' if level == 1 => expect_name = true,
                            _ if expect_name && is_word(letter) => {
                                rooms.extend(words(rest).next().map(str::to_owned));
                                expect_name = false;
                            }
                            _ => {}
                        }
                        if level == 0 {
                            break;
                        }
                        rest = &rest[letter.len_utf8()..];
                    }
                }
            }
        }
    }
    rooms
}

fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|letter| !is_word(letter)).filter(|word| !word.is_empty())
}

fn is_word(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("tests.rs") {
            found.push(path);
        }
    }
}

#[test]
fn every_room_imports_only_what_it_may() {
    let mut files = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
    assert!(files.len() > RULES.len(), "the sources were not found");
    let found: Vec<String> =
        files.iter().flat_map(|path| violations(path, &fs::read_to_string(path).unwrap())).collect();
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

fn found_in(path: &str, source: &str) -> Vec<String> {
    violations(&Path::new("/podium/src").join(path), source)
        .into_iter()
        .map(|violation| violation.split_once(": ").unwrap().1.to_owned())
        .collect()
}

#[test]
fn a_forbidden_import_is_found_in_every_spelling() {
    let imports_http = ["rerank imports http"];
    assert_eq!(found_in("rerank/slates.rs", "use crate::http::Service;"), imports_http);
    assert_eq!(found_in("rerank/slates.rs", "use crate::{rerank::Mode, http::{Service, router}};"), imports_http);
    assert_eq!(found_in("rerank/slates.rs", "use crate::{\n    rerank::{Mode},\n    http,\n};"), imports_http);
    assert_eq!(found_in("rerank/slates.rs", "use super::super::http::Service;"), imports_http);
    assert_eq!(found_in("rerank/mod.rs", "use super::http::Service;"), imports_http);
    assert_eq!(found_in("rerank/mod.rs", "fn f() -> crate::http::Service {}"), imports_http);
    assert_eq!(found_in("runtime/packed/mod.rs", "use crate::rerank::Mode;"), ["runtime imports rerank"]);
    assert_eq!(found_in("schedule/mod.rs", "use crate::prompt::X;"), ["schedule imports prompt"]);
}

#[test]
fn a_dependency_in_the_wrong_room_is_found() {
    assert_eq!(found_in("scoring/mod.rs", "use candle_core::Tensor;"), ["only runtime may name candle*"]);
    assert_eq!(found_in("app.rs", "let x = mistralrs::best_device();"), ["only runtime may name mistralrs*"]);
    assert_eq!(found_in("app.rs", "use axum::Router;"), ["only http may name axum"]);
    assert_eq!(found_in("main.rs", "use axum::Router;"), ["only http may name axum"]);
}

#[test]
fn async_and_runtimes_do_not_stand_in_plain_rooms() {
    assert_eq!(found_in("prompt/mod.rs", "async fn f() {}"), ["prompt holds no async"]);
    assert_eq!(found_in("scoring/mod.rs", "use crate::runtime::packed::X;"), ["scoring may not name runtime::packed"]);
    assert_eq!(found_in("schedule/mod.rs", "async fn f() {}"), [""; 0]);
}

#[test]
fn a_new_room_needs_a_rule() {
    assert_eq!(found_in("utils/mod.rs", ""), ["utils has no rule in tests/layers.rs"]);
}

#[test]
fn comments_strings_and_tests_may_name_everything() {
    let source = r#"
        //! Nothing of crate::http or axum.
        let x = "crate::http and candle"; // async
        use crate::rerank::Mode;
        #[cfg(test)]
        mod tests { use crate::http::Service; }
    "#;
    assert_eq!(found_in("rerank/mod.rs", source), [""; 0]);
}

#[test]
fn what_is_allowed_is_not_reported() {
    assert_eq!(
        found_in("http/routes.rs", "use axum::Json; use crate::rerank::RerankError; use super::Service;"),
        [""; 0]
    );
    assert_eq!(
        found_in("scoring/mod.rs", "use crate::runtime::{TokenPosition, Output}; use crate::prompt::Rendered;"),
        [""; 0]
    );
    assert_eq!(found_in("lib.rs", "pub mod http;"), [""; 0]);
}
