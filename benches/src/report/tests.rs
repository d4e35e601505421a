//! The report's files hold what the run found.

use serde_json::Value;

use super::*;
use crate::shapes::{card, suite};

/// A report of every shape but a sweep's with made-up times, for the tests of its form only.
fn sample() -> Report {
    let mut rows = Vec::new();
    for (n, shape) in [Suite::Prefill, Suite::Decode, Suite::Train].into_iter().flat_map(suite).enumerate() {
        for backend in ["ndarray", "flex"] {
            let times = Times { median: 2.0 + n as f64, min: 1.0, max: 900.0, rounds: 5 };
            let mut row = Row::new(&shape, backend, &times);
            row.peers.insert("burn-flex".into(), 10.0 + n as f64);
            if n % 2 == 0 {
                row.peers.insert("burn-ndarray".into(), 20.0);
            }
            row.kernel = Some("<kernel> & co".into());
            row.workspace_bytes = Some(1 << 20);
            row.error_share = 0.25;
            rows.push(row);
        }
    }
    let mut report = Report {
        machine: Machine {
            cpu: "A <fast> CPU".into(),
            cores: 4,
            threads: 2,
            fma_peak_gflops: 200.0,
            bf16_peak_gflops: Some(400.0),
            read_gbps: 50.0,
            read_buffer_bytes: 1 << 30,
            isa: "avx512".into(),
            os: "linux".into(),
            date: "2026-01-01 00:00 UTC".into(),
            quick: false,
            burn: "0.22.1".into(),
            devices: Vec::new(),
            torch: Torch::default(),
        },
        rows,
    };
    report.relate();
    report
}

/// The same with rows of a card, whose f16 peak is Burn's and whose other peaks are PyTorch's.
fn sample_with_card() -> Report {
    let mut report = sample();
    report.machine.devices.push(DevicePeaks {
        backend: "cuda".into(),
        name: "A <fast> card".into(),
        matmul_tflops: [("bf16".to_string(), 300.0), ("f16".to_string(), 500.0)].into(),
        matmul_side: 8192,
        copy_gbps: Some(2000.0),
        copy_bytes: 1 << 31,
    });
    report.machine.torch = Torch {
        version: Some("2.11".into()),
        device: Some("A <fast> card".into()),
        backends: Some("flash, math".into()),
        matmul_f16_tflops: Some(400.0),
        matmul_bf16_tflops: Some(700.0),
        copy_gbps: Some(2500.0),
    };
    for shape in card() {
        let mut row = Row::new(&shape, "cuda", &Times { median: 2.0, min: 1.0, max: 3.0, rounds: 5 });
        row.peers.insert("torch-sdpa".into(), 1.0);
        row.error_share = 0.25;
        report.rows.push(row);
    }
    report.relate();
    report
}

/// Whether two trees are alike, numbers to the last bits that a JSON reader may round differently.
fn alike(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => {
            let (a, b) = (a.as_f64().unwrap_or(f64::NAN), b.as_f64().unwrap_or(f64::NAN));
            (a - b).abs() <= 4.0 * f64::EPSILON * a.abs()
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| alike(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| alike(a, b)))
        }
        (a, b) => a == b,
    }
}

/// Reads a report's text and holds it against the report.
fn reads_as(text: &str, report: &Report) -> bool {
    let back: Report = serde_json::from_str(text).expect("a report's text can be read");
    let value = |report: &Report| serde_json::to_value(report).expect("a report can be written");
    alike(&value(&back), &value(report))
}

#[test]
fn json_goes_out_and_comes_back() {
    let report = sample();
    let text = serde_json::to_string(&report).expect("a report can be written");
    assert!(reads_as(&text, &report));
    let mut other = report.clone();
    other.rows[3].peers.insert("burn-flex".into(), 0.5);
    assert!(!reads_as(&text, &other), "another report is not the same");
}

#[test]
fn ours_in_f32_is_no_rival() {
    let mut row = sample().rows.remove(0);
    row.peers = BTreeMap::from([(OURS_IN_F32.to_string(), 3.0)]);
    row.ours_ms = 2.0;
    assert_eq!((row.rival(), row.lead(), row.ratio(OURS_IN_F32)), (None, None, Some(1.5)));
    row.peers.insert("burn-flex".into(), 10.0);
    assert_eq!((row.rival(), row.lead()), (Some("burn-flex"), Some(5.0)));
}

