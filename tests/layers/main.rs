//! Checks the structure of the crate: which module may import which, which crates and keywords are
//! confined to one module, that no files import each other in a circle, how long a file may be, and how
//! wide a comment.
//!
//! The checks parse every file under `src` and read all of it except items marked `#[cfg(test)]`.
//! `ARCHITECTURE.md` explains the rules.

#![expect(clippy::unwrap_used, reason = "a test that cannot read the sources should fail")]

mod circles;
mod rules;
mod sources;

use std::fs;
use std::path::{Path, PathBuf};

use sources::Sources;

/// The most lines of one file, its tests included.
const MAX_LINES: usize = 450;

/// The most characters of a line with a comment, which rustfmt does not wrap.
const MAX_COMMENT_WIDTH: usize = 100;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn report(problems: &[String]) {
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

#[test]
fn every_module_imports_only_the_modules_below_it() {
    let sources = Sources::read(&root().join("src"));
    assert!(sources.modules.len() > 100, "the sources were not found");
    report(&rules::violations(&sources));
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    report(&circles::find(&Sources::read(&root().join("src"))));
}

#[test]
fn no_modules_side_by_side_import_each_other_in_a_circle() {
    // The service holds the authenticator and the measures need grades, so these have circles.
    let is_known = |circle: &String| ["eval::", "http::"].iter().any(|parent| circle.starts_with(parent));
    let circles = circles::find_between_siblings(&Sources::read(&root().join("src")));
    report(&circles.into_iter().filter(|circle| !is_known(circle)).collect::<Vec<_>>());
}

#[test]
fn no_file_is_too_long() {
    let mut files = Vec::new();
    for folder in ["src", "tests", "benches", "fuzz/src"] {
        rust_files(&root().join(folder), &mut files);
    }
    let mut problems = Vec::new();
    for file in &files {
        let lines = fs::read_to_string(file).unwrap().lines().count();
        if lines > MAX_LINES {
            problems.push(format!("{}: {lines} lines; the limit is {MAX_LINES}", file.display()));
        }
    }
    report(&problems);
}

#[test]
fn no_comment_is_too_wide() {
    let mut files = Vec::new();
    rust_files(&root().join("src"), &mut files);
    let mut problems = Vec::new();
    for file in &files {
        for (number, line) in (1..).zip(fs::read_to_string(file).unwrap().lines()) {
            let text = line.trim_start();
            // The row of a table cannot be wrapped.
            let is_prose = text.starts_with("//") && !text.trim_start_matches(['/', '!']).starts_with(" |");
            let width = line.chars().count();
            if is_prose && width > MAX_COMMENT_WIDTH {
                problems
                    .push(format!("{}:{number}: {width} columns; the limit is {MAX_COMMENT_WIDTH}", file.display()));
            }
        }
    }
    report(&problems);
}
