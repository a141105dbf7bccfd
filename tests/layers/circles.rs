//! Finds files that import each other in a circle.
//!
//! A parent module and its descendants are exempt: a parent re-exports its children, and they use
//! its types.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::sources::Sources;

/// Each circle once, as `a.rs -> b.rs -> a.rs`.
pub fn find(sources: &Sources) -> Vec<String> {
    let edges = edges(sources);
    let mut circles = Vec::new();
    let mut seen = BTreeSet::new();
    for start in edges.keys() {
        if seen.contains(start) {
            continue;
        }
        if let Some(circle) = shortest_circle(&edges, start) {
            seen.extend(circle.iter().copied());
            circles.push(circle.join(" -> "));
        }
    }
    circles
}

fn edges(sources: &Sources) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut edges = BTreeMap::<&str, BTreeSet<&str>>::new();
    for module in sources.modules.values() {
        for names in &module.named {
            let Some(owner) = sources.owner(names) else { continue };
            let is_relative = owner.path.starts_with(&module.path) || module.path.starts_with(&owner.path);
            if !is_relative && owner.file != module.file {
                edges.entry(&module.file).or_default().insert(&owner.file);
            }
        }
    }
    edges
}

fn shortest_circle<'a>(edges: &BTreeMap<&'a str, BTreeSet<&'a str>>, start: &'a str) -> Option<Vec<&'a str>> {
    let mut came_from = BTreeMap::<&str, &str>::new();
    let mut queue = VecDeque::from([start]);
    while let Some(file) = queue.pop_front() {
        for &next in edges.get(file).into_iter().flatten() {
            if next == start {
                let mut circle = vec![start, file];
                while let Some(&before) = came_from.get(circle[circle.len() - 1]) {
                    circle.push(before);
                }
                circle.reverse();
                return Some(circle);
            }
            if !came_from.contains_key(next) {
                came_from.insert(next, file);
                queue.push_back(next);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn circles_in(files: &[(&str, &str)]) -> Vec<String> {
        let files = files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
        find(&Sources::parse(files.collect()))
    }

    #[test]
    fn two_files_that_import_each_other_are_found() {
        let files = [
            ("lib.rs", "mod a; mod b;"),
            ("a.rs", "use crate::b::B; pub struct A;"),
            ("b.rs", "pub struct B; impl B { fn f() { crate::a::A; } }"),
        ];
        assert_eq!(circles_in(&files), ["a.rs -> b.rs -> a.rs"]);
    }

    #[test]
    fn a_circle_through_a_re_export_is_found() {
        let files = [
            ("lib.rs", "mod m;"),
            ("m/mod.rs", "mod a; mod b; pub use a::A;"),
            ("m/a.rs", "use super::b::B; pub struct A;"),
            ("m/b.rs", "use super::A; pub struct B;"),
        ];
        assert_eq!(circles_in(&files), ["m/a.rs -> m/b.rs -> m/a.rs"]);
    }

    #[test]
    fn a_circle_of_three_files_is_found_once() {
        let files = [
            ("lib.rs", "mod a; mod b; mod c;"),
            ("a.rs", "use crate::b::B; pub struct A;"),
            ("b.rs", "use crate::c::C; pub struct B;"),
            ("c.rs", "use crate::a::A; pub struct C;"),
        ];
        assert_eq!(circles_in(&files), ["a.rs -> b.rs -> c.rs -> a.rs"]);
    }

    #[test]
    fn a_parent_and_its_child_may_use_each_other() {
        let files = [
            ("lib.rs", "mod m;"),
            ("m/mod.rs", "mod a; pub use a::A; pub struct Shared;"),
            ("m/a.rs", "use super::Shared; pub struct A;"),
        ];
        assert_eq!(circles_in(&files), [""; 0]);
    }
}
