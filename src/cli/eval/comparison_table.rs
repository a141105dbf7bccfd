//! Prints a comparison of several systems as a table.

use std::io::{self, Write};

use super::table::{align_right, display_name, gain_cells, new_table, three_decimals};
use crate::eval::comparison::SystemComparison;
use crate::eval::price::{Cost, PriceTable};

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
    writeln!(out, "{}", align_right(table, 3))?;
    write_prices(out, &measure, &compared.prices)
}

/// Prints quality against cost, and the cheapest system that is good enough.
fn write_prices(out: &mut dyn Write, measure: &str, prices: &PriceTable) -> io::Result<()> {
    writeln!(out, "{measure} against the cost of a request; * no other system is as good for less")?;
    let best = prices.points.iter().map(|point| point.quality).fold(0.0, f64::max);
    let mut table = new_table(&["system", "", measure, "to the best", "tokens", "ms"]);
    for point in &prices.points {
        table.add_row([
            point.system.clone(),
            if point.is_efficient { "*" } else { "" }.to_owned(),
            three_decimals(point.quality),
            three_decimals(point.quality - best),
            point.tokens.map_or_else(String::new, |tokens| format!("{tokens:.0}")),
            format!("{:.1}", point.milliseconds),
        ]);
    }
    writeln!(out, "{}", align_right(table, 2))?;
    let Some(point) = prices.points.get(prices.recommended) else { return Ok(()) };
    let by = match prices.cost {
        Cost::Tokens => "tokens",
        Cost::Milliseconds => "milliseconds",
    };
    writeln!(out, "recommended: {}, the cheapest in {by} within .01 of the best", point.system)
}
