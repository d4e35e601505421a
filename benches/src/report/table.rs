//! The table in the terminal, one a suite.

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{Attribute, Cell, CellAlignment, Color, Table};

use super::scale::{bytes, percent, significant, unit_for};
use super::sweep::Sweep;
use super::{Report, Row};
use crate::shapes::Suite;

/// The tables of all suites that ran, with a line about the machine before them.
pub fn tables(report: &Report) -> String {
    let machine = &report.machine;
    let bf16 = machine.bf16_peak_gflops.map_or(String::new(), |g| format!(", bf16 {} GFLOP/s", significant(g)));
    let mut text = format!(
        "{}, {} threads, {}: f32 peak {} GFLOP/s{bf16}, reading {} GB/s\n",
        machine.cpu,
        machine.threads,
        machine.isa,
        significant(machine.fma_peak_gflops),
        significant(machine.read_gbps),
    );
    let beside = || report.rows.iter().filter_map(|row| row.read_gbps);
    if let (Some(least), Some(most)) = (beside().reduce(f64::min), beside().reduce(f64::max)) {
        let [least, most] = [least, most].map(significant);
        text.push_str(&format!("reading by turns beside decode, of which its share is told: {least} to {most} GB/s\n"));
    }
    for device in &machine.devices {
        text.push_str(&format!("{}, by Burn on {}:", device.name, device.backend));
        for (dtype, tflops) in &device.matmul_tflops {
            text.push_str(&format!(" {dtype} products {} TFLOP/s,", significant(*tflops)));
        }
        text.push_str(&format!(" copying {} GB/s\n", device.copy_gbps.map_or("-".to_string(), significant)));
    }
    let torch = &machine.torch;
    if let Some(version) = &torch.version {
        let told = |speed: Option<f64>| speed.map_or("-".to_string(), significant);
        text.push_str(&format!(
            "{}, by PyTorch {version}: bf16 products {} TFLOP/s, f16 products {} TFLOP/s, copying {} GB/s\n",
            torch.device.as_deref().unwrap_or("a device"),
            told(torch.matmul_bf16_tflops),
            told(torch.matmul_f16_tflops),
            told(torch.copy_gbps),
        ));
    }
    for suite in Suite::ALL {
        let mut rows: Vec<&Row> = report.rows.iter().filter(|r| r.suite == suite.name()).collect();
        if suite == Suite::Sweep
            && let Some(sweep) = Sweep::of(report)
        {
            text.push_str(&format!("\n{}\n", sweep.text()));
            rows = sweep.worst().to_vec();
        }
        if !rows.is_empty() {
            text.push_str(&format!("\n{}\n{}\n", suite.name(), table(report, suite, &rows)));
        }
    }
    text
}

fn table(report: &Report, suite: Suite, rows: &[&Row]) -> Table {
    let peers = report.peers();
    let fastest = rows.iter().map(|row| row.speed()).fold(0.0, f64::max);
    let (unit, divisor) = unit_for(suite.unit(), fastest);
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED.with_rounded_corners());
    let mut header = vec!["shape".to_string(), "type".into(), "on".into(), "ours ms".into()];
    for peer in &peers {
        header.push(format!("{peer} ms"));
        header.push("ratio".to_string());
    }
    header.extend([unit.to_string(), "of peak".into(), "workspace".into()]);
    table.set_header(header);
    for row in rows {
        table.add_row(cells(row, &peers, divisor));
    }
    for column in table.column_iter_mut().skip(3) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn cells(row: &Row, peers: &[String], divisor: f64) -> Vec<Cell> {
    let shape = [row.sizes.as_str(), row.options.as_str()].join(" ");
    let mut cells = vec![
        Cell::new(shape.trim_end()),
        Cell::new(&row.dtype),
        Cell::new(&row.backend),
        Cell::new(significant(row.ours_ms)).add_attribute(Attribute::Bold),
    ];
    for peer in peers {
        match (row.peers.get(peer), row.ratio(peer)) {
            (Some(&ms), Some(ratio)) => {
                cells.push(Cell::new(significant(ms)));
                let colour = if ratio >= 1.0 { Color::Green } else { Color::Red };
                cells.push(Cell::new(format!("{}×", significant(ratio))).fg(colour));
            }
            _ => cells.extend([Cell::new("-"), Cell::new("-")]),
        }
    }
    cells.extend([
        Cell::new(significant(row.speed() / divisor)),
        Cell::new(row.peak_share.map_or("-".to_string(), percent)),
        Cell::new(row.workspace_bytes.map_or("-".to_string(), bytes)),
    ]);
    cells
}
