//! `bench.html`: one page with charts and all figures, which needs nothing from outside itself.
//!
//! The page is made whole here; its script only sorts the table. Each chart shows speeds on one scale that ends at (or
//! just past) the machine's peak, so that a bar's length is its share of the roofline.

use std::fmt::Write as _;

use super::scale::{bytes, percent, significant, unit_for};
use super::{Machine, Report, Row};

mod charts;
mod scatter;

const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = include_str!("page/page.js");

/// The page of a report.
pub fn html(report: &Report) -> String {
    let mut page = String::from("<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n");
    page.push_str("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n");
    page.push_str("<meta name=\"color-scheme\" content=\"light dark\">\n");
    page.push_str("<title>Attention benchmarks</title>\n<style>\n");
    page.push_str(STYLE);
    page.push_str("</style>\n</head>\n<body>\n<main>\n");
    header(&mut page, report);
    summary(&mut page, report);
    charts::charts(&mut page, report);
    figures(&mut page, report);
    page.push_str(METHOD);
    page.push_str("</main>\n<script>\n");
    page.push_str(SCRIPT);
    page.push_str("</script>\n</body>\n</html>\n");
    page
}

/// Text safe inside an element or a quoted attribute.
fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            _ => safe.push(c),
        }
    }
    safe
}

/// Appends formatted text; writing to a string can't fail.
macro_rules! put {
    ($page:expr, $($format:tt)*) => {{
        let _ = writeln!($page, $($format)*);
    }};
}
use put;

fn header(page: &mut String, report: &Report) {
    let machine = &report.machine;
    put!(page, "<header>\n<h1>Attention benchmarks</h1>");
    let quick = if machine.quick { " · a quick first look" } else { "" };
    put!(
        page,
        "<p class=\"where\">{} · {} of {} CPUs · {} · {} · Burn {} · {}{quick}</p>",
        escape(&machine.cpu),
        machine.threads,
        machine.cores,
        escape(&machine.isa),
        escape(&machine.os),
        escape(&machine.burn),
        escape(&machine.date),
    );
    put!(page, "<dl class=\"facts\">");
    fact(page, "f32 multiply-adds", &significant(machine.fma_peak_gflops), "GFLOP/s");
    match machine.bf16_peak_gflops {
        Some(peak) => fact(page, "bf16 dot products", &significant(peak), "GFLOP/s"),
        None => fact(page, "bf16 dot products", "none", "on this CPU"),
    }
    fact(page, "reading memory", &significant(machine.read_gbps), "GB/s");
    put!(page, "</dl>");
    devices(page, machine);
    put!(page, "</header>");
}

/// The limits of devices, by Burn and by PyTorch.
fn devices(page: &mut String, machine: &Machine) {
    for device in &machine.devices {
        put!(page, "<p class=\"where\">{}, by Burn on {}</p>", escape(&device.name), escape(&device.backend));
        put!(page, "<dl class=\"facts\">");
        for (dtype, tflops) in &device.matmul_tflops {
            fact(page, &format!("{dtype} products of {0} × {0}", device.matmul_side), &significant(*tflops), "TFLOP/s");
        }
        if let Some(gbps) = device.copy_gbps {
            fact(page, &format!("copying {}", bytes(device.copy_bytes)), &significant(gbps), "GB/s");
        }
        put!(page, "</dl>");
    }
    let torch = &machine.torch;
    let Some(version) = &torch.version else { return };
    let kernels = torch.backends.as_ref().map_or(String::new(), |names| format!(" · attention by one of {names}"));
    let device = torch.device.as_deref().unwrap_or("a device");
    put!(page, "<p class=\"where\">{}, by PyTorch {}{}</p>", escape(device), escape(version), escape(&kernels));
    put!(page, "<dl class=\"facts\">");
    for (name, speed, unit) in [
        ("bf16 products of 8192 × 8192", torch.matmul_bf16_tflops, "TFLOP/s"),
        ("f16 products of 8192 × 8192", torch.matmul_f16_tflops, "TFLOP/s"),
        ("copying 2.00 GiB", torch.copy_gbps, "GB/s"),
    ] {
        if let Some(speed) = speed {
            fact(page, name, &significant(speed), unit);
        }
    }
    put!(page, "</dl>");
}

