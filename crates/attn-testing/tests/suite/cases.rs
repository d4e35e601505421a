//! The shared cases, on every engine that this machine has.

use attn_testing::engine::Engine;
use attn_testing::report::Report;
use attn_testing::verify::{Entry, Verdict, files, judge};

#[test]
fn every_engine_reproduces_every_shared_case() {
    let Some(folder) = super::shared_cases() else { return };
    let engines = Engine::available();
    assert!(engines.iter().any(|engine| engine.name() == "reference"));
    let mut report = Report::default();
    for file in files(&[folder]) {
        let entry = file.map_or_else(|entry| entry, |path| Entry::read(&path));
        report.judgements.extend(engines.iter().map(|engine| judge(&entry, engine, true)));
    }
    println!("{}\n{}{}", report.table(), report.notes(), report.last_line());
    let total = report.total();
    assert_eq!(total.failed, 0, "{}", report.notes());
    assert!(total.passed >= 75, "{}", report.last_line());
    // Nothing is skipped but for want of tensors of the type, and only NdArray and some adapters lack any.
    for judgement in report.judgements.iter().filter(|judgement| matches!(judgement.verdict, Verdict::Skipped(_))) {
        assert!(["ndarray", "wgpu"].contains(&judgement.engine), "{judgement:?}");
        assert!(judgement.family.starts_with("low_"), "{judgement:?}");
    }
}
