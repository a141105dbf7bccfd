//! `[models.NAME] cascade = [...]`: stages with their models and what they keep.

use std::collections::BTreeMap;

use toml::{Table, Value};

use super::error::ConfigError;
use super::source::MODELS_SECTION as SECTION;
use crate::models::{CascadeSettings, StageSettings};
use crate::rerank::Keep;

/// The keys of a stage.
const STAGE_KEYS: [&str; 3] = ["model", "scores", "keep"];

/// The keys of a table with a cascade.
const CASCADE_KEYS: [&str; 5] = ["cascade", "stop_when_sure", "served_names", "shadow_of", "share"];

/// The most stages of a cascade, those of cascades in it included.
const MAX_STAGES: usize = 8;

fn unusable(key: String, problem: impl Into<String>) -> ConfigError {
    ConfigError::Unusable { key, problem: problem.into() }
}

/// Reads the table of a cascade.
pub(super) fn parse_cascade(name: &str, table: &Table) -> Result<CascadeSettings, ConfigError> {
    if let Some(other) = table.keys().find(|key| !CASCADE_KEYS.contains(&key.as_str())) {
        let problem = format!("a cascade has no {other}: set it in the tables of its models");
        return Err(unusable(format!("{SECTION}{name}.{other}"), problem));
    }
    let key = format!("{SECTION}{name}.cascade");
    let stages = table.get("cascade").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let last = stages.len().saturating_sub(1);
    let stages = stages.iter().enumerate().map(|(index, stage)| {
        let key = format!("{key}[{index}]");
        let Some(stage) = stage.as_table() else {
            return Err(unusable(
                key,
                format!("is {stage}; give a table such as {{ model = \"podium-nano\", keep = 32 }}"),
            ));
        };
        parse_stage(&key, stage, index, index == last)
    });
    let stages = stages.collect::<Result<Vec<_>, _>>()?;
    if stages.len() < 2 {
        let problem = format!("has {} stages; a cascade has at least 2", stages.len());
        return Err(unusable(key, problem));
    }
    let text = table.get("served_names").and_then(Value::as_str).unwrap_or_default();
    let stop_when_sure = table.get("stop_when_sure").and_then(Value::as_float).unwrap_or_default();
    Ok(CascadeSettings { stages, stop_when_sure, served_names: text.to_owned() })
}

fn parse_stage(key: &str, stage: &Table, index: usize, is_last: bool) -> Result<StageSettings, ConfigError> {
    if let Some(unknown) = stage.keys().find(|key| !STAGE_KEYS.contains(&key.as_str())) {
        return Err(unusable(format!("{key}.{unknown}"), format!("is unknown; a stage has {}", STAGE_KEYS.join(", "))));
    }
    let model = match (stage.get("model"), stage.get("scores")) {
        (Some(Value::String(model)), None) if !model.trim().is_empty() => Some(model.clone()),
        (None, Some(Value::Boolean(true))) if index == 0 && !is_last => None,
        (None, Some(Value::Boolean(true))) => {
            let problem = "the caller's scores can only be the first of several stages";
            return Err(unusable(format!("{key}.scores"), problem));
        }
        _ => {
            let problem = "needs `model` with the name of a model, or `scores = true` for the caller's scores";
            return Err(unusable(key.to_owned(), problem));
        }
    };
    let keep = match stage.get("keep") {
        None if is_last => Keep::Share(1.0),
        None => {
            let problem = "is missing; set how many documents the stage passes on, as a number or a share";
            return Err(unusable(format!("{key}.keep"), problem));
        }
        Some(_) if is_last => {
            let problem = "has no effect, because the last stage passes nothing on; remove it";
            return Err(unusable(format!("{key}.keep"), problem));
        }
        Some(keep) => parse_keep(keep).ok_or_else(|| {
            let problem = format!("is {keep}; give a whole number of at least 1, or a share such as 0.25, at most 1.0");
            unusable(format!("{key}.keep"), problem)
        })?,
    };
    Ok(StageSettings { model, keep })
}

fn parse_keep(value: &Value) -> Option<Keep> {
    match value {
        Value::Integer(count) => usize::try_from(*count).ok().filter(|count| *count > 0).map(Keep::Count),
        Value::Float(share) => (*share > 0.0 && *share <= 1.0).then_some(Keep::Share(*share)),
        Value::String(_) | Value::Boolean(_) | Value::Datetime(_) | Value::Array(_) | Value::Table(_) => None,
    }
}

/// Replaces each stage that names a cascade by the stages of that cascade.
pub(super) fn flatten(
    cascades: &BTreeMap<String, CascadeSettings>,
) -> Result<BTreeMap<String, CascadeSettings>, ConfigError> {
    let flat = cascades.iter().map(|(name, cascade)| {
        let key = format!("{SECTION}{name}.cascade");
        let stages = flat_stages(name, cascade, cascades, &mut vec![name.clone()])?;
        if stages.len() > MAX_STAGES {
            let problem = format!("has {} stages; a cascade has at most {MAX_STAGES}", stages.len());
            return Err(unusable(key, problem));
        }
        if let Some(place) = stages.iter().skip(1).position(|stage| stage.model.is_none()) {
            let problem = "the caller's scores can only be the first stage, also of a cascade in a cascade";
            return Err(unusable(format!("{key}[{}]", place + 1), problem));
        }
        Ok((name.clone(), CascadeSettings { stages, ..cascade.clone() }))
    });
    flat.collect()
}

fn flat_stages(
    name: &str,
    cascade: &CascadeSettings,
    all: &BTreeMap<String, CascadeSettings>,
    path: &mut Vec<String>,
) -> Result<Vec<StageSettings>, ConfigError> {
    let mut stages = Vec::new();
    for (index, stage) in cascade.stages.iter().enumerate() {
        let inner = stage.model.as_ref().and_then(|model| Some((model, all.get(model)?)));
        let Some((model, inner)) = inner else {
            stages.push(stage.clone());
            continue;
        };
        if path.contains(model) {
            path.push(model.clone());
            let problem = format!("is a cycle: {}", path.join(" > "));
            return Err(unusable(format!("{SECTION}{name}.cascade[{index}].model"), problem));
        }
        path.push(model.clone());
        let mut inner = flat_stages(model, inner, all, path)?;
        path.pop();
        if let Some(last) = inner.last_mut() {
            last.keep = stage.keep;
        }
        stages.append(&mut inner);
    }
    Ok(stages)
}
