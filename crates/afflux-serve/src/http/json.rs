//! Rows, changes and errors as JSON text.
//!
//! Rows are written by `afflux-codec`, the same way in which view topics write them.

use std::fmt::Write;

use afflux_codec::json::RowWriter;
use afflux_record::changelog::Changes;
use afflux_types::Tick;
use arrow::record_batch::RecordBatch;

/// A row a line.
pub(super) fn lines(batch: &RecordBatch) -> String {
    let writer = RowWriter::new(batch);
    let mut text = String::new();
    for row in 0..batch.num_rows() {
        writer.write(row, &mut text);
        text.push('\n');
    }
    text
}

/// `{"tick":N,"changes":[{"weight":1,"row":{…}},…]}`.
pub(super) fn changes(tick: Tick, changes: &Changes) -> String {
    let writer = RowWriter::new(&changes.batch);
    let mut text = format!("{{\"tick\":{tick},\"changes\":[");
    for row in 0..changes.batch.num_rows() {
        let weight = changes.weights.as_ref().map_or(1, |weights| weights.value(row));
        let comma = if row == 0 { "" } else { "," };
        // Writing to a string does not fail.
        let _ = write!(text, "{comma}{{\"weight\":{weight},\"row\":");
        writer.write(row, &mut text);
        text.push('}');
    }
    text.push_str("]}");
    text
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::{
        array::{ArrayRef, Int64Array, StringArray},
        record_batch::RecordBatch,
    };

    use super::*;

    fn batch() -> RecordBatch {
        RecordBatch::try_from_iter([
            ("carrier", Arc::new(StringArray::from(vec![Some("U\"A\n"), None])) as ArrayRef),
            ("flights", Arc::new(Int64Array::from(vec![Some(3), Some(-1)])) as ArrayRef),
        ])
        .unwrap()
    }

    #[test]
    fn rows_are_lines() {
        assert_eq!(
            lines(&batch()),
            "{\"carrier\":\"U\\\"A\\n\",\"flights\":3}\n{\"carrier\":null,\"flights\":-1}\n"
        );
    }

    #[test]
    fn changes_carry_their_weights() {
        let check = |weights: Option<Vec<i64>>, expected: &str| {
            let changed = Changes { batch: batch(), weights: weights.map(Int64Array::from) };
            assert_eq!(changes(Tick(7), &changed), expected);
        };
        let rows = (r#"{"carrier":"U\"A\n","flights":3}"#, r#"{"carrier":null,"flights":-1}"#);
        let expected = |a: i64, b: i64| {
            format!(
                r#"{{"tick":7,"changes":[{{"weight":{a},"row":{}}},{{"weight":{b},"row":{}}}]}}"#,
                rows.0, rows.1
            )
        };
        check(None, &expected(1, 1));
        check(Some(vec![-1, 2]), &expected(-1, 2));
        let none = Changes { batch: batch().slice(0, 0), weights: None };
        assert_eq!(changes(Tick(7), &none), r#"{"tick":7,"changes":[]}"#);
    }
}
