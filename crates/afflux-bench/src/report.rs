//! Figures, printed as they come: for people, or as one JSON object a line.

use serde::Serialize;

/// What a figure is held against: a raw loop, another system, the machine itself.
#[derive(Debug, Clone)]
pub(crate) struct Reference {
    /// What it is, in a few words.
    pub(crate) name: String,
    /// In the figure's unit.
    pub(crate) value: f64,
}

/// Takes figures and prints them.
#[derive(Debug)]
pub(crate) struct Report {
    bench: &'static str,
    json: bool,
}

/// One line. Fields that hold for no reference are null.
#[derive(Debug, Serialize)]
struct Line<'a> {
    bench: &'a str,
    case: &'a str,
    value: f64,
    unit: &'a str,
    reference: Option<&'a str>,
    reference_value: Option<f64>,
    ratio: Option<f64>,
}

impl Report {
    pub(crate) fn new(bench: &'static str, json: bool) -> Self {
        Self { bench, json }
    }

    /// Prints a figure that stands alone.
    pub(crate) fn figure(&mut self, case: &str, value: f64, unit: &str) {
        self.print(case, value, unit, None);
    }

    /// Prints a figure beside what it is held against.
    pub(crate) fn compared(&mut self, case: &str, value: f64, unit: &str, reference: &Reference) {
        self.print(case, value, unit, Some(reference));
    }

    fn print(&mut self, case: &str, value: f64, unit: &str, reference: Option<&Reference>) {
        println!("{}", line(self, case, value, unit, reference));
    }
}

fn line(
    report: &Report,
    case: &str,
    value: f64,
    unit: &str,
    reference: Option<&Reference>,
) -> String {
    let ratio = reference.map(|reference| value / reference.value).filter(|r| r.is_finite());
    if report.json {
        let line = Line {
            bench: report.bench,
            case,
            value,
            unit,
            reference: reference.map(|reference| reference.name.as_str()),
            reference_value: reference.map(|reference| reference.value),
            ratio,
        };
        return serde_json::to_string(&line).expect("names and numbers are JSON");
    }
    let figure = format!("{:<10} {case:<40} {:>14} {unit}", report.bench, shown(value));
    match (reference, ratio) {
        (Some(reference), Some(ratio)) => {
            format!("{figure:<78} {ratio:.2} x {} ({})", reference.name, shown(reference.value))
        }
        _ => figure,
    }
}

/// A number as one reads it: whole when large, three digits when small.
fn shown(value: f64) -> String {
    if value.abs() >= 1000.0 {
        let digits = format!("{value:.0}");
        let mut text = String::new();
        for (at, digit) in digits.chars().enumerate() {
            let behind = digits.len() - at;
            if at > 0 && behind.is_multiple_of(3) && !text.ends_with('-') {
                text.push(',');
            }
            text.push(digit);
        }
        text
    } else if value.abs() >= 100.0 {
        format!("{value:.0}")
    } else if value.abs() >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_every_field() {
        let report = Report::new("journal", true);
        assert_eq!(
            line(&report, "4 KiB", 10.0, "MB/s", None),
            r#"{"bench":"journal","case":"4 KiB","value":10.0,"unit":"MB/s","reference":null,"reference_value":null,"ratio":null}"#
        );
        let reference = Reference { name: "raw loop".to_owned(), value: 8.0 };
        assert_eq!(
            line(&report, "4 KiB", 10.0, "MB/s", Some(&reference)),
            r#"{"bench":"journal","case":"4 KiB","value":10.0,"unit":"MB/s","reference":"raw loop","reference_value":8.0,"ratio":1.25}"#
        );
        let nothing = Reference { name: "raw loop".to_owned(), value: 0.0 };
        assert!(line(&report, "a", 1.0, "s", Some(&nothing)).ends_with(r#""ratio":null}"#));
    }

    #[test]
    fn numbers_are_readable() {
        for (value, expected) in [
            (0.304, "0.30"),
            (18.26, "18.3"),
            (182.6, "183"),
            (999.7, "1000"),
            (1000.0, "1,000"),
            (1_234_567.8, "1,234,568"),
            (-123_456.0, "-123,456"),
        ] {
            assert_eq!(shown(value), expected, "{value}");
        }
    }
}