#[test]
fn json_has_the_keys_that_readers_rely_on() {
    let value = serde_json::to_value(sample()).expect("a report can be written");
    for key in ["cpu", "cores", "fma_peak_gflops", "bf16_peak_gflops", "read_gbps", "threads"] {
        assert!(value["machine"].get(key).is_some(), "machine has no {key}");
    }
    for row in value["rows"].as_array().expect("rows are an array") {
        for key in [
            "suite",
            "backend",
            "dtype",
            "batch",
            "heads",
            "kv_heads",
            "query_len",
            "key_len",
            "head_dim",
            "causal",
            "ours_ms",
            "peers",
            "gflops",
            "gbps",
            "peak_share",
            "workspace_bytes",
        ] {
            assert!(row.get(key).is_some(), "a row has no {key}");
        }
        assert_eq!(row["gbps"].is_null(), row["suite"] != "decode");
    }
}

#[test]
fn speeds_and_shares_follow_from_times_and_peaks() {
    let report = sample();
    for row in &report.rows {
        let flops = row.gflop / (row.ours_ms * 1e-3);
        assert!((row.gflops - flops).abs() < 1e-9 * flops);
        let share = match (row.suite.as_str(), row.dtype.as_str()) {
            ("decode", _) => row.gbps.expect("decode tells GB/s") / 50.0,
            (_, "bf16") => row.gflops / 400.0,
            _ => row.gflops / 200.0,
        };
        assert!((row.peak_share.expect("a CPU has peaks") - share).abs() < 1e-12);
        let ratio = row.ratio("burn-flex").expect("flex does every shape");
        assert!((ratio * row.ours_ms - row.peers["burn-flex"]).abs() < 1e-9);
    }
}

#[test]
fn decode_relates_to_what_was_read_beside_it() {
    let mut report = sample();
    let is_decode = |row: &&mut Row| row.gbps.is_some();
    let best = report.machine.read_gbps;
    for row in report.rows.iter_mut().filter(is_decode) {
        row.read_gbps = Some(0.5 * best);
    }
    let before: Vec<_> = report.rows.iter().map(|row| row.peak_share).collect();
    report.relate();
    let changed = report.rows.iter().zip(before).filter(|(row, before)| row.peak_share != *before);
    let (mut decode, mut shown) = (0, String::new());
    for (row, before) in changed {
        let twice = 2.0 * before.expect("a CPU has peaks");
        assert!(row.gbps.is_some() && (row.peak_share.expect("a CPU has peaks") - twice).abs() < 1e-12);
        decode += 1;
        shown = tables(&report);
    }
    assert!(decode > 0);
    assert!(shown.contains("of which its share is told: 25.0 to 25.0 GB/s"), "{shown}");
}

#[test]
fn rows_of_a_card_relate_to_the_faster_of_its_peaks() {
    let mut report = sample_with_card();
    let check = |report: &Report, f16: f64, bf16: f64, copying: f64| {
        for row in report.rows.iter().filter(|row| row.backend == "cuda") {
            let share = match (row.gbps, row.dtype.as_str()) {
                (Some(gbps), _) => gbps / copying,
                (None, "bf16") => row.gflops * 1e-3 / bf16,
                _ => row.gflops * 1e-3 / f16,
            };
            assert!((row.peak_share.expect("the card has peaks") - share).abs() < 1e-12 * share, "{row:?}");
        }
    };
    check(&report, 500.0, 700.0, 2500.0);
    // PyTorch on another device says nothing of this one.
    report.machine.torch.device = Some("another card".into());
    report.relate();
    check(&report, 500.0, 300.0, 2000.0);
    // What was not measured is no peak.
    report.machine.devices[0].matmul_tflops.clear();
    report.relate();
    for row in report.rows.iter().filter(|row| row.backend == "cuda") {
        assert_eq!(row.peak_share.is_some(), row.suite == "decode");
    }
    assert!(reads_as(&serde_json::to_string(&report).expect("a report can be written"), &report));
    assert!(!html(&report).contains("NaN") && !tables(&report).contains("NaN"));
}

