//! Parses the crate into modules and the paths that each of them names.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use syn::visit::{self, Visit};
use syn::{Attribute, ImplItem, Item, ItemMod, ItemUse, Macro, UseTree, parse_file};

/// A path from the root of the crate, or from the name of another crate.
pub type Names = Vec<String>;

/// One module: a file, or an inline module of one.
#[derive(Debug, Default)]
pub struct Module {
    /// The module's own path from the root of the crate; empty for the root.
    pub path: Names,
    /// The file that contains it, relative to `src`.
    pub file: String,
    /// A name that `use` brings into scope: the local name and the full path.
    pub imports: BTreeMap<String, Names>,
    /// Full paths that the module names, in `use` and in code.
    pub named: BTreeSet<Names>,
    /// Whether it contains `async` code.
    pub is_async: bool,
}

/// All modules of the crate except its tests, by path.
#[derive(Debug, Default)]
pub struct Sources {
    pub modules: BTreeMap<Names, Module>,
}

impl Sources {
    /// Reads all files below `src`.
    pub fn read(src: &Path) -> Self {
        let mut files = Vec::new();
        super::rust_files(src, &mut files);
        let texts = files.iter().map(|path| {
            let name = path.strip_prefix(src).unwrap().display().to_string();
            (name, fs::read_to_string(path).unwrap())
        });
        Self::parse(texts.collect())
    }

    /// Parses files: names relative to `src`, and their contents.
    pub fn parse(files: BTreeMap<String, String>) -> Self {
        let mut sources = Self::default();
        let mut test_modules = Vec::new();
        for (name, text) in files {
            let file = parse_file(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
            let mut reader = Reader::new(&name, module_path(&name));
            reader.visit_file(&file);
            test_modules.append(&mut reader.test_modules);
            for module in reader.modules {
                sources.modules.insert(module.path.clone(), module);
            }
        }
        sources.modules.retain(|path, _| !test_modules.iter().any(|tests| path.starts_with(tests)));
        sources.resolve_relative_paths();
        sources
    }

    /// Completes paths that begin with a child module or an imported name.
    fn resolve_relative_paths(&mut self) {
        let paths: BTreeSet<Names> = self.modules.keys().cloned().collect();
        for module in self.modules.values_mut() {
            let imports = module.imports.clone();
            let complete = |names: &Names| -> Names {
                let first = &names[0];
                if first == "crate" {
                    return names.clone();
                }
                let mut child = module.path.clone();
                child.push(first.clone());
                if paths.contains(&child) {
                    return absolute(&module.path, names);
                }
                match imports.get(first) {
                    Some(import) if import[0] != *first || import.len() > 1 => {
                        import.iter().chain(&names[1..]).cloned().collect()
                    }
                    _ => names.clone(),
                }
            };
            module.named = module.named.iter().map(&complete).collect();
            module.imports = module.imports.iter().map(|(name, path)| (name.clone(), complete(path))).collect();
        }
    }

    /// The module that defines the item at `path`: follows child modules and re-exports. `None` for
    /// other crates.
    pub fn owner(&self, path: &[String]) -> Option<&Module> {
        self.follow(path, 0)
    }

    fn follow(&self, path: &[String], depth: usize) -> Option<&Module> {
        const MAX_RE_EXPORTS: usize = 8;
        if path.first()? != "crate" || depth > MAX_RE_EXPORTS {
            return None;
        }
        let mut module = self.modules.get(&Vec::new())?;
        for (place, name) in path.iter().enumerate().skip(1) {
            let mut child = module.path.clone();
            child.push(name.clone());
            if let Some(next) = self.modules.get(&child) {
                module = next;
                continue;
            }
            return match module.imports.get(name) {
                Some(import) if import.first()? == "crate" => {
                    let target: Names = import.iter().chain(&path[place + 1..]).cloned().collect();
                    self.follow(&target, depth + 1)
                }
                _ => Some(module),
            };
        }
        Some(module)
    }
}

/// `http/dialects/mod.rs` is `["http", "dialects"]`; `lib.rs` is the root.
fn module_path(file: &str) -> Names {
    let mut path: Names = file.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    path.pop_if(|last| last == "mod" || last == "lib");
    path
}

fn absolute(module: &[String], rest: &[String]) -> Names {
    std::iter::once("crate".to_owned()).chain(module.iter().cloned()).chain(rest.iter().cloned()).collect()
}

/// Collects the modules of one file.
struct Reader {
    modules: Vec<Module>,
    /// Index of the module being read.
    current: usize,
    /// Modules declared under `#[cfg(test)]`.
    test_modules: Vec<Names>,
}

impl Reader {
    fn new(file: &str, path: Names) -> Self {
        let module = Module { path, file: file.to_owned(), ..Module::default() };
        Self { modules: vec![module], current: 0, test_modules: Vec::new() }
    }

