//! `podium check`: what is in effect, and whether it works.

use std::io::Write;

use anyhow::Context;
use clap::Args;

use super::keys::KeyArgs;
use super::{SettingsArgs, start_quiet_logs, warn_of_unread};
use crate::app;
use crate::config::Configuration;
use crate::telemetry::TelemetryPlan;

#[derive(Debug, Args)]
#[command(after_help = "\
Prints every setting with its value and where it came from, loads the model and its prompts, and prints what the \
model is. The exit code is 0 if `podium serve` with the same settings would start, 2 if the configuration is wrong \
(profiles and prompt families that it names among it), and 1 if the model cannot be loaded.")]
pub(super) struct CheckArgs {
    /// Check the configuration and what it names (profiles, prompt families, keys), and load no model
    #[arg(long)]
    no_model: bool,
    #[command(flatten)]
    keys: KeyArgs,
    #[command(flatten)]
    pub(super) settings: SettingsArgs,
}

pub(super) fn run(args: &CheckArgs) -> anyhow::Result<()> {
    let sources = args.settings.sources(args.keys.settings().into_iter().collect());
    let unread = sources.unread_variables()?;
    let configuration = Configuration::load(&sources)?;
    let settings = &configuration.settings;
    let keys = args.keys.authenticator(settings)?.key_count();
    TelemetryPlan::new(&settings.telemetry, |name| std::env::var(name).ok())?;
    start_quiet_logs(&configuration)?;
    warn_of_unread(&unread);
    let mut out = std::io::stdout().lock();
    write_settings(&mut out, &configuration)?;
    writeln!(out, "\n# API keys: {}", key_line(keys))?;
    out.flush()?;
    app::check(settings)?;
    if args.no_model {
        return Ok(());
    }

    // A reranker has tasks of its own, so it is made inside a runtime.
    let runtime = tokio::runtime::Runtime::new().context("cannot start the async runtime")?;
    let _inside = runtime.enter();
    let models = app::load_models(settings)?;
    runtime.block_on(models.load_start_models())?;
    let reranker = models.default_model();
    let facts = reranker.facts();
    let families = app::families(&settings.prompts)?;
    let held = if families.named(reranker.family())?.facts.reads_apart() {
        "query, instruction and one document"
    } else {
        "query, instruction and the documents of a slate"
    };
    writeln!(out)?;
    let lines = [
        ("model", reranker.names().join(", ")),
        ("family", reranker.family().to_owned()),
        ("architecture", facts.architecture.clone()),
        ("parameters", millions(facts.parameters)),
        ("layers", facts.layers.to_string()),
        ("hidden size", facts.hidden_size.to_string()),
        ("vocabulary", facts.vocabulary.to_string()),
        ("context", format!("{} tokens: {held}", facts.max_positions)),
        ("projector", if facts.projector { "yes" } else { "no" }.to_owned()),
        ("device", facts.device.clone()),
        ("weights", facts.dtype.clone()),
    ];
    for (name, value) in lines {
        writeln!(out, "{name:<14}{value}")?;
    }
    for status in models.statuses().iter().skip(1) {
        let (names, load) = (status.names.join(", "), status.load.as_str());
        writeln!(
            out,
            "{:<14}{names}: {}, load = {load}, {} bytes of memory",
            "and", status.state, status.memory_bytes
        )?;
    }
    writeln!(out, "\nok")?;
    Ok(())
}

/// As TOML that could be used as a file, each value's origin in a comment.
fn write_settings(out: &mut impl Write, configuration: &Configuration) -> std::io::Result<()> {
    let lines: Vec<_> = configuration
        .entries()
        .map(|(key, value, origin)| {
            let (section, name) = key.split_once('.').unwrap_or(("", key));
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
        0 => "none, everyone may ask".to_owned(),
        1 => "1 key <hidden>".to_owned(),
        keys => format!("{keys} keys <hidden>"),
    }
}

fn millions(count: usize) -> String {
    format!("{:.1} million", count as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sources;

    #[test]
    fn what_check_prints_can_be_used_as_a_file() {
        let configuration = Configuration::load(&Sources::default()).unwrap();
        let mut printed = Vec::new();
        write_settings(&mut printed, &configuration).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &printed).unwrap();
        let again = Configuration::load(&Sources { file: Some(file.path().to_owned()), ..Sources::default() }).unwrap();
        assert_eq!(again.settings, configuration.settings);
        assert!(String::from_utf8(printed).unwrap().contains("  # default\n"));
    }

    #[test]
    fn parameters_are_printed_in_millions() {
        assert_eq!(millions(7_421_000), "7.4 million");
    }
}
