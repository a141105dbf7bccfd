//! Prints a comparison of several systems as a table.

use std::io::{self, Write};

use super::table::{align_right, display_name, gain_cells, new_table, three_decimals};
use crate::eval::comparison::SystemComparison;

/// Prints the measure of every system on every set, with the difference to the first system.
pub(super) fn write(out: &mut dyn Write, compared: &SystemComparison) -> io::Result<()> {
    writeln!(
        out,
        "{} of {} systems; differences to the first, paired by query; p also after Holm's correction",
        display_name(&compared.measure),
        compared.systems.len()
    )?;
    let measure = display_name(&compared.measure);
    let header = ["set", "queries", "system", &measure, "95 %", "difference", "95 %", "p", "w/t/l", "p corrected"];
    let mut table = new_table(&header);
    for set in &compared.sets {
        for (place, (system, estimate)) in compared.systems.iter().zip(&set.estimates).enumerate() {
            let (name, queries) =
                if place == 0 { (set.name.clone(), set.queries.to_string()) } else { Default::default() };
            let mut row = vec![name, queries, system.clone(), three_decimals(estimate.mean)];
            row.push(format!("[{:.3}, {:.3}]", estimate.low, estimate.high));
            if let Some(found) = place.checked_sub(1).map(|place| &set.differences[place]) {
                row.extend(gain_cells(&found.gain));
                let p = found.p_corrected;
                row.push(if p < 0.001 { "<0.001".to_owned() } else { three_decimals(p) });
            }
            table.add_row(row);
        }
    }
    for (place, (system, mean)) in compared.systems.iter().zip(&compared.means).enumerate() {
        let name = if place == 0 { "mean of the sets" } else { "" };
        table.add_row([name, "", system, &three_decimals(*mean)]);
    }
    writeln!(out, "{}", align_right(table, 3))
}