    fn module(&mut self) -> &mut Module {
        &mut self.modules[self.current]
    }

    /// Makes a path absolute where it starts with `crate`, `self` or `super`; others stay as they
    /// are.
    fn root(&self, names: Names) -> Names {
        let own = &self.modules[self.current].path;
        let ups = names.iter().take_while(|name| *name == "super").count();
        if ups > 0 {
            return absolute(&own[..own.len().saturating_sub(ups)], &names[ups..]);
        }
        match names[0].as_str() {
            "self" => absolute(own, &names[1..]),
            _ => names,
        }
    }

    fn add_use(&mut self, prefix: &Names, tree: &UseTree) {
        let join = |name: &dyn ToString| {
            let mut names = prefix.clone();
            names.push(name.to_string());
            names
        };
        match tree {
            UseTree::Path(path) => self.add_use(&join(&path.ident), &path.tree),
            UseTree::Group(group) => group.items.iter().for_each(|item| self.add_use(prefix, item)),
            UseTree::Glob(_) => {
                let names = self.root(prefix.clone());
                self.module().named.insert(names);
            }
            UseTree::Name(name) if name.ident == "self" => {
                let local = prefix.last().unwrap().clone();
                self.add_import(local, prefix.clone());
            }
            UseTree::Name(name) => self.add_import(name.ident.to_string(), join(&name.ident)),
            UseTree::Rename(rename) => self.add_import(rename.rename.to_string(), join(&rename.ident)),
        }
    }

    fn add_import(&mut self, local: String, names: Names) {
        let names = self.root(names);
        self.module().named.insert(names.clone());
        self.module().imports.insert(local, names);
    }

    /// Paths inside a macro call, whose tokens are not parsed.
    fn add_macro_paths(&mut self, tokens: &str) {
        let words: Vec<&str> = tokens.split_whitespace().collect();
        let mut place = 0;
        while place < words.len() {
            let mut names = vec![words[place].to_owned()];
            while words.get(place + 1) == Some(&"::") && words.get(place + 2).is_some() {
                names.push(words[place + 2].to_owned());
                place += 2;
            }
            if names.len() > 1 {
                let names = self.root(names);
                self.module().named.insert(names);
            }
            place += 1;
        }
    }
}

fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute.parse_args::<syn::Path>().is_ok_and(|condition| condition.is_ident("test"))
    })
}

#[expect(clippy::wildcard_enum_match_arm, reason = "syn may add kinds of items")]
fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_item(&mut self, item: &'ast Item) {
        if !is_test(attributes(item)) {
            visit::visit_item(self, item);
        } else if let Item::Mod(ItemMod { ident, content: None, .. }) = item {
            let mut path = self.module().path.clone();
            path.push(ident.to_string());
            self.test_modules.push(path);
        }
    }

    fn visit_impl_item(&mut self, item: &'ast ImplItem) {
        let is_for_tests = if let ImplItem::Fn(function) = item { is_test(&function.attrs) } else { false };
        if !is_for_tests {
            visit::visit_impl_item(self, item);
        }
    }

    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        let Some((_, items)) = &item.content else { return };
        let outer = self.current;
        let (mut path, file) = (self.module().path.clone(), self.module().file.clone());
        path.push(item.ident.to_string());
        self.modules.push(Module { path, file, ..Module::default() });
        self.current = self.modules.len() - 1;
        for item in items {
            self.visit_item(item);
        }
        self.current = outer;
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        self.add_use(&Vec::new(), &item.tree);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names: Names = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        if names.len() > 1 {
            let names = self.root(names);
            self.module().named.insert(names);
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast Macro) {
        self.visit_path(&call.path);
        self.add_macro_paths(&call.tokens.to_string());
    }

    fn visit_signature(&mut self, signature: &'ast syn::Signature) {
        self.module().is_async |= signature.asyncness.is_some();
        visit::visit_signature(self, signature);
    }

    fn visit_expr_async(&mut self, block: &'ast syn::ExprAsync) {
        self.module().is_async = true;
        visit::visit_expr_async(self, block);
    }

    fn visit_attribute(&mut self, _: &'ast Attribute) {}
}
