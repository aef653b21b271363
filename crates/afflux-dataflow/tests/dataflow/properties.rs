//! Random plans over random changes: against the reference, and against themselves restarted.

use std::{
    collections::{BTreeMap, HashMap},
    num::NonZeroUsize,
};

use afflux_dataflow::{Dataflow, Epoch, FUEL_ROWS};
use afflux_plan::Plan;
use afflux_record::changelog::TableDelta;
use afflux_types::{ObjectId, OperatorId, TableId, Timestamp};
use arrow::array::{Array, RecordBatch};
use proptest::prelude::*;

use crate::{
    reference::Reference,
    rows::{Row, Value, ZSet, add, batch_of, changes_of, rows_of, zset_of},
    stages::{columns, plan, stage, tables},
};

/// What happens in one epoch: batches of rows with weights, then a watermark.
type Script = Vec<(Vec<Vec<(Row, i64)>>, i64)>;

fn row() -> impl Strategy<Value = Row> {
    let text = prop_oneof![Just("a"), Just("b"), Just("c"), Just("")];
    let quarter = |v: i64| Value::float(v as f64 / 4.0);
    (
        proptest::option::weighted(0.8, text),
        proptest::option::weighted(0.8, -4i64..5),
        proptest::option::weighted(0.8, -8i64..9),
        proptest::option::weighted(0.9, -4_000i64..16_000),
    )
        .prop_map(move |(k, v, f, t)| {
            vec![
                k.map_or(Value::Null, |k| Value::Text(k.to_owned())),
                v.map_or(Value::Null, Value::Int),
                f.map_or(Value::Null, quarter),
                t.map_or(Value::Null, Value::Time),
            ]
        })
}

/// Epochs; where rows may be taken back, only those are that are there.
fn script(append_only: bool) -> impl Strategy<Value = Script> {
    let change = (row(), any::<prop::sample::Index>(), 0u8..3);
    let batches = proptest::collection::vec(proptest::collection::vec(change, 0..6), 0..3);
    let epochs = proptest::collection::vec((batches, 0i64..6_000), 1..7);
    epochs.prop_map(move |epochs| {
        let mut there: Vec<Row> = Vec::new();
        let mut watermark = -6_000;
        let mut script = Script::new();
        for (batches, step) in epochs {
            let mut epoch = Vec::new();
            for batch in batches {
                let mut changes = Vec::new();
                for (row, index, kind) in batch {
                    match kind {
                        0 if !append_only && !there.is_empty() => {
                            let row = there.swap_remove(index.index(there.len()));
                            changes.push((row, -1));
                        }
                        1 if !append_only => {
                            there.extend([row.clone(), row.clone()]);
                            changes.push((row, 2));
                        }
                        _ => {
                            there.push(row.clone());
                            changes.push((row, 1));
                        }
                    }
                }
                epoch.push(changes);
            }
            watermark += step;
            script.push((epoch, watermark));
        }
        script
    })
}

fn table_batches() -> HashMap<ObjectId, RecordBatch> {
    let batch = |(id, rows): (ObjectId, Vec<Row>)| (id, batch_of(&columns(), &rows));
    tables().into_iter().map(batch).collect()
}

fn run_epoch(dataflow: &mut Dataflow, epoch: &(Vec<Vec<(Row, i64)>>, i64)) -> Epoch {
    let input = dataflow.inputs()[0].operator;
    dataflow.begin(Timestamp(0));
    for batch in &epoch.0 {
        dataflow.push(input, changes_of(&columns(), batch)).unwrap();
    }
    dataflow.finish(&[(input, Timestamp(epoch.1))]).unwrap()
}

fn check_against_reference(plan: &Plan, script: &Script, fuel: usize) {
    let dataflow = Dataflow::new(plan, &table_batches()).unwrap();
    let mut dataflow = dataflow.with_fuel(NonZeroUsize::new(fuel).unwrap());
    let mut reference = Reference::new(plan, &tables());
    let (mut input, mut view) = (ZSet::new(), ZSet::new());
    for epoch in script {
        for (row, weight) in epoch.0.iter().flatten() {
            add(&mut input, row.clone(), *weight);
        }
        let expected = reference.epoch(&input, epoch.1);
        let changes = run_epoch(&mut dataflow, epoch).changes;
        if let Some(changes) = changes {
            let set = zset_of(&changes);
            if plan.output().append_only {
                assert!(changes.weights.is_none());
            } else {
                assert_eq!(set.len(), changes.len(), "consolidated: {changes:?}");
                let negative = (0..changes.len()).map(|row| changes.weight(row) < 0);
                assert!(negative.is_sorted_by(|a, b| a >= b), "taken away first: {changes:?}");
            }
            assert!(!set.is_empty());
            for (row, weight) in set {
                add(&mut view, row, weight);
            }
        }
        assert_eq!(view, expected, "after watermark {}", epoch.1);
    }
}

