//! What the verifier says: a table of families, every failure, and the totals.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use comfy_table::{Cell, CellAlignment, ContentArrangement, LineStyle, Table, presets};

use crate::verify::{Judgement, Verdict};

/// Cases of one family on one engine.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Tally {
    /// How many were judged.
    pub cases: usize,
    /// How many passed.
    pub passed: usize,
    /// How many failed.
    pub failed: usize,
    /// How many were skipped.
    pub skipped: usize,
    /// Largest error as a share of its tolerance, and the tensor; none where nothing was compared.
    pub worst: Option<(&'static str, f64)>,
}

impl Tally {
    fn add(&mut self, judgement: &Judgement) {
        self.cases += 1;
        match judgement.verdict {
            Verdict::Passed => self.passed += 1,
            Verdict::Failed(_) => self.failed += 1,
            Verdict::Skipped(_) => self.skipped += 1,
        }
        if let Some(worst) = judgement.worst
            && self.worst.is_none_or(|(_, share)| worst.1 > share)
        {
            self.worst = Some(worst);
        }
    }
}

/// All judgements of a run.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// In the order in which they came.
    pub judgements: Vec<Judgement>,
}

impl Report {
    /// Totals over everything.
    pub fn total(&self) -> Tally {
        self.tally(|_| true)
    }

    fn tally(&self, filter: impl Fn(&Judgement) -> bool) -> Tally {
        let mut tally = Tally::default();
        self.judgements.iter().filter(|judgement| filter(judgement)).for_each(|judgement| tally.add(judgement));
        tally
    }

    fn engines(&self) -> Vec<&'static str> {
        let mut engines = Vec::new();
        for judgement in &self.judgements {
            if !engines.contains(&judgement.engine) {
                engines.push(judgement.engine);
            }
        }
        engines
    }

    /// Families down, engines across; for each the cases passed and the worst error as a share of its tolerance.
    pub fn table(&self) -> String {
        let engines = self.engines();
        let mut table = Table::new();
        table
            .load_style(presets::UTF8_NO_BORDERS.row_separator(LineStyle::none()))
            .set_content_arrangement(ContentArrangement::Disabled);
        let mut header = vec!["family".to_string(), "cases".to_string()];
        header.extend(engines.iter().flat_map(|name| [format!("{name}\npassed"), "\nworst error".to_string()]));
        table.set_header(header);
        let families: BTreeSet<&str> = self.judgements.iter().map(|judgement| judgement.family.as_str()).collect();
        for family in &families {
            table.add_row(self.row(family, &engines, |judgement| judgement.family == *family));
        }
        if families.len() > 1 {
            table.add_row(self.row("all", &engines, |_| true));
        }
        table.column_iter_mut().skip(1).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
        table.to_string()
    }

    fn row(&self, name: &str, engines: &[&'static str], filter: impl Fn(&Judgement) -> bool) -> Vec<Cell> {
        let of = |engine: &str| self.tally(|judgement| judgement.engine == engine && filter(judgement));
        let cases = engines.first().map_or(0, |engine| of(engine).cases);
        let mut row = vec![Cell::new(name), Cell::new(cases)];
        for engine in engines {
            let tally = of(engine);
            row.push(Cell::new(match tally.skipped {
                0 => tally.passed.to_string(),
                skipped if skipped == tally.cases => "skipped".to_string(),
                skipped => format!("{} ({skipped} skipped)", tally.passed),
            }));
            row.push(Cell::new(tally.worst.map_or("-".to_string(), |(tensor, share)| format!("{share:.2} {tensor}"))));
        }
        row
    }

    /// Every failure by name with its figures, and why anything was skipped. Empty where everything passed.
    pub fn notes(&self) -> String {
        let mut text = String::new();
        for judgement in &self.judgements {
            if let Verdict::Failed(reasons) = &judgement.verdict {
                let _ = writeln!(text, "FAILED {} on {}", judgement.name, judgement.engine);
                for reason in reasons {
                    let _ = writeln!(text, "  {reason}");
                }
            }
        }
        let mut skipped: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        for judgement in &self.judgements {
            if let Verdict::Skipped(reason) = &judgement.verdict {
                *skipped.entry((judgement.engine, reason)).or_default() += 1;
            }
        }
        for ((engine, reason), count) in skipped {
            let _ = writeln!(text, "skipped {count} on {engine}: {reason}");
        }
        text
    }

    /// `N passed, N failed, N skipped`.
    pub fn last_line(&self) -> String {
        let total = self.total();
        format!("{} passed, {} failed, {} skipped", total.passed, total.failed, total.skipped)
    }
}
