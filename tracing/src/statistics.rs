//! How many exits of which reason, and what they cost: the table that `perf kvm stat` made familiar.
//!
//! Every exit and every failed entry counts as a sample; the steps of nesting are counted apart, see [`nested`]. Cost is what passed between the exit and the entry that followed, so a record that
//! no entry followed (a failed entry, an exit that ended the run) has none and does not pull minimum and average down.

pub mod nested;

use crate::record::{Action, Record, RecordKind};
use crate::words::reason_name;
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;
use std::collections::BTreeMap;

/// Accumulates records.
#[derive(Debug, Clone, Default)]
pub struct Statistics {
    rows: BTreeMap<Key, Row>,
    nested: nested::Counters,
    lost: u64,
}

/// What makes a row: guest level, kind of record, and of the exit reason the basic reason and the bit for failed entries.
type Key = (u8, u8, u32);

/// Bits of the exit reason that tell rows apart: the others say in which circumstances, not why.
const REASON_BITS: u32 = 0x8000_ffff;

/// Samples of one row. Costs in ticks of the time-stamp counter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Row {
    samples: u64,
    /// Samples that have a cost.
    measured: u64,
    total: u64,
    minimum: u32,
    maximum: u32,
}

impl Row {
    fn add(&mut self, cost: Option<u32>) {
        self.samples += 1;
        let Some(cost) = cost else { return };
        self.minimum = if self.measured == 0 { cost } else { self.minimum.min(cost) };
        self.maximum = self.maximum.max(cost);
        self.measured += 1;
        self.total = self.total.saturating_add(u64::from(cost));
    }
}

impl Statistics {
    /// Statistics of nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts `record`.
    pub fn add(&mut self, record: &Record) {
        self.nested.add(record);
        if record.kind().is_some_and(RecordKind::is_step) {
            return;
        }
        let followed_by_entry = record.kind() == Some(RecordKind::Exit) && record.action() != Some(Action::Stopped);
        let key = (record.level, record.kind, record.reason & REASON_BITS);
        self.rows.entry(key).or_default().add(followed_by_entry.then_some(record.cost));
    }

    /// Counts `count` records that are missing.
    pub fn add_lost(&mut self, count: u64) {
        self.lost = self.lost.saturating_add(count);
    }

    /// The figures. `unit` says what a tick is: "instructions" on Bochs, "cycles" on KVM.
    #[must_use]
    pub fn report(&self, unit: &str) -> Report {
        let samples = self.rows.values().map(|row| row.samples).sum();
        let total = self.rows.values().fold(0_u64, |sum, row| sum.saturating_add(row.total));
        let mut exits: Vec<ReportRow> = self
            .rows
            .iter()
            .map(|(&(level, kind, reason), row)| ReportRow {
                reason: reason_name(&Record { kind, reason, ..Record::ZERO }),
                level,
                samples: row.samples,
                samples_percent: percent(row.samples, samples),
                time_percent: percent(row.total, total),
                total: row.total,
                min: (row.measured != 0).then_some(row.minimum),
                max: (row.measured != 0).then_some(row.maximum),
                average: (row.measured != 0).then(|| row.total as f64 / row.measured as f64),
            })
            .collect();
        exits.sort_by(|a, b| (b.samples, &a.reason, a.level).cmp(&(a.samples, &b.reason, b.level)));
        Report { unit: unit.to_owned(), samples, total, lost_records: self.lost, exits, nested: self.nested.report() }
    }
}

/// The figures of a run, for programs and for the table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// What `total`, `min`, `max` and `average` count.
    pub unit: String,
    /// Records counted.
    pub samples: u64,
    /// Sum of all costs.
    pub total: u64,
    /// Records that are missing from the figures.
    pub lost_records: u64,
    /// The most samples first, then by reason and level.
    pub exits: Vec<ReportRow>,
    /// The figures of nesting; none if there was no L3.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nested: Option<nested::NestedReport>,
}

/// The figures of one exit reason at one level.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ReportRow {
    /// Name of the exit reason.
    pub reason: String,
    /// Level of the guest that exited.
    pub level: u8,
    /// Records counted.
    pub samples: u64,
    /// Share of all samples.
    pub samples_percent: f64,
    /// Share of all costs.
    pub time_percent: f64,
    /// Sum of the costs.
    pub total: u64,
    /// Least cost; none where no sample has a cost.
    pub min: Option<u32>,
    /// Greatest cost; none where no sample has a cost.
    pub max: Option<u32>,
    /// Average cost; none where no sample has a cost.
    pub average: Option<f64>,
}

