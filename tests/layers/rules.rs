//! Which module may import which, and where big dependencies and `async` may appear.

use super::sources::{Module, Sources};

/// The modules that one top-level module may import.
struct Rule {
    module: &'static str,
    may_import: &'static [&'static str],
}

const RULES: &[Rule] = &[
    Rule { module: "rerank", may_import: &[] },
    Rule { module: "runtime", may_import: &[] },
    Rule { module: "spelling", may_import: &[] },
    Rule { module: "evidence", may_import: &["runtime"] },
    Rule { module: "prompt", may_import: &["evidence", "rerank", "runtime"] },
    Rule { module: "scoring", may_import: &["evidence", "rerank", "prompt", "runtime"] },
    Rule { module: "schedule", may_import: &["rerank", "runtime"] },
    Rule { module: "context", may_import: &["rerank", "schedule"] },
    Rule { module: "pipeline", may_import: &["context", "rerank", "prompt", "scoring", "schedule", "runtime"] },
    Rule { module: "telemetry", may_import: &["context", "rerank", "pipeline", "runtime", "schedule"] },
    Rule { module: "models", may_import: &["context", "rerank", "pipeline", "runtime", "schedule"] },
    Rule { module: "http", may_import: &["context", "rerank", "models", "pipeline", "spelling", "telemetry"] },
    Rule { module: "eval", may_import: &["rerank", "pipeline", "telemetry"] },
    Rule { module: "bench", may_import: &["eval", "pipeline", "prompt", "rerank", "runtime"] },
    Rule {
        module: "config",
        may_import: &["http", "models", "pipeline", "prompt", "rerank", "runtime", "schedule", "spelling", "telemetry"],
    },
    Rule {
        module: "cli",
        may_import: &["app", "bench", "config", "eval", "http", "models", "pipeline", "rerank", "telemetry"],
    },
    Rule {
        module: "app",
        may_import: &[
            "config",
            "context",
            "evidence",
            "http",
            "models",
            "pipeline",
            "prompt",
            "rerank",
            "runtime",
            "schedule",
            "scoring",
            "spelling",
            "telemetry",
        ],
    },
];

/// Crates that only one module may name. A name ending in `*` is a prefix.
const OWNED_CRATES: &[(&str, &str)] = &[
    ("mistralrs*", "runtime"),
    ("candle*", "runtime"),
    ("hf_hub", "runtime"),
    ("axum", "http"),
    ("hyper_util", "http"),
    ("tower_http*", "http"),
    ("opentelemetry*", "telemetry"),
    ("clap", "cli"),
];

/// Modules of plain functions over plain data: no `async`, no tokio, no engine.
const PLAIN: &[&str] = &["rerank", "evidence", "prompt", "scoring"];

/// Parts of `runtime` that plain modules may not name; its plain types they may.
const ENGINE: &[&str] = &["packed", "fake", "Runtime"];

/// Every violation, as a sentence.
pub fn violations(sources: &Sources) -> Vec<String> {
    let mut problems = Vec::new();
    for module in sources.modules.values() {
        let Some(top) = module.path.first() else { continue };
        check_imports(top, module, &mut problems);
        check_crates(top, module, &mut problems);
        if PLAIN.contains(&top.as_str()) {
            check_plainness(top, module, &mut problems);
        }
    }
    problems.sort();
    problems.dedup();
    problems
}

fn check_imports(top: &str, module: &Module, problems: &mut Vec<String>) {
    let Some(rule) = RULES.iter().find(|rule| rule.module == top) else {
        if top != "main" {
            problems.push(format!("{}: {top} has no rule in tests/layers/rules.rs", module.file));
        }
        return;
    };
    for names in &module.named {
        let [root, other, ..] = &names[..] else { continue };
        let is_module = RULES.iter().any(|rule| rule.module == other);
        if root == "crate" && is_module && other != top && !rule.may_import.contains(&other.as_str()) {
            problems.push(format!("{}: {top} imports {other}", module.file));
        }
    }
}

