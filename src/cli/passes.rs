//! `podium passes`: runs forward passes given as token ids, to compare a device with a reference.

use std::io::{self, BufRead, Write};

use anyhow::Context;
use clap::Args;
use serde::Serialize;

use super::{SettingsArgs, UsageError, start_quiet_logs};
use crate::bench::passes::{PassRunner, parse};

#[derive(Debug, Args)]
#[command(after_help = "\
Reads one batch from each line of standard input, an array of passes:
  [{\"prefix\": [1, 2], \"suffixes\": [[3], [4, 5]], \"read\": [[1, 0], [2, 1]], \"head\": \"hidden\"}]
and writes the batch's rows and its time on one line, after a first line that describes the model:
  {\"outputs\": [[[0.1, 0.2], [0.3, 0.4]]], \"ms\": 1.5}

  prefix, suffixes         token ids; each suffix sees the prefix and itself
  types                    where tokens of type 1 begin, for each sequence
  read                     [segment, offset] pairs (segment 0 is the prefix), \"first\", \"last\" or
                           \"mean\"
  head                     \"hidden\", \"projector\", \"classifier\", or {\"vocabulary\": [token ids]}
  cross_document_layers    top layers in which read positions also see the positions of \"shared\"")]
pub(super) struct PassesArgs {
    /// Run each batch N times, and write the shortest time
    #[arg(long, value_name = "N", default_value = "1")]
    repeat: std::num::NonZeroUsize,
    #[command(flatten)]
    settings: SettingsArgs,
}

pub(super) fn run(args: &PassesArgs) -> anyhow::Result<()> {
    let configuration = args.settings.configuration(Vec::new())?;
    start_quiet_logs(&configuration)?;
    let runner = PassRunner::load(&configuration.settings.model)?;
    let mut out = io::stdout().lock();
    write_line(&mut out, &runner.model_line())?;
    for (number, line) in io::stdin().lock().lines().enumerate() {
        let line = line.context("cannot read standard input")?;
        let passes = parse(&line).map_err(|problem| UsageError(format!("line {}: {problem}", number + 1)))?;
        let batch = runner.run(&passes, args.repeat.get()).with_context(|| format!("batch {}", number + 1))?;
        write_line(&mut out, &batch)?;
    }
    Ok(())
}

fn write_line(out: &mut impl Write, line: &impl Serialize) -> anyhow::Result<()> {
    serde_json::to_writer(&mut *out, line)?;
    writeln!(out)?;
    Ok(out.flush()?)
}
