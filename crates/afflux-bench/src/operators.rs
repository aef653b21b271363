//! What the operators cost, without a log or a disk: Arrow batches through a plan, in epochs.
//!
//! 1. The same rows go through a plan and through a loop written by hand over the same arrays,
//!    with a hashbrown map where it groups or joins. The loop keeps no changelog, tells no
//!    changes, and knows its types: it is what the rows cost at the very least.
//! 2. Both give the sum of one output column. Where the two differ there is no figure.
//! 3. The fixed cost of an epoch: one row at a time.

use std::{
    collections::HashMap,
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use afflux_catalog::{Catalog, Change, Object, ObjectKind, Table};
use afflux_dataflow::{Dataflow, InputKind};
use afflux_plan::{Column, Plan};
use afflux_record::changelog::Changes;
use afflux_sql::Statement;
use afflux_types::{ObjectId, Timestamp};
use anyhow::{Context, Result, bail, ensure};
use arrow::{
    array::{
        ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch, StringArray,
        TimestampMillisecondArray,
    },
    datatypes::{Float64Type, Int64Type, TimestampMillisecondType},
};

use crate::{
    Settings,
    report::{Reference, Report},
    sample,
};

const BATCH_ROWS: usize = 8192;
const BATCHES_AN_EPOCH: usize = 8;
const GROUPS_FEW: i64 = 100;
const GROUPS_MANY: i64 = 1_000_000;
const TABLE_ROWS: i64 = 10_000;
const WINDOW_MS: i64 = 60_000;

const SOURCE: &str = "CREATE SOURCE s (
    few BIGINT NOT NULL, many BIGINT NOT NULL, key BIGINT NOT NULL, v BIGINT NOT NULL,
    f DOUBLE PRECISION NOT NULL, ts TIMESTAMP(3) NOT NULL, WATERMARK FOR ts AS ts
) WITH (topic = 's', format = 'json')";
/// Where the columns of a source batch are.
const FEW: usize = 0;
const MANY: usize = 1;
const KEY: usize = 2;
const V: usize = 3;
const F: usize = 4;
const TS: usize = 5;

/// How long the work took, and the sum of the column that is compared.
type Outcome = (Duration, i64);

struct Case {
    name: &'static str,
    query: &'static str,
    /// The output column that is summed up.
    sum: usize,
    reference: &'static str,
    by_hand: fn(&Input) -> i64,
}

const CASES: &[Case] = &[
    Case {
        name: "filter and projection",
        query: "SELECT key, v * 2 + 1 AS w, f / 2 AS half FROM s WHERE v > 500",
        sum: 1,
        reference: "a loop into vectors",
        by_hand: filtered,
    },
    Case {
        name: "aggregate, 100 groups",
        query: "SELECT few, count(*) AS n, sum(v) AS v, avg(f) AS f FROM s GROUP BY few",
        sum: 2,
        reference: "a loop into a map",
        by_hand: |input| grouped(input, FEW),
    },
    Case {
        name: "aggregate, 1 M groups",
        query: "SELECT many, count(*) AS n, sum(v) AS v, avg(f) AS f FROM s GROUP BY many",
        sum: 2,
        reference: "a loop into a map",
        by_hand: |input| grouped(input, MANY),
    },
    Case {
        name: "tumbling windows of 100 groups",
        query: "SELECT window_start, few, count(*) AS n, sum(v) AS v
                FROM TABLE(TUMBLE(TABLE s, DESCRIPTOR(ts), INTERVAL '1' MINUTE))
                GROUP BY window_start, window_end, few",
        sum: 3,
        reference: "a loop into a map",
        by_hand: windowed,
    },
    Case {
        name: "join with a table of 10,000 rows",
        query: "SELECT s.v, t.name FROM s JOIN t ON t.key = s.key",
        sum: 0,
        reference: "a loop over a map into vectors",
        by_hand: joined,
    },
];

/// What both sides work on.
struct Input {
    catalog: Catalog,
    batches: Vec<RecordBatch>,
    table: RecordBatch,
}

pub(crate) fn run(settings: &Settings, report: &mut Report) -> Result<()> {
    let rows = if settings.quick { 1 << 20 } else { 1 << 23 };
    let input = Input::new(rows)?;
    let rate = |(took, _): Outcome| rows as f64 / took.as_secs_f64();
    for case in CASES {
        let plan = input.plan(case.query)?;
        let expected = (case.by_hand)(&input);
        let ours = || {
            let outcome = input.through(&plan, case.sum, BATCHES_AN_EPOCH)?;
            ensure!(outcome.1 == expected, "{}: {} is not {expected}", case.name, outcome.1);
            Ok(rate(outcome))
        };
        let theirs = || {
            let begun = Instant::now();
            black_box((case.by_hand)(black_box(&input)));
            Ok(rate((begun.elapsed(), 0)))
        };
        let (ours, theirs) = sample::interleaved(settings.rounds(), ours, theirs)?;
        let reference = Reference { name: case.reference.to_owned(), value: theirs };
        report.compared(case.name, ours, "rows/s", &reference);
    }
    let epochs = if settings.quick { 1_000 } else { 20_000 };
    for case in CASES {
        let plan = input.plan(case.query)?;
        let mut micros = Vec::new();
        for _ in 0..settings.rounds() {
            let took = input.one_by_one(&plan, epochs)?;
            micros.push(took.as_secs_f64() * 1e6 / epochs as f64);
        }
        let name = format!("an epoch of one row: {}", case.name);
        report.figure(&name, sample::median(&mut micros), "µs");
    }
    Ok(())
}