fn check_crates(top: &str, module: &Module, problems: &mut Vec<String>) {
    for (name, owner) in OWNED_CRATES {
        let is_named = module.named.iter().any(|names| match name.strip_suffix('*') {
            Some(prefix) => names[0].starts_with(prefix),
            None => names[0] == *name,
        });
        if is_named && top != *owner {
            problems.push(format!("{}: only {owner} may name {name}", module.file));
        }
    }
}

fn check_plainness(top: &str, module: &Module, problems: &mut Vec<String>) {
    if module.is_async {
        problems.push(format!("{}: {top} may not contain async code", module.file));
    }
    for names in &module.named {
        let part = match &names[..] {
            [first, ..] if first == "tokio" => "tokio",
            [root, runtime, part, ..] if root == "crate" && runtime == "runtime" && ENGINE.contains(&&**part) => part,
            _ => continue,
        };
        problems.push(format!("{}: {top} may not name {part}", module.file));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems_in(file: &str, text: &str) -> Vec<String> {
        let root = "pub mod http; pub mod rerank;".to_owned();
        let files = [("lib.rs".to_owned(), root), (file.to_owned(), text.to_owned())];
        let problems = violations(&Sources::parse(files.into()));
        problems.into_iter().map(|problem| problem.split_once(": ").unwrap().1.to_owned()).collect()
    }

    #[test]
    fn a_forbidden_import_is_found_in_every_spelling() {
        for text in [
            "use crate::http::Service;",
            "use crate::{rerank::Mode, http::{Service, router}};",
            "use crate::{\n    rerank::{Mode},\n    http,\n};",
            "use super::super::http::Service;",
            "fn f() -> crate::http::Service { todo!() }",
            "fn f() { assert!(crate::http::is_up()); }",
            "use crate::http as web; fn f() -> web::Service { todo!() }",
            "#[cfg(test)] mod tests {} use crate::http::Service;",
        ] {
            assert_eq!(problems_in("rerank/slates.rs", text), ["rerank imports http"], "{text}");
        }
        assert_eq!(problems_in("rerank/mod.rs", "use super::http::Service;"), ["rerank imports http"]);
        assert_eq!(problems_in("schedule/mod.rs", "use crate::prompt::X;"), ["schedule imports prompt"]);
    }

    #[test]
    fn a_dependency_in_the_wrong_module_is_found() {
        assert_eq!(problems_in("scoring/mod.rs", "use candle_core::Tensor;"), ["only runtime may name candle*"]);
        assert_eq!(problems_in("app.rs", "fn f() { mistralrs::best(); }"), ["only runtime may name mistralrs*"]);
        assert_eq!(problems_in("main.rs", "use axum::Router;"), ["only http may name axum"]);
    }

    #[test]
    fn async_code_and_engines_are_found_in_plain_modules() {
        assert_eq!(problems_in("prompt/mod.rs", "async fn f() {}"), ["prompt may not contain async code"]);
        assert_eq!(problems_in("scoring/mod.rs", "use crate::runtime::packed::X;"), ["scoring may not name packed"]);
        assert_eq!(problems_in("schedule/mod.rs", "async fn f() {}"), [""; 0]);
    }

    #[test]
    fn a_new_module_needs_a_rule() {
        assert_eq!(problems_in("utils/mod.rs", ""), ["utils has no rule in tests/layers/rules.rs"]);
    }

    #[test]
    fn comments_strings_and_tests_may_name_everything() {
        let text = r#"
            //! Nothing of crate::http or axum.
            const X: &str = "crate::http and candle"; // async
            use crate::rerank::Mode;
            #[cfg(test)]
            mod tests { use crate::http::Service; }
            #[cfg(test)]
            impl X { async fn f() {} }
        "#;
        assert_eq!(problems_in("rerank/mod.rs", text), [""; 0]);
    }

    #[test]
    fn allowed_imports_are_not_reported() {
        let text = "use axum::Json; use crate::rerank::RerankError; use super::Service;";
        assert_eq!(problems_in("http/routes.rs", text), [""; 0]);
        let text = "use crate::runtime::ForwardPass; use crate::prompt::Rendered;";
        assert_eq!(problems_in("scoring/mod.rs", text), [""; 0]);
    }
}
