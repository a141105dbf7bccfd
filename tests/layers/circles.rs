//! Finds files that import each other in a circle, and modules side by side that do, each with all
//! that is in it.
//!
//! A parent module and its descendants are exempt: a parent re-exports its children, and they use
//! its types.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::sources::Sources;

/// Each circle of files once, as `a.rs -> b.rs -> a.rs`.
pub fn find(sources: &Sources) -> Vec<String> {
    find_in(&edges(sources))
}

/// Each circle of modules with the same parent once, as `m::a -> m::b -> m::a`.
pub fn find_between_siblings(sources: &Sources) -> Vec<String> {
    let mut edges = BTreeMap::<String, BTreeSet<String>>::new();
    for module in sources.modules.values() {
        for owner in module.named.iter().filter_map(|names| sources.owner(names)) {
            let (from, to) = (&module.path, &owner.path);
            let shared = from.iter().zip(to).take_while(|(from, to)| from == to).count();
            if shared < from.len().min(to.len()) {
                edges.entry(from[..=shared].join("::")).or_default().insert(to[..=shared].join("::"));
            }
        }
    }
    let edges = edges.iter().map(|(from, to)| (from.as_str(), to.iter().map(String::as_str).collect()));
    find_in(&edges.collect())
}

fn find_in(edges: &BTreeMap<&str, BTreeSet<&str>>) -> Vec<String> {
    let mut circles = Vec::new();
    let mut seen = BTreeSet::new();
    for start in edges.keys() {
        if seen.contains(start) {
            continue;
        }
        if let Some(circle) = shortest_circle(edges, start) {
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
    fn two_folders_whose_files_make_no_circle_are_found() {
        let files = [
            ("lib.rs", "mod m;"),
            ("m/mod.rs", "mod a; mod b;"),
            ("m/a/mod.rs", "mod x; mod y;"),
            ("m/a/x.rs", "use crate::m::b::B;"),
            ("m/a/y.rs", "pub struct Y;"),
            ("m/b.rs", "use super::a::y::Y; pub struct B;"),
        ];
        assert_eq!(circles_in(&files), [""; 0]);
        let files = files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
        assert_eq!(find_between_siblings(&Sources::parse(files.collect())), ["m::a -> m::b -> m::a"]);
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
