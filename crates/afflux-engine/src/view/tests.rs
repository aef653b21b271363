use std::collections::BTreeMap;

use arrow::{
    array::{AsArray, Int64Array, StringArray},
    datatypes::{DataType, Field, Int64Type},
};
use proptest::prelude::*;

use super::*;

type Row = (String, i64);

fn schema() -> Schema {
    Schema::new(vec![
        Field::new("name", DataType::Utf8, false),
        Field::new("value", DataType::Int64, false),
    ])
}

fn changes(rows: &[(Row, i64)]) -> Changes {
    let names = StringArray::from_iter_values(rows.iter().map(|((name, _), _)| name));
    let values = Int64Array::from_iter_values(rows.iter().map(|((_, value), _)| *value));
    let batch =
        RecordBatch::try_new(Arc::new(schema()), vec![Arc::new(names), Arc::new(values)]).unwrap();
    let weights = Int64Array::from_iter_values(rows.iter().map(|(_, weight)| *weight));
    Changes { batch, weights: Some(weights) }
}

fn rows_of(batches: &[RecordBatch]) -> Vec<Row> {
    let mut rows = Vec::new();
    for batch in batches {
        let (names, values) =
            (batch.column(0).as_string::<i32>(), batch.column(1).as_primitive::<Int64Type>());
        rows.extend(
            (0..batch.num_rows()).map(|row| (names.value(row).to_owned(), values.value(row))),
        );
    }
    rows.sort();
    rows
}

/// All rows of a version, read in small chunks, each as often as its weight says.
fn chunked(layout: &Layout, contents: &Contents) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut after: Option<Box<[u8]>> = None;
    loop {
        let chunk = layout.chunk(contents, after.as_deref(), 24).unwrap();
        for row in 0..chunk.rows.len() {
            let one = rows_of(&[chunk.rows.batch.slice(row, 1)]);
            for _ in 0..chunk.rows.weight(row) {
                rows.extend(one.clone());
            }
        }
        match chunk.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    rows.sort();
    rows
}

/// One tick: for some names the value that they are to have, or none.
fn ticks() -> impl Strategy<Value = Vec<BTreeMap<String, Option<i64>>>> {
    let tick = prop::collection::btree_map("[a-f]{0,2}", prop::option::of(0..4_i64), 0..6);
    prop::collection::vec(tick, 1..20)
}

fn shuffled(mut rows: Vec<(Row, i64)>, seed: usize) -> Vec<(Row, i64)> {
    let length = rows.len().max(1);
    rows.rotate_left(seed % length);
    rows
}

proptest! {
    #[test]
    fn a_keyed_view_holds_what_the_changes_say(ticks in ticks(), seed in 0..7_usize) {
        let layout = Layout::new(schema(), Some(vec![0])).unwrap();
        let mut contents = Contents::empty();
        let mut model: BTreeMap<String, i64> = BTreeMap::new();
        let mut versions = Vec::new();
        for tick in ticks {
            let mut rows = Vec::new();
            for (name, value) in tick {
                let old = model.get(&name).copied();
                if old == value {
                    continue;
                }
                if let Some(old) = old {
                    rows.push(((name.clone(), old), -1));
                    model.remove(&name);
                }
                if let Some(value) = value {
                    rows.push(((name.clone(), value), 1));
                    model.insert(name, value);
                }
            }
            layout.apply(&mut contents, &changes(&shuffled(rows, seed))).unwrap();
            versions.push((contents.clone(), model.clone()));
        }
        for (contents, model) in versions {
            let expected: Vec<Row> = model.into_iter().collect();
            prop_assert_eq!(&rows_of(&layout.batches(&contents).unwrap()), &expected);
            prop_assert_eq!(&chunked(&layout, &contents), &expected);
            prop_assert_eq!(contents.rows(), expected.len() as u64);
            for (name, value) in expected {
                let key: ArrayRef = Arc::new(StringArray::from(vec![name.clone()]));
                let found = layout.get(&contents, &[key]).unwrap().unwrap();
                prop_assert_eq!(rows_of(&[found]), vec![(name, value)]);
            }
        }
    }

    #[test]
    fn replaying_old_changes_over_newer_contents_ends_right(ticks in ticks(), from in 0..20_usize) {
        let layout = Layout::new(schema(), Some(vec![0])).unwrap();
        let mut contents = Contents::empty();
        let mut model: BTreeMap<String, i64> = BTreeMap::new();
        let mut log = Vec::new();
        for tick in ticks {
            let mut rows = Vec::new();
            for (name, value) in tick {
                let old = if let Some(value) = value {
                    model.insert(name.clone(), value)
                } else {
                    model.remove(&name)
                };
                rows.extend(old.map(|old| ((name.clone(), old), -1)));
                rows.extend(value.map(|value| ((name, value), 1)));
            }
            rows.retain(|(row, weight)| {
                *weight > 0 || model.get(&row.0) != Some(&row.1)
            });
            log.push(changes(&rows));
            layout.apply(&mut contents, log.last().unwrap()).unwrap();
        }
        let expected = rows_of(&layout.batches(&contents).unwrap());
        for old in log.iter().skip(from) {
            layout.apply(&mut contents, old).unwrap();
        }
        prop_assert_eq!(rows_of(&layout.batches(&contents).unwrap()), expected);
    }

    #[test]
    fn a_view_without_a_key_counts_rows(rows in prop::collection::vec(
        (("[a-c]", 0..2_i64), 1..3_i64, any::<bool>()), 0..40
    )) {
        let layout = Layout::new(schema(), None).unwrap();
        let mut contents = Contents::empty();
        let mut model: BTreeMap<Row, i64> = BTreeMap::new();
        for (row, times, add) in rows {
            let there = model.entry(row.clone()).or_default();
            let weight = if add { times } else { -times.min(*there) };
            *there += weight;
            layout.apply(&mut contents, &changes(&[(row, weight)])).unwrap();
        }
        let expected: Vec<Row> = model
            .into_iter()
            .flat_map(|(row, times)| std::iter::repeat_n(row, times as usize))
            .collect();
        prop_assert_eq!(&rows_of(&layout.batches(&contents).unwrap()), &expected);
        prop_assert_eq!(&chunked(&layout, &contents), &expected);
        prop_assert_eq!(contents.rows(), expected.len() as u64);
    }
}

#[test]
fn a_view_of_one_row_has_an_empty_key() {
    let layout = Layout::new(schema(), Some(Vec::new())).unwrap();
    let mut contents = Contents::empty();
    let row = |value: i64| (String::new(), value);
    layout.apply(&mut contents, &changes(&[(row(1), 1)])).unwrap();
    layout.apply(&mut contents, &changes(&[(row(2), 1), (row(1), -1)])).unwrap();
    assert_eq!(rows_of(&layout.batches(&contents).unwrap()), vec![row(2)]);
    assert!(layout.get(&contents, &[]).unwrap().is_some());
    layout.apply(&mut contents, &changes(&[(row(2), -1)])).unwrap();
    assert_eq!(contents.rows(), 0);
    assert_eq!(contents.bytes(), 0);
}
