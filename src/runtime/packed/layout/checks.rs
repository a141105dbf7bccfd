//! Which passes a model can run.

use crate::runtime::spec::{ClassifierSpec, ModelSpec, OutputMatrix};
use crate::runtime::{EarlyExit, ForwardPass, Head, Positions, ReadStates, RuntimeError, TokenTypes};

/// Rejects a batch with a pass that this model cannot run. `has_projection` tells whether the
/// checkpoint has the projection of a head, which the spec does not mention.
pub(in crate::runtime::packed) fn check(
    passes: &[ForwardPass],
    spec: &ModelSpec,
    has_projection: &dyn Fn(&Head) -> bool,
) -> Result<(), RuntimeError> {
    passes.iter().enumerate().try_for_each(|(place, pass)| {
        check_tokens(pass, spec)
            .and_then(|()| check_output(pass, spec, has_projection))
            .map_err(|problem| RuntimeError::InvalidPass { pass: place, problem })
    })
}

fn check_tokens(pass: &ForwardPass, spec: &ModelSpec) -> Result<(), String> {
    if pass.prefix.is_empty() && pass.suffixes.is_empty() {
        return Err("it has no tokens".into());
    }
    if let Some(suffix) = pass.suffixes.iter().position(Vec::is_empty) {
        return Err(format!("its suffix {suffix} is empty"));
    }
    if pass.depth() > spec.max_positions {
        let (depth, positions) = (pass.depth(), spec.max_positions);
        return Err(format!("its longest sequence has {depth} tokens, the model has {positions} positions"));
    }
    let mut tokens = pass.prefix.iter().chain(pass.suffixes.iter().flatten());
    if let Some(token) = tokens.find(|&&token| token as usize >= spec.vocabulary) {
        return Err(format!("token id {token} is outside the vocabulary of {}", spec.vocabulary));
    }
    if let TokenTypes::Pairs(starts) = &pass.token_types
        && starts.len() != pass.suffixes.len().max(1)
    {
        return Err(format!("it has token types for {} sequences", starts.len()));
    }
    if !spec.causal && !pass.prefix.is_empty() && !pass.suffixes.is_empty() {
        return Err("sequences of a bidirectional model cannot share a prefix".into());
    }
    if !spec.causal && pass.cross_document.count > 0 {
        return Err("a bidirectional model has no cross-document layers".into());
    }
    Ok(())
}

fn check_output(pass: &ForwardPass, spec: &ModelSpec, has_projection: &dyn Fn(&Head) -> bool) -> Result<(), String> {
    for position in pass.read_positions().iter().chain(&pass.cross_document.shared) {
        if pass.segment(position.segment).is_none_or(|segment| position.offset >= segment.len()) {
            return Err(format!("position (segment {}, offset {}) is outside it", position.segment, position.offset));
        }
    }
    if let Some(layer) = pass.output.layer
        && !(1..=spec.layers.len()).contains(&usize::from(layer))
    {
        return Err(format!("it reads after layer {layer}, the model has {}", spec.layers.len()));
    }
    check_exit(pass, spec)?;
    let has_head = match &pass.output.head {
        Head::Hidden => true,
        Head::Projector => has_projection(&pass.output.head),
        Head::Vocabulary(token_ids) => {
            if let Some(token) = token_ids.iter().find(|&&token| token as usize >= spec.vocabulary) {
                return Err(format!("token id {token} is outside the vocabulary of {}", spec.vocabulary));
            }
            spec.output != OutputMatrix::None
        }
        Head::Classifier => match &spec.classifier {
            Some(classifier) => return check_layers_of_classifier(pass, classifier),
            None => false,
        },
        Head::MaxSim { expansion } => {
            check_max_sim(pass, spec, *expansion)?;
            has_projection(&pass.output.head)
        }
        Head::Reader(reader) => return check_reader(pass, spec, &*reader.0),
    };
    if has_head { Ok(()) } else { Err(format!("the checkpoint has no {}", name(&pass.output.head))) }
}