fn fact(page: &mut String, name: &str, value: &str, unit: &str) {
    put!(page, "<div><dt>{}</dt><dd><b>{}</b> {unit}</dd></div>", escape(name), escape(value));
}

/// How many times as fast as each peer ours is: the geometric mean over the rows of a suite on the peer's own backend.
fn summary(page: &mut String, report: &Report) {
    put!(page, "<section class=\"summary\">");
    for suite in crate::shapes::Suite::ALL {
        for peer in report.peers() {
            let ratios: Vec<f64> = report
                .rows
                .iter()
                .filter(|row| row.suite == suite.name() && is_home(report, row, &peer))
                .filter_map(|row| row.ratio(&peer))
                .collect();
            if ratios.is_empty() {
                continue;
            }
            let mean = (ratios.iter().map(|r| r.ln()).sum::<f64>() / ratios.len() as f64).exp();
            let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
            let most = ratios.iter().copied().fold(0.0, f64::max);
            let range = match ratios.len() {
                1 => "one shape".to_string(),
                n => format!("{} to {}, {n} shapes", significant(least), significant(most)),
            };
            let slow = if mean < 1.0 { " slow" } else { "" };
            put!(
                page,
                "<div class=\"card{slow}\"><span>{} vs {}</span><b>{}×</b><small>{range}</small></div>",
                suite.name(),
                escape(&peer),
                significant(mean)
            );
        }
    }
    put!(page, "</section>");
    put!(
        page,
        "<p class=\"hint\">How many times as fast ours is, by the geometric mean. Shapes read batch × heads (or heads/kv_heads) × \
         length (or queries:keys) × dim.</p>"
    );
}

/// Whether a peer is to be compared with this row: it runs on the row's backend, or ours did not run on the peer's.
fn is_home(report: &Report, row: &Row, peer: &str) -> bool {
    let home = peer.strip_prefix("burn-").unwrap_or(peer);
    let home = home.strip_suffix("-unfused").unwrap_or(home);
    row.backend == home || !report.rows.iter().any(|r| r.backend == home)
}

/// The table of all figures.
fn figures(page: &mut String, report: &Report) {
    let peers = report.peers();
    put!(page, "<section>\n<h2>All figures</h2>\n<p class=\"hint\">Click a heading to sort.</p>");
    put!(page, "<div class=\"wide\"><table id=\"figures\">\n<thead><tr>");
    for name in ["suite", "shape", "options", "type", "on"] {
        put!(page, "<th>{name}</th>");
    }
    put!(page, "<th class=\"n\">ours ms</th>");
    for peer in &peers {
        let peer = escape(peer);
        put!(page, "<th class=\"n\">{peer} ms</th><th class=\"n\">ratio</th>");
    }
    for name in ["GFLOP/s", "GB/s", "of peak", "workspace", "planned"] {
        put!(page, "<th class=\"n\">{name}</th>");
    }
    for peer in &peers {
        put!(page, "<th class=\"n\">{} workspace</th>", escape(peer));
    }
    for name in ["error of bound", "rounds"] {
        put!(page, "<th class=\"n\">{name}</th>");
    }
    put!(page, "<th>kernel</th></tr></thead>\n<tbody>");
    for row in &report.rows {
        figures_of(page, row, &peers);
    }
    put!(page, "</tbody>\n</table></div>\n</section>");
}