impl Input {
    fn new(rows: usize) -> Result<Self> {
        let keys: ArrayRef = Arc::new(Int64Array::from_iter_values(0..TABLE_ROWS));
        let names = (0..TABLE_ROWS).map(|key| format!("the name of {key}"));
        let names: ArrayRef = Arc::new(StringArray::from_iter_values(names));
        let table = RecordBatch::try_from_iter([("key", keys), ("name", names)])?;
        let Some(Statement::CreateSource(source)) = afflux_sql::parse(SOURCE)?.pop() else {
            bail!("not a source");
        };
        let columns = Column::of_schema(&table.schema());
        let kind =
            ObjectKind::Table(Table { columns, rows: TABLE_ROWS as u64, key: Some(vec![0]) });
        let mut catalog = Catalog::default();
        for (name, kind) in [("s", ObjectKind::Source(source.source)), ("t", kind)] {
            let (name, sql) = (name.to_owned(), String::new());
            let object = Object { id: catalog.next_id(), name, sql, kind };
            catalog = catalog.apply(&Change::Create(Box::new(object)))?;
        }
        let batches =
            (0..rows / BATCH_ROWS).map(|at| batch(at * BATCH_ROWS)).collect::<Result<_>>()?;
        Ok(Self { catalog, batches, table })
    }

    fn plan(&self, query: &str) -> Result<Plan> {
        let Some(Statement::Query(query)) = afflux_sql::parse(query)?.pop() else {
            bail!("not a query");
        };
        Ok(afflux_sql::plan_view(&query, &self.catalog)?)
    }

    /// A fresh dataflow, and the batches that it reads.
    fn dataflow(&self, plan: &Plan) -> Result<(Dataflow, Vec<RecordBatch>)> {
        let table = self.catalog.find("t").context("no table")?.id;
        let tables = HashMap::<ObjectId, _>::from([(table, self.table.clone())]);
        let dataflow = Dataflow::new(plan, &tables)?;
        let InputKind::Source { projection, .. } = &dataflow.inputs()[0].kind else {
            bail!("the plan reads no source");
        };
        let batches = self.batches.iter().map(|batch| batch.project(projection));
        let batches = batches.collect::<Result<_, _>>()?;
        Ok((dataflow, batches))
    }

    /// All batches through a plan, some an epoch.
    fn through(&self, plan: &Plan, sum: usize, batches_an_epoch: usize) -> Result<Outcome> {
        let (mut dataflow, batches) = self.dataflow(plan)?;
        let mut took = Duration::ZERO;
        let mut total = 0;
        let mut rows = 0;
        for epoch in batches.chunks(batches_an_epoch) {
            rows += epoch.iter().map(RecordBatch::num_rows).sum::<usize>();
            let begun = Instant::now();
            let changes = step(&mut dataflow, epoch, rows as i64)?;
            took += begun.elapsed();
            let Some(changes) = changes else { continue };
            let values = changes.batch.column(sum).as_primitive::<Int64Type>().values();
            total += (0..changes.len()).map(|row| values[row] * changes.weight(row)).sum::<i64>();
        }
        Ok((took, total))
    }

    /// One row an epoch, on state that the first batches have left.
    fn one_by_one(&self, plan: &Plan, epochs: usize) -> Result<Duration> {
        let (mut dataflow, batches) = self.dataflow(plan)?;
        let warm = &batches[..1];
        step(&mut dataflow, warm, 0)?;
        let rows: Vec<_> = (0..epochs).map(|at| batches[0].slice(at % BATCH_ROWS, 1)).collect();
        let begun = Instant::now();
        for row in &rows {
            black_box(step(&mut dataflow, std::slice::from_ref(row), 0)?);
        }
        Ok(begun.elapsed())
    }
}

/// One epoch.
fn step(
    dataflow: &mut Dataflow,
    batches: &[RecordBatch],
    watermark: i64,
) -> Result<Option<Changes>> {
    let input = dataflow.inputs()[0].operator;
    dataflow.begin(Timestamp(0));
    for batch in batches {
        dataflow.push(input, Changes::additions(batch.clone()))?;
    }
    let epoch = dataflow.finish(&[(input, Timestamp(watermark))])?;
    // What changed in the state would be written to the log.
    black_box(&epoch.tables);
    Ok(epoch.changes)
}

