//! The table and `target/bench.json`.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

/// One measured value, or why it was not measured.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Row {
    /// What was measured.
    pub(crate) name: String,
    /// The outcome.
    pub(crate) measured: Measured,
}

/// The outcome of a row.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Measured {
    /// A value without a target: a reference, or something that is reported only.
    Value {
        /// The value.
        value: f64,
        /// Its unit.
        unit: &'static str,
    },
    /// A value held against a reference of the same run.
    Against {
        /// The value.
        value: f64,
        /// Its unit, the reference's too.
        unit: &'static str,
        /// What the reference measured.
        reference: f64,
        /// The largest value that meets the target.
        target: Target,
    },
    /// Not measured, and why.
    Not(String),
}

/// The bound that a value is held against, in the value's unit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Target {
    /// Not more than this.
    AtMost(f64),
}

impl Row {
    /// A reference or a value that is reported only.
    pub(crate) fn value(name: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self {
            name: name.into(),
            measured: Measured::Value { value, unit },
        }
    }

    /// A value with a target.
    pub(crate) fn against(
        name: impl Into<String>,
        (value, unit): (f64, &'static str),
        reference: f64,
        target: Target,
    ) -> Self {
        Self {
            name: name.into(),
            measured: Measured::Against {
                value,
                unit,
                reference,
                target,
            },
        }
    }

    /// A row that could not run.
    pub(crate) fn not_measured(name: impl Into<String>, why: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            measured: Measured::Not(why.into()),
        }
    }

    /// `None` where there is no target.
    pub(crate) fn met(&self) -> Option<bool> {
        match &self.measured {
            Measured::Value { .. } | Measured::Not(_) => None,
            Measured::Against { value, target, .. } => Some(match target {
                Target::AtMost(limit) => value <= limit,
            }),
        }
    }

    fn json(&self) -> Value {
        match &self.measured {
            Measured::Value { value, unit } => json!({
                "name": self.name, "value": value, "unit": unit,
                "reference": null, "ratio": null, "target": null, "met": null,
            }),
            Measured::Against {
                value,
                unit,
                reference,
                target,
            } => json!({
                "name": self.name, "value": value, "unit": unit, "reference": reference,
                "ratio": value / reference, "target": target.text(), "met": self.met(),
            }),
            Measured::Not(why) => json!({
                "name": self.name, "value": null, "unit": null, "reference": null,
                "ratio": null, "target": null, "met": format!("not measured: {why}"),
            }),
        }
    }

    fn line(&self) -> String {
        let name = &self.name;
        match &self.measured {
            Measured::Value { value, unit } => format!("{name:<52} {value:>12.3} {unit:<5}"),
            Measured::Against {
                value,
                unit,
                reference,
                target,
            } => {
                let verdict = if self.met() == Some(true) {
                    "met"
                } else {
                    "MISSED"
                };
                format!(
                    "{name:<52} {value:>12.3} {unit:<5} {reference:>12.3} {:>6.2} {:>16} {verdict}",
                    value / reference,
                    target.text()
                )
            }
            Measured::Not(why) => format!("{name:<52} not measured: {why}"),
        }
    }
}

impl Target {
    fn text(self) -> String {
        match self {
            Self::AtMost(limit) => format!("<= {limit:.3}"),
        }
    }
}

/// Prints the table.
pub(crate) fn print(rows: &[Row]) {
    println!(
        "{:<52} {:>12} {:<5} {:>12} {:>6} {:>16} met",
        "name", "value", "unit", "reference", "ratio", "target"
    );
    for row in rows {
        println!("{}", row.line());
    }
}

/// Writes the rows, with where and how they were measured.
pub(crate) fn write(rows: &[Row], context: &Value, file: &Path) -> Result<(), String> {
    let rows: Vec<Value> = rows.iter().map(Row::json).collect();
    let all = json!({ "context": context, "rows": rows });
    if let Some(directory) = file.parent() {
        fs::create_dir_all(directory)
            .map_err(|error| format!("could not create {}: {error}", directory.display()))?;
    }
    fs::write(file, format!("{all:#}\n"))
        .map_err(|error| format!("could not write {}: {error}", file.display()))
}

/// How many targets were met, were missed, and how many rows could not run.
pub(crate) fn summary(rows: &[Row]) -> (usize, usize, usize) {
    let met = rows.iter().filter(|row| row.met() == Some(true)).count();
    let missed = rows.iter().filter(|row| row.met() == Some(false)).count();
    let not = rows.iter();
    let not = not.filter(|row| matches!(row.measured, Measured::Not(_)));
    (met, missed, not.count())
}