/// Everything that an epoch says, without the order in which nothing depends on it.
#[derive(Debug, PartialEq)]
struct Summary {
    changes: ZSet,
    tables: BTreeMap<(TableId, Vec<u8>), Option<Vec<u8>>>,
    rejected: Vec<(OperatorId, Row, String)>,
    late_rows: u64,
}

fn entries(deltas: &[TableDelta]) -> BTreeMap<(TableId, Vec<u8>), Option<Vec<u8>>> {
    let mut map = BTreeMap::new();
    for delta in deltas {
        for (index, key) in delta.keys.iter().enumerate() {
            let value = (!delta.values.is_null(index)).then(|| delta.values.value(index).to_vec());
            let before = map.insert((delta.table, key.unwrap().to_vec()), value);
            assert!(before.is_none(), "one entry a key and epoch");
        }
    }
    map
}

fn summary(epoch: &Epoch) -> Summary {
    Summary {
        changes: epoch.changes.as_ref().map(zset_of).unwrap_or_default(),
        tables: entries(&epoch.tables),
        rejected: epoch
            .rejected
            .iter()
            .map(|r| (r.operator, rows_of(&r.row).remove(0), r.reason.clone()))
            .collect(),
        late_rows: epoch.late_rows,
    }
}

fn restored(plan: &Plan, deltas: &[TableDelta]) -> Dataflow {
    let mut dataflow = Dataflow::new(plan, &table_batches()).unwrap();
    for delta in deltas {
        dataflow.restore(delta).unwrap();
    }
    dataflow
}

/// At every epoch boundary a fresh dataflow, restored from the log, has to do what the
/// undisturbed one does. The log's snapshot is fuzzy: its key groups are dumped a few per epoch.
fn check_restart(plan: &Plan, script: &Script, dump_from: usize) {
    let mut dataflow = Dataflow::new(plan, &table_batches()).unwrap();
    let mut all: Vec<TableDelta> = Vec::new();
    let mut chunks: Vec<TableDelta> = Vec::new();
    let mut since_dump: Vec<TableDelta> = Vec::new();
    let thirds = [0..50, 50..51, 51..128];
    for (number, epoch) in script.iter().enumerate() {
        let from_deltas = restored(plan, &all);
        let dumped = number >= dump_from + thirds.len();
        let from_snapshot =
            dumped.then(|| restored(plan, &[chunks.clone(), since_dump.clone()].concat()));
        let expected = run_epoch(&mut dataflow, epoch);
        for mut other in [Some(from_deltas), from_snapshot].into_iter().flatten() {
            let outcome = run_epoch(&mut other, epoch);
            assert_eq!(summary(&outcome), summary(&expected), "epoch {number}");
            assert_eq!(entries(&other.snapshot(0..128)), entries(&dataflow.snapshot(0..128)));
        }
        all.extend(expected.tables.clone());
        if number >= dump_from {
            since_dump.extend(expected.tables);
        }
        if let Some(groups) = number.checked_sub(dump_from).and_then(|n| thirds.get(n)) {
            chunks.extend(dataflow.snapshot(groups.clone()));
        }
    }
    // Applied twice is applied once.
    let twice = restored(plan, &[all.clone(), all].concat());
    assert_eq!(entries(&twice.snapshot(0..128)), entries(&dataflow.snapshot(0..128)));
}

fn case() -> impl Strategy<Value = (Plan, Script)> {
    any::<bool>().prop_flat_map(|append_only| {
        let stages = proptest::collection::vec(stage(), 0..4);
        (stages.prop_map(move |stages| plan(append_only, &stages)), script(append_only))
    })
}

/// So little that a batch takes many steps, or enough for all of it.
fn fuel() -> impl Strategy<Value = usize> {
    prop_oneof![1usize..5, Just(FUEL_ROWS)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_plan_does_what_the_reference_does((plan, script) in case(), fuel in fuel()) {
        check_against_reference(&plan, &script, fuel);
    }

    #[test]
    fn each_stage_alone_does_what_the_reference_does(
        stage in stage(),
        (append_only, script) in any::<bool>().prop_flat_map(|a| (Just(a), script(a))),
        fuel in fuel(),
    ) {
        check_against_reference(&plan(append_only, &[stage]), &script, fuel);
    }

    #[test]
    fn a_restart_changes_nothing((plan, script) in case(), dump_from in 0usize..3) {
        check_restart(&plan, &script, dump_from);
    }
}
