//! `podium check`: prints the settings in effect and the model, and finds errors before
//! `podium serve` does.

use std::io::Write;

use anyhow::Context;
use clap::Args;

use super::keys::KeyArgs;
use super::{SettingsArgs, start_quiet_logs, warn_of_unknown_variables};
use crate::app;
use crate::config::{Configuration, Settings};
use crate::models::ModelSet;
use crate::pipeline::{CanaryReport, Reranker};
use crate::telemetry::TraceTarget;

#[derive(Debug, Args)]
#[command(after_help = "\
Prints every setting with its value and source, as TOML that can be used with --config. Then loads \
the model and prints its family, size, context and device. Secrets are not printed.

Exit codes:
  0  podium serve with the same settings would start
  2  a setting, or a file that a setting names, is invalid
  1  the model cannot be loaded

Examples:
  podium check --no-model
  podium check --config podium.toml --model Qwen/Qwen3-Reranker-0.6B")]
pub(super) struct CheckArgs {
    /// Check only the settings, and the profiles, prompt families, models of cascades and keys that
    /// they name
    #[arg(long)]
    no_model: bool,
    #[command(flatten)]
    keys: KeyArgs,
    #[command(flatten)]
    pub(super) settings: SettingsArgs,
}

pub(super) fn run(args: &CheckArgs) -> anyhow::Result<()> {
    let sources = args.settings.sources(args.keys.flag_value().into_iter().collect());
    let unknown = sources.unknown_variables()?;
    let configuration = Configuration::load(&sources)?;
    let settings = &configuration.settings;
    let keys = args.keys.authenticator(settings)?.key_count();
    TraceTarget::find(&settings.telemetry, |name| std::env::var(name).ok())?;
    start_quiet_logs(&configuration)?;
    warn_of_unknown_variables(&unknown);
    let mut out = std::io::stdout().lock();
    write_settings(&mut out, &configuration)?;
    writeln!(out, "\n# API keys: {}", key_line(keys))?;
    out.flush()?;
    app::check(settings)?;
    let address = &settings.server.listen;
    if args.no_model {
        writeln!(out, "# ok: the settings are valid; podium serve would listen on {address}; no model was loaded")?;
        return Ok(());
    }

    // The scheduler starts tasks, so the model is loaded inside a runtime.
    let runtime = tokio::runtime::Runtime::new().context("cannot start the async runtime")?;
    let _inside = runtime.enter();
    let models = app::load_models(settings)?;
    runtime.block_on(models.load_start_models())?;
    write_default_model(&mut out, models.default_model(), settings)?;
    write_other_models(&mut out, &models)?;
    writeln!(out, "\nok: podium serve would listen on {address}")?;
    Ok(())
}

fn write_default_model(out: &mut impl Write, model: &Reranker, settings: &Settings) -> anyhow::Result<()> {
    let facts = model.facts();
    let families = app::families(&settings.prompts)?;
    let context_of = if families.named(model.family())?.facts.has_one_document_per_sequence() {
        "query, instruction and one document"
    } else {
        "query, instruction and the documents of a slate"
    };
    writeln!(out)?;
    let lines = [
        ("model", model.names().join(", ")),
        ("family", model.family().to_owned()),
        ("architecture", facts.architecture.clone()),
        ("parameters", millions(facts.parameters)),
        ("layers", facts.layers.to_string()),
        ("hidden size", facts.hidden_size.to_string()),
        ("vocabulary", facts.vocabulary.to_string()),
        ("context", format!("{} tokens: {context_of}", facts.max_positions)),
        ("projector", if facts.projector { "yes" } else { "no" }.to_owned()),
        ("device", facts.device.clone()),
        ("weights", facts.dtype.clone()),
        (
            "memory",
            format!("at most {:.1} GiB: weights, prefix cache and the largest batch", gibibytes(model.memory_bytes())),
        ),
    ];
    let instructions = facts.cpu_instructions.map(|name| ("instructions", name.to_owned()));
    for (name, value) in lines.into_iter().chain(instructions) {
        writeln!(out, "{name:<14}{value}")?;
    }
    if let Some(CanaryReport { right, questions, warning, time }) = model.canary() {
        writeln!(out, "{:<14}{right} of {questions} simple questions answered right, in {time:.1?}", "canary")?;
        if let Some(problem) = warning {
            writeln!(out, "{:<14}the model ranks wrongly: {problem}", "WARNING")?;
        }
    }
    Ok(())
}

fn write_other_models(out: &mut impl Write, models: &ModelSet) -> std::io::Result<()> {
    for status in models.statuses().iter().skip(1) {
        let (names, load) = (status.names.join(", "), status.load.as_str());
        let (state, bytes) = (&status.state, status.memory_bytes);
        writeln!(out, "{:<14}{names}: {state}, load = {load}, {bytes} bytes of memory", "other model")?;
    }
    Ok(())
}

/// Writes the settings as TOML that can be used as a configuration file, each value's source in a
/// comment.
fn write_settings(out: &mut impl Write, configuration: &Configuration) -> std::io::Result<()> {
    let lines: Vec<_> = configuration
        .entries()
        .map(|(key, value, origin)| {
            let (section, name) = key.rsplit_once('.').unwrap_or(("", key));
            (section, format!("{name} = {value}"), origin.to_string())
        })
        .collect();
    let width = lines.iter().map(|(_, line, _)| line.chars().count()).max().unwrap_or(0);
    let mut open = "";
    for (section, line, origin) in &lines {
        if *section != open {
            writeln!(out, "{}[{section}]", if open.is_empty() { "" } else { "\n" })?;
            open = section;
        }
        writeln!(out, "{line:<width$}  # {origin}")?;
    }
    Ok(())
}

fn key_line(keys: usize) -> String {
    match keys {
        0 => "none; requests need no key".to_owned(),
        1 => "1 (not printed)".to_owned(),
        keys => format!("{keys} (not printed)"),
    }
}

fn gibibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}

fn millions(count: usize) -> String {
    format!("{:.1} million", count as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sources;

    #[test]
    fn the_printed_settings_can_be_used_as_a_file() {
        let named = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(named.path(), "[models.\"qwen3-0.6b\"]\nsource = \"a/b\"\nload = \"off\"\n").unwrap();
        for file in [None, Some(named.path().to_owned())] {
            let configuration = Configuration::load(&Sources { file, ..Sources::default() }).unwrap();
            let mut printed = Vec::new();
            write_settings(&mut printed, &configuration).unwrap();
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), &printed).unwrap();
            let sources = Sources { file: Some(file.path().to_owned()), ..Sources::default() };
            assert_eq!(Configuration::load(&sources).unwrap().settings, configuration.settings);
            assert!(String::from_utf8(printed).unwrap().contains("  # default\n"));
        }
    }

    #[test]
    fn parameters_are_printed_in_millions() {
        assert_eq!(millions(7_421_000), "7.4 million");
    }
}
