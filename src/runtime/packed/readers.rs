//! Passes whose states are read by the caller's own computation, next to where they are.

use std::collections::BTreeSet;

use candle_core::{Device, Result, Tensor};

use super::layout::Packed;
use super::model::{Model, floats};
use crate::runtime::{ForwardPass, Head, Output, TokenStates};

/// The outputs of passes that all have a reader.
pub(super) fn read(model: &Model, packed: &Packed, batch: &[ForwardPass], depth: usize) -> Result<Vec<Output>> {
    let layers_of = |pass: &ForwardPass| match &pass.output.head {
        Head::Reader(reader) => reader.0.layers().iter().map(|layer| usize::from(*layer)).collect(),
        Head::Hidden | Head::Projector | Head::Vocabulary(_) | Head::Classifier => Vec::new(),
    };
    let earlier: BTreeSet<usize> = batch.iter().flat_map(layers_of).filter(|layer| *layer < depth).collect();
    let earlier: Vec<usize> = earlier.into_iter().collect();
    let (last, kept, _) = model.states_after(packed, &[], depth, &earlier)?;
    let states: Vec<Tensor> =
        kept.iter().chain([&last]).map(|states| states.to_device(&Device::Cpu)).collect::<Result<_>>()?;
    let depths: Vec<usize> = earlier.into_iter().chain([depth]).collect();
    let storages: Vec<_> = states.iter().map(|states| states.storage_and_layout().0).collect();
    let rows: Vec<&[f32]> = storages.iter().map(|storage| floats(storage)).collect::<Result<_>>()?;
    let width = model.spec().hidden_size;
    let mut outputs = Vec::with_capacity(batch.len());
    for (number, pass) in batch.iter().enumerate() {
        let Head::Reader(reader) = &pass.output.head else { continue };
        let (segments, start) = packed.segments_of(number);
        let own = start * width..(start + pass.tokens()) * width;
        let layers = layers_of(pass).into_iter().filter_map(|layer| depths.iter().position(|depth| *depth == layer));
        outputs.push(reader.0.read(&TokenStates {
            width,
            layers: layers.map(|place| &rows[place][own.clone()]).collect(),
            segments: segments.into_iter().map(|rows| rows.start - start..rows.end - start).collect(),
        }));
    }
    Ok(outputs)
}