/// Rows from this one on, a millisecond apart, with numbers that look random.
fn batch(first: usize) -> Result<RecordBatch> {
    let rows = first as i64..(first + BATCH_ROWS) as i64;
    let random = |row: i64, below: i64| {
        let mixed = (row as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        ((mixed >> 32) % below as u64) as i64
    };
    let whole = |below: i64| -> ArrayRef {
        Arc::new(Int64Array::from_iter_values(rows.clone().map(|row| random(row, below))))
    };
    let fractions = rows.clone().map(|row| random(row, 4096) as f64 / 16.0);
    let fractions: ArrayRef = Arc::new(Float64Array::from_iter_values(fractions));
    let times: ArrayRef = Arc::new(TimestampMillisecondArray::from_iter_values(rows.clone()));
    Ok(RecordBatch::try_from_iter([
        ("few", whole(GROUPS_FEW)),
        ("many", whole(GROUPS_MANY)),
        ("key", whole(TABLE_ROWS)),
        ("v", whole(1_000)),
        ("f", fractions),
        ("ts", times),
    ])?)
}

fn integers(batch: &RecordBatch, column: usize) -> &[i64] {
    batch.column(column).as_primitive::<Int64Type>().values()
}

fn floats(batch: &RecordBatch, column: usize) -> &[f64] {
    batch.column(column).as_primitive::<Float64Type>().values()
}

fn filtered(input: &Input) -> i64 {
    let mut total = 0;
    for batch in &input.batches {
        let (keys, vs, fs) = (integers(batch, KEY), integers(batch, V), floats(batch, F));
        let (mut key, mut w, mut half) = (Vec::new(), Vec::new(), Vec::new());
        for row in (0..vs.len()).filter(|&row| vs[row] > 500) {
            key.push(keys[row]);
            w.push(vs[row] * 2 + 1);
            half.push(fs[row] / 2.0);
        }
        total += w.iter().sum::<i64>();
        black_box((key, w, half));
    }
    total
}

fn grouped(input: &Input, group: usize) -> i64 {
    let mut groups: hashbrown::HashMap<i64, (i64, i64, f64)> = hashbrown::HashMap::new();
    for batch in &input.batches {
        let (keys, vs, fs) = (integers(batch, group), integers(batch, V), floats(batch, F));
        for row in 0..keys.len() {
            let (count, sum, of_floats) = groups.entry(keys[row]).or_default();
            *count += 1;
            *sum += vs[row];
            *of_floats += fs[row];
        }
    }
    groups.values().map(|(_, sum, _)| sum).sum()
}

fn windowed(input: &Input) -> i64 {
    let mut open: hashbrown::HashMap<(i64, i64), (i64, i64)> = hashbrown::HashMap::new();
    let (mut closed, mut rows) = (0, 0);
    for epoch in input.batches.chunks(BATCHES_AN_EPOCH) {
        for batch in epoch {
            let (few, vs) = (integers(batch, FEW), integers(batch, V));
            let times = batch.column(TS).as_primitive::<TimestampMillisecondType>().values();
            for row in 0..few.len() {
                let start = times[row] - times[row].rem_euclid(WINDOW_MS);
                let (count, sum) = open.entry((start, few[row])).or_default();
                *count += 1;
                *sum += vs[row];
            }
            rows += few.len() as i64;
        }
        open.retain(|(start, _), (_, sum)| {
            let stays = start + WINDOW_MS > rows;
            closed += if stays { 0 } else { *sum };
            stays
        });
    }
    closed + open.values().map(|(_, sum)| sum).sum::<i64>()
}

fn joined(input: &Input) -> i64 {
    let keys = integers(&input.table, 0);
    let names = input.table.column(1).as_string::<i32>();
    let rows: hashbrown::HashMap<i64, usize> =
        keys.iter().enumerate().map(|(row, key)| (*key, row)).collect();
    let mut total = 0;
    for batch in &input.batches {
        let (keys, vs) = (integers(batch, KEY), integers(batch, V));
        let (mut v, mut name) = (Vec::new(), arrow::array::StringBuilder::new());
        for row in 0..keys.len() {
            if let Some(&found) = rows.get(&keys[row]) {
                v.push(vs[row]);
                name.append_value(names.value(found));
            }
        }
        total += v.iter().sum::<i64>();
        black_box((v, name.finish()));
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_come_to_the_same() {
        let input = Input::new(4 * BATCH_ROWS).unwrap();
        for case in CASES {
            let plan = input.plan(case.query).unwrap();
            let (_, total) = input.through(&plan, case.sum, 2).unwrap();
            assert_eq!(total, (case.by_hand)(&input), "{}", case.name);
            assert!(total > 0);
            input.one_by_one(&plan, 3).unwrap();
        }
    }
}
