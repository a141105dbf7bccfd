//! Passes whose states are read by the caller's own computation, next to where they are.

use std::collections::BTreeSet;
use std::ops::Range;

use candle_core::{Device, Result, Tensor};

use super::batch_threads::{BatchThreads, Part};
use super::layout::Packed;
use super::model::{Model, floats};
use super::prefix_cache::CacheLookup;
use crate::runtime::{ForwardPass, Head, Output, StateReader, TokenStates};

/// The outputs of passes that all have a reader.
pub(super) fn read(model: &Model, packed: &Packed, batch: &[ForwardPass], depth: usize) -> Result<Vec<Output>> {
    let earlier = earlier_layers(batch, depth);
    let states = states_after(model, packed, depth, &earlier)?;
    let storages: Vec<_> = states.iter().map(|states| states.storage_and_layout().0).collect();
    let rows: Vec<&[f32]> = storages.iter().map(|storage| floats(storage)).collect::<Result<_>>()?;
    let width = model.spec().hidden_size;
    let read = |(number, pass): (usize, &ForwardPass)| {
        let (segments, start) = packed.segments_of(number);
        let own = start * width..(start + pass.tokens()) * width;
        let states = rows.iter().map(|rows| &rows[own.clone()]).collect::<Vec<_>>();
        let segments = segments.into_iter().map(|rows| rows.start - start..rows.end - start).collect();
        read_pass(pass, &earlier, &states, segments, width)
    };
    Ok(batch.iter().enumerate().map(read).collect())
}

/// As [`read`], from the parts of the passes, each of which one thread runs.
pub(super) fn read_parts(
    model: &Model,
    threads: &BatchThreads,
    parts: &[Part],
    batch: &[ForwardPass],
    depth: usize,
) -> Result<Vec<Output>> {
    let earlier = earlier_layers(batch, depth);
    let nothing = CacheLookup::none(1);
    let run = |part: &Part| {
        let packed = Packed::new(std::slice::from_ref(&part.pass), &nothing, model.spec().causal);
        states_after(model, &packed, depth, &earlier)
    };
    let mut ran = Vec::with_capacity(parts.len());
    for (part, states) in parts.iter().zip(threads.run(parts, run)) {
        ran.push((part.number, part.first, states?));
    }
    ran.sort_unstable_by_key(|(number, first, _)| (*number, *first));
    let width = model.spec().hidden_size;
    let mut outputs = Vec::with_capacity(batch.len());
    for (pass, parts) in batch.iter().zip(ran.chunk_by(|(one, ..), (next, ..)| one == next)) {
        let mut states = vec![Vec::with_capacity(pass.tokens() * width); earlier.len() + 1];
        for (_, _, of_part) in parts {
            for (states, of_part) in states.iter_mut().zip(of_part) {
                states.extend_from_slice(floats(&of_part.storage_and_layout().0)?);
            }
        }
        let mut end = 0;
        let lengths = (0..=pass.suffixes.len()).filter_map(|segment| pass.segment(segment)).map(<[u32]>::len);
        let segments = lengths.filter(|length| *length > 0).map(|length| {
            end += length;
            end - length..end
        });
        let states: Vec<&[f32]> = states.iter().map(Vec::as_slice).collect();
        outputs.push(read_pass(pass, &earlier, &states, segments.collect(), width));
    }
    Ok(outputs)
}

/// The layers below `depth` whose states some pass reads, ascending.
fn earlier_layers(batch: &[ForwardPass], depth: usize) -> Vec<usize> {
    let layers: BTreeSet<usize> = batch
        .iter()
        .filter_map(reader)
        .flat_map(|reader| reader.0.layers().iter().map(|layer| usize::from(*layer)))
        .filter(|layer| *layer < depth)
        .collect();
    layers.into_iter().collect()
}

/// The states of all rows after the earlier layers and after `depth`, on the CPU.
fn states_after(model: &Model, packed: &Packed, depth: usize, earlier: &[usize]) -> Result<Vec<Tensor>> {
    let (last, kept) = model.states_after(packed, depth, earlier)?;
    kept.iter().chain([&last]).map(|states| states.to_device(&Device::Cpu)).collect()
}

/// One pass's output, from its states after the earlier layers and after the last.
fn read_pass(
    pass: &ForwardPass,
    earlier: &[usize],
    states: &[&[f32]],
    segments: Vec<Range<usize>>,
    width: usize,
) -> Output {
    let Some(reader) = reader(pass) else { return Output::new() };
    let place = |layer: &u16| earlier.iter().position(|known| *known == usize::from(*layer)).unwrap_or(earlier.len());
    let layers = reader.0.layers().iter().map(|layer| states[place(layer)]).collect();
    reader.0.read(&TokenStates { width, layers, segments })
}

fn reader(pass: &ForwardPass) -> Option<&StateReader> {
    match &pass.output.head {
        Head::Reader(reader) => Some(reader),
        Head::Hidden | Head::Projector | Head::Vocabulary(_) | Head::Classifier | Head::MaxSim { .. } => None,
    }
}
