//! Passes of which some suffixes leave before the last layer.
//!
//! After the exit's layer the heads are applied to the rows that are read; then the batch is packed
//! again without the suffixes that left, and goes through the other layers. A row's numbers depend
//! on other rows only by rounding, so the remaining suffixes have the same numbers as without an
//! exit.

use candle_core::{Result, Tensor};

use super::apply_heads;
use super::layout::{Exit, Packed};
use super::model::Model;
use super::prefix_cache::CacheLookup;
use crate::runtime::{ForwardPass, Output};

/// The outputs of passes that read after `depth` layers, and the blocks that the prefix cache
/// stores. Suffixes of passes with an exit leave after `layer`.
pub(super) fn read(
    model: &Model,
    packed: &Packed,
    lookup: &CacheLookup,
    batch: &[ForwardPass],
    (layer, depth): (usize, usize),
) -> Result<(Vec<Output>, Vec<Tensor>)> {
    let causal = model.spec().causal;
    let has_exit = |pass: &ForwardPass| pass.output.exit.is_some();
    if layer == depth {
        // Nothing is left to be computed for anyone.
        let (states, new_blocks) = model.states(packed, &lookup.blocks, depth)?;
        let last = apply_heads(model, batch, depth, &states, |_| true)?;
        let joined = batch.iter().zip(last).map(|(pass, last)| {
            let goes_on = suffixes_that_go_on(pass, &last);
            let rows = if has_exit(pass) { last.clone() } else { Output::new() };
            let place = |row: usize| pass.output.exit.is_none() || goes_on[row];
            let last = last.into_iter().enumerate().filter(|(row, _)| place(*row)).map(|(_, row)| row).collect();
            join(pass, rows, last, &goes_on)
        });
        return Ok((joined.collect(), new_blocks));
    }
    let (mut at_exit, mut goes_on, mut rest) = (Vec::new(), Vec::new(), Vec::new());
    let mut choose = |states: Tensor| {
        at_exit = apply_heads(model, batch, layer, &states, has_exit)?;
        goes_on = batch.iter().zip(&at_exit).map(|(pass, rows)| suffixes_that_go_on(pass, rows)).collect::<Vec<_>>();
        rest = batch.iter().zip(&goes_on).map(|(pass, goes_on)| pass.without_left(goes_on)).collect::<Vec<_>>();
        Ok((Packed::new(&rest, lookup, causal), packed.rows_without_left(&goes_on)))
    };
    let exit = Exit { layer, choose: &mut choose };
    let (states, new_blocks) = model.states_with_exit(packed, &lookup.blocks, depth, exit)?;
    let last = apply_heads(model, &rest, depth, &states, |_| true)?;
    let rows = batch.iter().zip(at_exit).zip(last.into_iter().zip(&goes_on));
    Ok((rows.map(|((pass, at_exit), (last, goes_on))| join(pass, at_exit, last, goes_on)).collect(), new_blocks))
}

/// Which suffixes of a pass go on; all of a pass without an exit.
fn suffixes_that_go_on(pass: &ForwardPass, rows: &[Vec<f32>]) -> Vec<bool> {
    pass.output.exit.map_or_else(|| vec![true; pass.suffixes.len()], |exit| exit.choose(rows))
}

/// The output of a pass: with an exit, the rows read there, and then those of the suffixes that
/// went on, in their places.
fn join(pass: &ForwardPass, at_exit: Output, last: Output, goes_on: &[bool]) -> Output {
    if pass.output.exit.is_none() {
        return last;
    }
    let mut last = last.into_iter();
    let last = goes_on.iter().map(|goes_on| goes_on.then(|| last.next()).flatten().unwrap_or_default());
    at_exit.into_iter().chain(last).collect()
}