impl Report {
    /// The table as text, with the totals below it. Ends with a line end.
    #[must_use]
    pub fn to_table(&self) -> String {
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(["VM-EXIT", "Level", "Samples", "Samples%", "Time%", "Min", "Max", "Avg"]);
        table.add_rows(self.exits.iter().map(|row| {
            [
                row.reason.clone(),
                format!("L{}", row.level),
                row.samples.to_string(),
                format!("{:.2}%", row.samples_percent),
                format!("{:.2}%", row.time_percent),
                or_dash(row.min.map(|cost| cost.to_string())),
                or_dash(row.max.map(|cost| cost.to_string())),
                or_dash(row.average.map(|average| format!("{average:.1}"))),
            ]
        }));
        table.column_iter_mut().skip(2).for_each(|column| {
            column.set_cell_alignment(CellAlignment::Right);
        });
        let mut text = String::new();
        for line in table.lines() {
            text += line.trim_end();
            text += "\n";
        }
        let Self { unit, samples, total, lost_records, .. } = self;
        text += &format!(
            "\n Total samples: {samples}, total time: {total}, lost records: {lost_records}\n \
             Times in {unit}, from the exit to the entry that followed.\n"
        );
        if let Some(nested) = &self.nested {
            text += "\n";
            text += &nested.to_text();
        }
        text
    }

    /// The report as JSON text, with the names of the fields. Ends with a line end.
    ///
    /// # Errors
    /// None that a report can cause; what `serde_json` says.
    pub fn to_json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self).map(|text| text + "\n")
    }
}

fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    fn statistics() -> Statistics {
        let mut statistics = Statistics::new();
        for (record, costs) in [
            (sample::cpuid(1, 0), &[200, 301, 200][..]),
            (sample::io_out(0x3f8), &[900; 5]),
            (sample::hlt(), &[7]),
            (Record { level: 3, owner: 2, ..sample::cpuid(0, 0) }, &[5000]),
            (sample::triple_fault(), &[0]),
            (sample::entry_failure(7), &[0]),
        ] {
            costs.iter().for_each(|cost| statistics.add(&Record { cost: *cost, ..record }));
        }
        statistics
    }

    #[test]
    fn table() {
        let mut statistics = statistics();
        statistics.add_lost(3);
        insta::assert_snapshot!(statistics.report("instructions").to_table());
    }

    #[test]
    fn table_of_nothing() {
        insta::assert_snapshot!(Statistics::new().report("cycles").to_table());
    }

    #[test]
    fn json() {
        let json = statistics().report("cycles").to_json().expect("figures have a JSON form");
        insta::assert_snapshot!(json);
    }

    #[test]
    fn nesting_stands_below_the_table() {
        let mut statistics = Statistics::new();
        for record in [sample::nested_steps(), sample::hardware_round_trip(), sample::software_round_trip()].concat() {
            statistics.add(&record);
        }
        let report = statistics.report("instructions");
        insta::assert_snapshot!("nested_table", report.to_table());
        let json: serde_json::Value = serde_json::from_str(&report.to_json().expect("figures have a JSON form")).expect("JSON");
        insta::assert_snapshot!("nested_json", serde_json::to_string_pretty(&json["nested"]).expect("a value has a text"));
    }

    #[test]
    fn circumstances_do_not_make_rows() {
        let mut statistics = Statistics::new();
        let from_enclave = Record { reason: 10 | 1 << 27, ..sample::cpuid(0, 0) };
        statistics.add(&from_enclave);
        statistics.add(&sample::cpuid(0, 0));
        let report = statistics.report("cycles");
        assert_eq!((report.exits.len(), report.samples), (1, 2));
    }

    #[test]
    fn absurd_costs_and_counts_do_not_overflow() {
        let mut statistics = Statistics::new();
        (0..3).for_each(|_| statistics.add(&Record { cost: u32::MAX, ..sample::hlt() }));
        (0..2).for_each(|_| statistics.add_lost(u64::MAX));
        let report = statistics.report("cycles");
        assert_eq!((report.total, report.lost_records), (3 * u64::from(u32::MAX), u64::MAX));
    }
}
