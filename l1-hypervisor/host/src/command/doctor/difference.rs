//! Two capability reports side by side: only what differs, by name.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::capabilities::CapabilityReport;
use super::rows::{FIELDS, Row};

/// What stands where one side has no such row.
const ABSENT: &str = "-";

/// What differs between two processors. The names of the fields are documented with the command.
#[derive(Debug, Serialize)]
pub struct Difference {
    /// What was compared.
    sides: [String; 2],
    /// What differs, in the order of a report.
    differences: Vec<Different>,
}

/// One thing that differs.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Different {
    group: &'static str,
    name: String,
    values: [String; 2],
}

impl Difference {
    /// Compares two reports that are called `sides`. VMCS fields are compared if both reports know them.
    pub fn new(sides: [&str; 2], reports: [&CapabilityReport; 2]) -> Self {
        let with_fields = reports.iter().all(|report| report.fields.is_some());
        let [left, right] = reports.map(|report| report.compared_rows(with_fields));
        let mut differences = compare(&left, &right);
        differences.retain(Different::is_different);
        Self { sides: sides.map(str::to_owned), differences }
    }

    /// Both reports whole, except that of the VMCS fields only those are there that differ.
    pub fn side_by_side(sides: [&str; 2], reports: [&CapabilityReport; 2]) -> Self {
        let [left, right] = reports.map(|report| report.compared_rows(true));
        let mut differences = compare(&left, &right);
        differences.retain(|row| row.is_different() || row.group != FIELDS);
        Self { sides: sides.map(str::to_owned), differences }
    }
}

impl Different {
    fn is_different(&self) -> bool {
        self.values[0] != self.values[1]
    }
}

/// The rows of both sides, those of a group together.
fn compare(left: &[Row], right: &[Row]) -> Vec<Different> {
    let by_name = |rows: &[Row]| -> BTreeMap<(&'static str, String), String> {
        rows.iter().map(|row| ((row.group, row.name.clone()), row.value.clone())).collect()
    };
    let (left_values, right_values) = (by_name(left), by_name(right));
    // The order of the left side; what it has not comes at the end of its group.
    let mut groups: Vec<&'static str> = Vec::new();
    for row in left.iter().chain(right) {
        if !groups.contains(&row.group) {
            groups.push(row.group);
        }
    }
    let only_right = right.iter().filter(|row| !left_values.contains_key(&(row.group, row.name.clone())));
    let all: Vec<&Row> = left.iter().chain(only_right).collect();
    let value = |values: &BTreeMap<(&'static str, String), String>, row: &Row| {
        values.get(&(row.group, row.name.clone())).map_or_else(|| ABSENT.to_owned(), String::clone)
    };
    let in_order = groups.iter().flat_map(|group| all.iter().filter(move |row| row.group == *group));
    in_order
        .map(|row| Different {
            group: row.group,
            name: row.name.clone(),
            values: [value(&left_values, row), value(&right_values, row)],
        })
        .collect()
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [left, right] = &self.sides;
        if self.differences.is_empty() {
            return writeln!(f, "{left} and {right} do not differ");
        }
        let width = self.differences.iter().map(|different| different.name.len()).max().unwrap_or(0);
        let left_width = self.differences.iter().map(|different| different.values[0].len()).max().unwrap_or(0).max(left.len());
        writeln!(f, "{:width$}  {left:left_width$}  {right}", "", width = width + 2)?;
        let mut group = "";
        for different in &self.differences {
            if different.group != group {
                group = different.group;
                writeln!(f, "{group}")?;
            }
            let [left, right] = &different.values;
            writeln!(f, "  {:width$}  {left:left_width$}  {right}", different.name)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(group: &'static str, name: &str, value: &str) -> Row {
        Row { group, name: name.to_owned(), value: value.to_owned() }
    }

    #[test]
    fn only_what_differs_is_left_and_groups_stay_together() {
        let left = [row("A", "same", "1"), row("A", "changed", "1"), row("B", "gone", "1")];
        let right = [row("A", "same", "1"), row("A", "changed", "2"), row("A", "new", "3")];
        let mut differences = compare(&left, &right);
        differences.retain(Different::is_different);
        let expected = [("A", "changed", ["1", "2"]), ("A", "new", ["-", "3"]), ("B", "gone", ["1", "-"])];
        let found: Vec<_> =
            differences.iter().map(|d| (d.group, d.name.as_str(), d.values.each_ref().map(String::as_str))).collect();
        assert_eq!(found, expected);
        let text = Difference { sides: ["x".to_owned(), "y".to_owned()], differences }.to_string();
        let expected = "           x  y\nA\n  changed  1  2\n  new      -  3\nB\n  gone     1  -\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn equal_sides_are_said_to_be_equal() {
        let rows = [row("A", "same", "1")];
        let mut differences = compare(&rows, &rows);
        assert_eq!(differences.len(), 1, "side by side they are there all the same");
        differences.retain(Different::is_different);
        let difference = Difference { sides: ["x".to_owned(), "y".to_owned()], differences };
        assert_eq!(difference.to_string(), "x and y do not differ\n");
    }
}