fn figures_of(page: &mut String, row: &Row, peers: &[String]) {
    put!(page, "<tr data-row>");
    for text in [&row.suite, &row.sizes, &row.options, &row.dtype, &row.backend] {
        put!(page, "<td>{}</td>", escape(text));
    }
    let spread = format!("{} to {} ms", significant(row.ours_min_ms), significant(row.ours_max_ms));
    put!(
        page,
        "<td class=\"n\" data-v=\"{}\" title=\"{spread}\"><b>{}</b></td>",
        row.ours_ms,
        significant(row.ours_ms)
    );
    for peer in peers {
        number(page, row.peers.get(peer).copied(), significant);
        number(page, row.ratio(peer), |r| format!("{}×", significant(r)));
    }
    number(page, Some(row.gflops), significant);
    number(page, row.gbps, significant);
    number(page, row.peak_share, percent);
    number(page, row.workspace_bytes.map(|b| b as f64), |b| bytes(b as u64));
    let planned = row.planned_workspace_bytes.map(|b| b as f64);
    number(page, planned, |b| bytes(b as u64));
    for peer in peers {
        let weight = row.peers_workspace_bytes.get(peer).map(|&b| b as f64);
        number(page, weight, |b| bytes(b as u64));
    }
    number(page, Some(row.error_share), percent);
    number(page, Some(row.rounds as f64), |n| format!("{n:.0}"));
    put!(page, "<td>{}</td></tr>", escape(row.kernel.as_deref().unwrap_or("")));
}

/// A cell that sorts by its exact value; "-" where there is none.
fn number(page: &mut String, value: Option<f64>, text: impl Fn(f64) -> String) {
    match value {
        Some(value) => put!(page, "<td class=\"n\" data-v=\"{value}\">{}</td>", escape(&text(value))),
        None => put!(page, "<td class=\"n none\">-</td>"),
    }
}

const METHOD: &str = "<section class=\"method\">
<h2>How it was measured</h2>
<p>Every answer is compared with an evaluation in f64 before it is timed, within a bound that follows from the type's
rounding; a wrong one gets no time, and a wrong one of ours ends the run with an error. Ours and the peers take turns, each turn a few milliseconds or one call, and a time is
the median of its turns. Work is counted on visible pairs only: 4·batch·heads·dim operations for each query and key that it
sees, 3.5 times that with the backward pass. In decode, keys and values come from memory, not from a cache: calls go
through a gibibyte of them by turns. Peaks are measured before and after, on the same threads. Workspace is the most memory
alive during a call in new threads, beyond inputs and results; on LibTorch, which allocates by itself, it is the growth of
the process's resident memory, good to some hundred KiB.</p>
<p>A graphics card is handed all calls of a turn and waited for once; its memory is not weighed. Its peaks are a large product
of matrices in the row's type, and for decode <code>tensor + 1</code>, bytes read and written: the faster of Burn's and, where
PyTorch ran on the same device, PyTorch's. They are what libraries reach there, not what the maker states. There
<code>torch-sdpa</code> is PyTorch's operation, timed in the same way in a process of its own after the others.</p>
<p>Peers are Burn's own operation, <code>burn::tensor::module::attention</code>. \"-\" marks what it can't do: shared key/value
heads on NdArray and in training, sinks, and types that a backend has no tensors of. Windows and lengths it is given as a mask,
ALiBi as a bias, made beforehand. <code>torch-sdpa</code> is LibTorch's own <code>scaled_dot_product_attention</code>, called directly, and in training
LibTorch's own autograd through it. All that hides or is added it is given as one mask of numbers, made beforehand. In decode of half
types <code>ours-f32</code> is ours on the same numbers in f32; its GB/s count the half type's bytes, as those of all peers do, so that
bars compare times.</p>
<p>The shapes of a sweep are drawn at random, the same for a seed; peers are LibTorch's operation and Burn's on the backend of ours. They
get fewer turns than other shapes, and where ours is behind all are timed again for longer. A query that sees nothing peers may
answer as they like.</p>
</section>
";
