//! Groups the passes of a batch that run together, and lays out their rows; needs no device.

use std::cell::Cell;
use std::collections::BTreeMap;

use super::PackedRuntime;
use super::batch_threads::Part;
use super::layout::{self, Packed};
use super::prefix_cache::CacheLookup;
use crate::runtime::{ForwardPass, Head, RuntimeError};

/// Passes of a batch that read after the same layer. Those with a reader are a group of their own;
/// those without an exit run with those that have one.
pub(super) struct Group {
    /// Layers that the passes run through.
    pub depth: usize,
    /// The layer after which some suffixes leave, if some do.
    pub exit: Option<usize>,
    /// Their numbers in the batch.
    pub numbers: Vec<usize>,
    /// `None`: the group is the whole batch.
    passes: Option<Vec<ForwardPass>>,
    pub layout: Layout,
}

/// How a group runs.
pub(super) enum Layout {
    /// In parts, each on a thread of its own.
    Parts(Vec<Part>),
    /// As one run of rows.
    Rows(Rows),
}

/// Packed rows, for the blocks that the prefix cache had when they were laid out.
pub(super) struct Rows {
    hits: Vec<Vec<usize>>,
    packed: Cell<Option<Packed>>,
}

impl Group {
    /// The group's passes, of its batch.
    pub fn passes<'a>(&'a self, batch: &'a [ForwardPass]) -> &'a [ForwardPass] {
        self.passes.as_deref().unwrap_or(batch)
    }
}

impl Rows {
    /// The rows for the blocks that the prefix cache has now: the rows laid out before, unless its
    /// blocks have changed.
    pub fn take(&self, batch: &[ForwardPass], lookup: &CacheLookup, causal: bool) -> Packed {
        match self.packed.take().filter(|_| self.hits == lookup.hits) {
            Some(mut packed) => {
                packed.set_stored(lookup);
                packed
            }
            None => Packed::new(batch, lookup, causal),
        }
    }
}

impl PackedRuntime {
    /// The groups of a batch, laid out.
    ///
    /// # Errors
    /// A pass that the model cannot run.
    pub(super) fn lay_out(&self, batch: &[ForwardPass]) -> Result<Vec<Group>, RuntimeError> {
        let spec = self.model.spec();
        layout::check(batch, spec, &|head| self.model.heads().has_projection(head))?;
        let layers = spec.layers.len();
        let exit_of = |pass: &ForwardPass| pass.output.exit.map(|exit| usize::from(exit.layer));
        let first_exit = batch.iter().find_map(exit_of);
        let mut by_depth: BTreeMap<(usize, bool, Option<usize>), Vec<usize>> = BTreeMap::new();
        for (number, pass) in batch.iter().enumerate().filter(|(_, pass)| pass.output_rows() > 0) {
            let depth = pass.output.layer.map_or(layers, usize::from);
            let is_reader = matches!(pass.output.head, Head::Reader(_));
            let exit = exit_of(pass).or(first_exit.filter(|_| depth == layers && !is_reader));
            by_depth.entry((depth, is_reader, exit)).or_default().push(number);
        }
        let group = |((depth, is_reader, exit), numbers): ((usize, bool, Option<usize>), Vec<usize>)| {
            let is_whole = numbers.len() == batch.len();
            let passes = (!is_whole).then(|| numbers.iter().map(|&number| batch[number].clone()).collect::<Vec<_>>());
            let layout = self.layout(passes.as_deref().unwrap_or(batch), depth, is_reader);
            Group { depth, exit, numbers, passes, layout }
        };
        Ok(by_depth.into_iter().map(group).collect())
    }

    /// How passes run through `depth` layers.
    fn layout(&self, passes: &[ForwardPass], depth: usize, is_reader: bool) -> Layout {
        if let Some(parts) = self.batch_threads.as_ref().and_then(|threads| threads.split(passes)) {
            return Layout::Parts(parts);
        }
        let spec = self.model.spec();
        // The cache holds keys and values of all layers.
        let uses_cache = depth == spec.layers.len() && !is_reader;
        let lookup = if uses_cache { self.prefix_cache.predict(passes) } else { CacheLookup::none(passes.len()) };
        let mut packed = Packed::new(passes, &lookup, spec.causal);
        packed.lay_out_layers(&spec.layers[..depth]);
        Layout::Rows(Rows { hits: lookup.hits, packed: Cell::new(Some(packed)) })
    }
}
