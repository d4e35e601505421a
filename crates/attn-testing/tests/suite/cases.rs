//! The shared cases, on every engine that this machine has.

use attn_testing::engine::Engine;
use attn_testing::report::Report;
use attn_testing::run::{Target, backward_kernel};
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

/// The composite makes no gradient of a case: every backend has a fused backward pass for all of them.
#[test]
fn every_gradient_case_goes_back_through_a_fused_kernel() {
    let Some(folder) = super::shared_cases() else { return };
    let backends = ["ndarray", "flex", "tch", "wgpu", "cuda"];
    let engines = Engine::available().into_iter().filter(|engine| backends.contains(&engine.name()));
    let entries: Vec<_> = files(&[folder]).into_iter().flatten().map(|path| Entry::read(&path)).collect();
    for engine in engines {
        let target = Target::new(engine.device().expect("it has tensors").clone());
        let mut planned = 0;
        for case in entries.iter().filter_map(|entry| entry.case.as_ref().ok()) {
            let ask = case.ask(true);
            if ask.gradients.is_none() || !engine.has_dtype(case.problem.dtype) {
                continue;
            }
            let kernel = backward_kernel(&target, &case.problem, &ask).expect("a valid problem");
            assert_ne!(kernel, "composite", "{} on {}", case.path.display(), engine.name());
            planned += 1;
        }
        println!("{} cases with gradients on {}", planned, engine.name());
        assert!(planned >= 20, "{planned} on {}", engine.name());
    }
}