/// Checks that the classifier has a matrix for the layers that it is read after.
fn check_layers_of_classifier(pass: &ForwardPass, classifier: &ClassifierSpec) -> Result<(), String> {
    let Some(start) = classifier.start_layer else { return Ok(()) };
    let mut layers = pass.output.layer.into_iter().chain(pass.output.exit.map(|exit| exit.layer));
    match layers.find(|layer| usize::from(*layer) < start) {
        Some(layer) => Err(format!("it reads the classifier after layer {layer}, the first one is after {start}")),
        None => Ok(()),
    }
}

/// Checks that suffixes can leave early.
fn check_exit(pass: &ForwardPass, spec: &ModelSpec) -> Result<(), String> {
    let Some(exit) = pass.output.exit else { return Ok(()) };
    if !spec.causal {
        return Err("suffixes leave early only from a causal model".into());
    }
    if pass.cross_document.count > 0 {
        return Err("suffixes that leave early see no others".into());
    }
    if !matches!(pass.output.head, Head::Vocabulary(_) | Head::Classifier) {
        return Err(format!("suffixes cannot leave early by their {}", name(&pass.output.head)));
    }
    let layers = pass.output.layer.map_or(spec.layers.len(), usize::from);
    if !(1..=layers).contains(&usize::from(exit.layer)) || exit.keep == 0 {
        let EarlyExit { layer, keep } = exit;
        return Err(format!("{keep} suffixes go on after layer {layer}, and the pass is read after {layers}"));
    }
    let last = pass.suffixes.len();
    let sequences = if last == 0 { 0..=0 } else { 1..=last };
    if !pass.read_positions().iter().map(|position| position.segment).eq(sequences) {
        return Err("an early exit reads one position of each suffix, in order".into());
    }
    Ok(())
}

/// Checks the form that [`Head::MaxSim`] asks for.
fn check_max_sim(pass: &ForwardPass, spec: &ModelSpec, expansion: usize) -> Result<(), String> {
    let Positions::Listed(positions) = &pass.output.at else {
        return Err("MaxSim reads listed positions".into());
    };
    let segments = positions.chunk_by(|one, next| one.segment == next.segment).map(|run| run[0].segment);
    if !pass.prefix.is_empty() || pass.suffixes.len() < 2 || !segments.eq(1..=pass.suffixes.len()) {
        return Err("MaxSim reads positions of each suffix, in order, and has no prefix".into());
    }
    let query = pass.suffixes[0].len();
    if expansion >= query {
        return Err(format!("its query has {query} tokens, and no token attends to {expansion} of them"));
    }
    let window = spec.layers.iter().map(|layer| layer.window.before).min().unwrap_or(usize::MAX);
    if expansion > window {
        return Err(format!("its query has {expansion} expansion tokens, and a local layer reaches {window} back"));
    }
    Ok(())
}

fn check_reader(pass: &ForwardPass, spec: &ModelSpec, reader: &dyn ReadStates) -> Result<(), String> {
    if pass.output.at != Positions::All || pass.output.layer.is_some() {
        return Err("a reader reads all tokens, up to the last layer".into());
    }
    // The states of cached tokens are not kept.
    if spec.causal {
        return Err("a reader of all tokens needs a bidirectional model".into());
    }
    let (layers, count) = (reader.layers(), spec.layers.len());
    if layers.last().is_none_or(|last| usize::from(*last) != count) || !layers.is_sorted() || layers.contains(&0) {
        return Err(format!("its reader reads after layers {layers:?}, the model has {count}"));
    }
    Ok(())
}

fn name(head: &Head) -> &'static str {
    match head {
        Head::Hidden => "hidden states",
        Head::Projector => "projector",
        Head::Vocabulary(_) => "output matrix",
        Head::Classifier => "classifier",
        Head::MaxSim { .. } => "projection of token states",
        Head::Reader(_) => "states",
    }
}