#[test]
fn a_report_is_shown_anew_from_its_file() {
    let folder = std::env::temp_dir().join(format!("attn-bench-page-{}", std::process::id()));
    for report in [sample(), sample_with_card()] {
        report.write(&folder).expect("the folder can be written");
        let page = std::fs::read_to_string(folder.join("bench.html")).expect("it can be read");
        let mut back = Report::read(&folder).expect("what was written can be read");
        back.relate();
        assert_eq!(page.contains("by PyTorch 2.11"), report.machine.torch.version.is_some());
        assert_eq!(page.contains("A &lt;fast&gt; card, by Burn on cuda"), !report.machine.devices.is_empty());
        assert_eq!(page.contains("TFLOP/s"), !report.machine.devices.is_empty());
        assert_eq!(tables(&back), tables(&report));
    }
    // A file of before there were devices.
    let value = serde_json::to_value(sample()).expect("a report can be written");
    let machine = value["machine"].as_object().expect("the machine is an object");
    assert!(machine.keys().all(|key| key != "devices" && !key.starts_with("torch_")), "{machine:?}");
    // What is no report is an error that names the file.
    std::fs::write(folder.join("bench.json"), "{}").expect("the folder can be written");
    let error = Report::read(&folder).expect_err("it is no report");
    assert!(error.to_string().contains("bench.json"), "{error}");
    std::fs::remove_dir_all(&folder).expect("it can be removed");
}

#[test]
fn page_holds_every_row_and_nothing_from_outside() {
    let report = sample();
    let page = html(&report);
    assert_eq!(page.matches("<tr data-row>").count(), report.rows.len());
    for row in &report.rows {
        assert!(page.contains(&row.sizes), "{} is missing", row.sizes);
        assert!(page.contains(&row.options), "{} is missing", row.options);
        assert!(page.contains(&format!("data-v=\"{}\"", row.ours_ms)));
    }
    let bars = page.matches("<div class=\"bar ").count();
    let expected: usize = report.rows.len() + report.rows.iter().step_by(2).map(|r| r.peers.len()).sum::<usize>();
    assert_eq!(bars, expected, "a bar for ours on each backend and for each peer of a shape");
    assert!(page.contains("A &lt;fast&gt; CPU"));
    assert!(!page.contains("<kernel>"));
    assert!(!page.contains("http://") && !page.contains("https://"));
}

#[test]
fn tables_hold_every_row() {
    let report = sample();
    let text = tables(&report);
    for row in &report.rows {
        assert!(text.contains(&row.sizes), "{} is missing", row.sizes);
    }
    assert!(text.contains(" - "), "what a peer can't do is marked");
}

#[test]
fn files_are_replaced_whole() {
    let folder = std::env::temp_dir().join(format!("attn-bench-test-{}", std::process::id()));
    let report = sample();
    report.write(&folder).expect("the folder can be written");
    report.write(&folder).expect("and written again");
    let mut names: Vec<String> = std::fs::read_dir(&folder)
        .expect("the folder is there")
        .map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    assert_eq!(names, ["bench.html", "bench.json"], "nothing else is left");
    let text = std::fs::read_to_string(folder.join("bench.json")).expect("it can be read");
    assert!(reads_as(&text, &report));
    std::fs::remove_dir_all(&folder).expect("it can be removed");
}

/// A sweep of five shapes: leads 4, 2, 1, a half, and one that no peer can do.
fn sample_sweep() -> Report {
    let mut report = sample();
    report.rows.clear();
    for (n, shape) in suite(Suite::Sweep).iter().take(5).enumerate() {
        let mut row = Row::new(shape, "flex", &Times { median: 2.0, min: 2.0, max: 2.0, rounds: 5 });
        row.error_share = 0.5;
        if n < 4 {
            row.peers.insert("burn-flex".into(), 9.0);
            row.peers.insert("torch-sdpa".into(), 8.0 / f64::from(1 << n));
        }
        report.rows.push(row);
    }
    report.relate();
    report
}

#[test]
fn a_sweep_is_told_by_the_faster_peer_and_the_worst_first() {
    let report = sample_sweep();
    let sweep = sweep::Sweep::of(&report).expect("it has a sweep");
    assert!(sweep::Sweep::of(&sample()).is_none());
    let leads: Vec<f64> = sweep.rows.iter().filter_map(|row| row.lead()).collect();
    assert_eq!(leads, [0.5, 1.0, 2.0, 4.0]);
    assert_eq!(sweep.rows[0].rival(), Some("torch-sdpa"));
    assert_eq!((sweep.alone, sweep.below(1.0), sweep.below(0.9), sweep.below(1.01)), (1, 1, 1, 2));
    let text = tables(&report);
    assert!(text.contains("Sweep of 4 shapes; 1 more that no peer can do"), "{text}");
    assert!(text.contains("behind it 1, below 0.9 of it 1"), "{text}");
    assert!(text.contains(&report.rows[3].sizes) && !text.contains("NaN"), "{text}");
    let page = html(&report);
    assert_eq!(page.matches("<circle class=\"dot-").count(), 4);
    assert_eq!(page.matches(" lost\"").count(), 1);
    assert!(!page.contains("NaN"));
}
