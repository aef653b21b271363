//! What one operator does with rows that were thought of.

use std::{collections::HashMap, sync::Arc};

use afflux_dataflow::{BuildError, Dataflow, DataflowError, Epoch, InputKind};
use afflux_plan::{
    AggregateFunction, BinaryOperator, Column, ColumnType, Expr, JoinKind, OperatorKind, Plan,
    Scalar, UnaryOperator,
};
use afflux_record::changelog::{Changes, TableDelta};
use afflux_types::{ObjectId, OperatorId, TableId, Timestamp};
use arrow::{
    array::{
        ArrayRef, BinaryArray, Decimal128Array, Float64Array, Int64Array, RecordBatch, UInt64Array,
    },
    datatypes::{DataType, IntervalUnit},
};

use crate::{
    rows::{Row, Value, batch_of, changes_of, rows_of, time_type, zset_of},
    stages::{Graph, binary, call, int},
};

const NULL: Value = Value::Null;

fn text(value: &str) -> Value {
    Value::Text(value.to_owned())
}

fn column(name: &str, data_type: DataType) -> Column {
    Column::new(name, data_type, true)
}

fn source(graph: &mut Graph, columns: &[Column]) -> OperatorId {
    let projection = (0..columns.len()).collect();
    let kind = OperatorKind::Source { object: ObjectId(1), columns: projection };
    graph.add(kind, &[], columns.to_vec(), true)
}

fn view(graph: &mut Graph, columns: &[Column]) -> OperatorId {
    graph.add(OperatorKind::View { object: ObjectId(1) }, &[], columns.to_vec(), false)
}

fn dataflow(plan: &Plan) -> Dataflow {
    Dataflow::new(plan, &HashMap::new()).unwrap()
}

/// One epoch in which the first input gets these rows.
fn epoch(dataflow: &mut Dataflow, rows: &[(Row, i64)]) -> Epoch {
    let input = dataflow.inputs()[0].clone();
    dataflow.begin(Timestamp(1_000));
    dataflow.push(input.operator, changes_of(&input.columns, rows)).unwrap();
    dataflow.finish(&[]).unwrap()
}

fn added(rows: &[Row]) -> Vec<(Row, i64)> {
    rows.iter().map(|row| (row.clone(), 1)).collect()
}

fn output(epoch: &Epoch) -> Vec<(Row, i64)> {
    let Some(changes) = &epoch.changes else {
        return Vec::new();
    };
    let rows = rows_of(&changes.batch).into_iter().enumerate();
    rows.map(|(index, row)| (row, changes.weight(index))).collect()
}

fn reasons(epoch: &Epoch) -> Vec<(Row, &str)> {
    epoch.rejected.iter().map(|r| (rows_of(&r.row).remove(0), r.reason.as_str())).collect()
}

/// What an expression over `(a integer, b integer, s text)` makes of a row.
fn computed(expr: &Expr, returns: DataType, row: &[Value]) -> Result<Value, String> {
    let mut graph = Graph::default();
    let columns =
        [column("a", DataType::Int64), column("b", DataType::Int64), column("s", DataType::Utf8)];
    let input = source(&mut graph, &columns);
    graph.project(input, vec![expr.clone()], vec![column("x", returns)]);
    let mut dataflow = dataflow(&graph.plan());
    let epoch = epoch(&mut dataflow, &added(&[row.to_vec()]));
    match epoch.rejected.first() {
        Some(rejected) => Err(rejected.reason.clone()),
        None => Ok(output(&epoch).remove(0).0.remove(0)),
    }
}

fn cast(expr: Expr, to: DataType, or_null: bool) -> Expr {
    Expr::Cast { expr: Box::new(expr), to: ColumnType(to), or_null }
}

fn function(name: &str, arguments: Vec<Expr>, returns: DataType) -> Expr {
    let returns = ColumnType(returns);
    Expr::Call { function: name.to_owned(), arguments, returns, nullable: true }
}

#[test]
fn expressions() {
    let check = |expr: &Expr, row: &[Value], expected: Result<Value, &str>| {
        let found = computed(expr, DataType::Int64, row);
        assert_eq!(found, expected.map_err(str::to_owned), "{expr:?} of {row:?}");
    };
    let (a, b, s) = (|| Expr::Column(0), || Expr::Column(1), || Expr::Column(2));
    let int64 = DataType::Int64;
    let row = |a: i64, b: i64, s: &str| vec![Value::Int(a), Value::Int(b), text(s)];
    let divide = binary(BinaryOperator::Divide, a(), b());
    check(&divide, &row(7, 2, ""), Ok(Value::Int(3)));
    check(&divide, &row(7, 0, ""), Err("division by zero"));
    check(&divide, &[Value::Int(7), NULL, NULL], Ok(NULL));
    let plus = binary(BinaryOperator::Add, a(), b());
    check(&plus, &row(1, 2, ""), Ok(Value::Int(3)));
    let overflow = "Overflow happened on: 9223372036854775807 + 1";
    check(&plus, &row(i64::MAX, 1, ""), Err(overflow));
    let minus = Expr::Unary { op: UnaryOperator::Negative, expr: Box::new(a()) };
    check(&minus, &row(5, 0, ""), Ok(Value::Int(-5)));
    let overflow = "Overflow happened on: 0 - -9223372036854775808";
    check(&minus, &row(i64::MIN, 0, ""), Err(overflow));
    let number = |or_null| cast(s(), DataType::Int64, or_null);
    check(&number(false), &row(0, 0, "12"), Ok(Value::Int(12)));
    let failed = "Cannot cast string 'x' to value of Int64 type";
    check(&number(false), &row(0, 0, "x"), Err(failed));
    check(&number(true), &row(0, 0, "x"), Ok(NULL));
    let coalesce = function("coalesce", vec![a(), b()], int64.clone());
    check(&coalesce, &[NULL, Value::Int(2), NULL], Ok(Value::Int(2)));
    check(&coalesce, &row(1, 2, ""), Ok(Value::Int(1)));
    let length = function("character_length", vec![s()], DataType::Int32);
    check(&cast(length, int64, false), &row(0, 0, "é!"), Ok(Value::Int(2)));
    let case = Expr::Case {
        operand: None,
        branches: vec![(binary(BinaryOperator::NotEqual, b(), int(0)), divide)],
        otherwise: Some(Box::new(int(-1))),
    };
    check(&case, &row(7, 0, ""), Ok(Value::Int(-1)));
    check(&case, &row(7, 7, ""), Ok(Value::Int(1)));
}

#[test]
fn a_chain_of_conditions_costs_as_much_as_its_links() {
    // Evaluating a side twice a link would take 2^60 steps.
    let quotient = || binary(BinaryOperator::Divide, int(10), Expr::Column(0));
    for (op, expected) in
        [(BinaryOperator::And, Value::Int(1)), (BinaryOperator::Or, Value::Int(0))]
    {
        let limit = if op == BinaryOperator::And { -1 } else { 100 };
        let link = || binary(BinaryOperator::Greater, quotient(), int(limit));
        let chain = (0..60).fold(link(), |chain, _| binary(op, chain, link()));
        let as_number = Expr::Case {
            operand: None,
            branches: vec![(chain, int(1))],
            otherwise: Some(Box::new(int(0))),
        };
        let row = [Value::Int(3), NULL, NULL];
        assert_eq!(computed(&as_number, DataType::Int64, &row), Ok(expected));
        assert_eq!(
            computed(&as_number, DataType::Int64, &[Value::Int(0), NULL, NULL]),
            Err("division by zero".to_owned())
        );
    }
}

#[test]
fn now_is_the_epochs() {
    let day = Expr::Literal(Scalar {
        scalar_type: ColumnType(DataType::Interval(IntervalUnit::MonthDayNano)),
        value: Some("0 1 0".to_owned()),
    });
    let tomorrow = binary(BinaryOperator::Add, Expr::Now, day);
    let row = [NULL, NULL, NULL];
    assert_eq!(computed(&Expr::Now, time_type(), &row), Ok(Value::Time(1_000)));
    assert_eq!(computed(&tomorrow, time_type(), &row), Ok(Value::Time(86_401_000)));
}

#[test]
fn bad_rows_are_taken_out_of_their_batch() {
    let mut graph = Graph::default();
    let input = view(&mut graph, &[column("a", DataType::Int64)]);
    let ten_by_a = binary(BinaryOperator::Divide, int(10), Expr::Column(0));
    graph.project(input, vec![ten_by_a], vec![column("x", DataType::Int64)]);
    let mut dataflow = dataflow(&graph.plan());
    let rows: Vec<_> = (-2..3).map(|a| (vec![Value::Int(a)], 1)).collect();
    let first = epoch(&mut dataflow, &rows);
    assert_eq!(reasons(&first), [(vec![Value::Int(0)], "division by zero")]);
    let expected = [-5, -10, 10, 5].map(|x| (vec![Value::Int(x)], 1));
    assert_eq!(output(&first), expected);
    // Nobody is told again when the row goes.
    let second = epoch(&mut dataflow, &[(vec![Value::Int(0)], -1), (vec![Value::Int(1)], -1)]);
    assert_eq!(reasons(&second), []);
    assert_eq!(output(&second), [(vec![Value::Int(10)], -1)]);
    let none = epoch(&mut dataflow, &[(vec![Value::Int(0)], 1), (vec![Value::Int(0)], 1)]);
    assert_eq!(none.rejected.len(), 2);
    assert_eq!(none.changes, None);
}

#[test]
fn what_can_not_run_is_refused() {
    let check = |build: &dyn Fn(&mut Graph), expected: &str| {
        let mut graph = Graph::default();
        build(&mut graph);
        let error = Dataflow::new(&graph.plan(), &HashMap::new()).unwrap_err();
        assert_eq!(error.to_string(), expected);
    };
    let a = [column("a", DataType::Int64)];
    let time = [column("t", time_type())];
    check(
        &|graph| {
            let input = view(graph, &a);
            graph.project(input, vec![Expr::Now], time.to_vec());
        },
        "operator 13 of the plan is not supported: now() over rows that may be taken back later",
    );
    check(
        &|graph| {
            let input = source(graph, &a);
            let expr = function("random", vec![], DataType::Float64);
            graph.project(input, vec![expr], vec![column("x", DataType::Float64)]);
        },
        "operator 13 of the plan is broken: random() depends on more than its 0 arguments",
    );
    check(
        &|graph| {
            let input = source(graph, &a);
            graph.project(input, vec![function("no_such", vec![], DataType::Int64)], a.to_vec());
        },
        "operator 13 of the plan is broken: there is no function no_such",
    );
    check(
        &|graph| {
            let input = source(graph, &a);
            graph.project(input, vec![Expr::Column(0)], time.to_vec());
        },
        "operator 13 of the plan is broken: the plan says that a@0 is Timestamp(ms, \"UTC\"), \
         but it is Int64",
    );
    check(
        &|graph| {
            let input = source(graph, &[column("s", DataType::Utf8)]);
            let sum = call(AggregateFunction::Sum, Some(0), None, DataType::Int64);
            graph.aggregate(input, vec![], vec![sum], None);
        },
        "operator 13 of the plan is not supported: sum of Utf8 as Int64",
    );
    check(
        &|graph| {
            graph.add(OperatorKind::Table { object: ObjectId(9) }, &[], a.to_vec(), true);
        },
        "the rows of table 9 are missing",
    );
}

#[test]
fn inputs_say_what_they_take() {
    let mut graph = Graph::default();
    let input = source(&mut graph, &[column("a", DataType::Int64)]);
    let mut dataflow = dataflow(&graph.plan());
    let declared = &dataflow.inputs()[0];
    assert_eq!(declared.operator, input);
    assert_eq!(declared.kind, InputKind::Source { object: ObjectId(1), projection: vec![0] });
    dataflow.begin(Timestamp(0));
    let wrong = changes_of(&[column("a", DataType::Utf8)], &added(&[vec![text("x")]]));
    let error = dataflow.push(input, wrong).unwrap_err();
    assert!(matches!(error, DataflowError::WrongInput { .. }), "{error}");
    let back = changes_of(&[column("a", DataType::Int64)], &[(vec![Value::Int(1)], -1)]);
    let error = dataflow.push(input, back.clone()).unwrap_err();
    assert!(matches!(error, DataflowError::WrongInput { .. }), "{error}");
    let error = dataflow.push(OperatorId(77), back).unwrap_err();
    assert_eq!(error, DataflowError::UnknownInput(OperatorId(77)));
}

/// One aggregate of one column, without groups: the result and how many rows were rejected after
/// each batch.
fn one(
    append_only: bool,
    function: AggregateFunction,
    returns: DataType,
    batches: Vec<(ArrayRef, Vec<i64>)>,
) -> Vec<Result<(ArrayRef, usize), DataflowError>> {
    let mut graph = Graph::default();
    let columns = [column("a", batches[0].0.data_type().clone())];
    let input = if append_only { source(&mut graph, &columns) } else { view(&mut graph, &columns) };
    graph.aggregate(input, vec![], vec![call(function, Some(0), None, returns)], None);
    let mut dataflow = dataflow(&graph.plan());
    let mut last: Option<ArrayRef> = None;
    let run = |(array, weights): (ArrayRef, Vec<i64>)| {
        dataflow.begin(Timestamp(0));
        let schema = Arc::new(Column::schema(&columns));
        let batch = RecordBatch::try_new(schema, vec![array]).unwrap();
        let weights = weights.iter().any(|w| *w != 1).then(|| weights.into());
        dataflow.push(input, Changes { batch, weights })?;
        let epoch = dataflow.finish(&[])?;
        if let Some(changes) = epoch.changes {
            last = Some(changes.batch.column(0).slice(changes.len() - 1, 1));
        }
        Ok((last.clone().unwrap(), epoch.rejected.len()))
    };
    batches.into_iter().map(run).collect()
}

#[test]
fn sums_never_wrap() {
    let ints = |values: &[i64]| -> (ArrayRef, Vec<i64>) {
        (Arc::new(Int64Array::from(values.to_vec())), vec![1; values.len()])
    };
    let sum = AggregateFunction::Sum;
    let batches = vec![ints(&[i64::MAX - 5, 3]), ints(&[4, 1, 1, -10]), ints(&[10, 1])];
    let results = one(true, sum, DataType::Int64, batches);
    let result = |value: i64| -> ArrayRef { Arc::new(Int64Array::from(vec![value])) };
    let expected = [
        Ok((result(i64::MAX - 2), 0)),
        Ok((result(i64::MAX - 10), 1)), // there is no room for 4; 1 and 1 just fit
        Ok((result(i64::MAX), 1)),
    ];
    assert_eq!(results, expected);
    let results = one(false, sum, DataType::Int64, vec![ints(&[i64::MAX, 1])]);
    assert!(matches!(results[0], Err(DataflowError::OutOfRange { .. })), "{results:?}");

    let unsigned: ArrayRef = Arc::new(UInt64Array::from(vec![u64::MAX, 1]));
    let results = one(true, sum, DataType::UInt64, vec![(unsigned, vec![1, 1])]);
    let result: ArrayRef = Arc::new(UInt64Array::from(vec![u64::MAX]));
    assert_eq!(results, [Ok((result, 1))]);

    let decimal = |values: Vec<i128>, precision: u8, scale: i8| -> ArrayRef {
        let array = Decimal128Array::from(values);
        Arc::new(array.with_precision_and_scale(precision, scale).unwrap())
    };
    let batch = (decimal(vec![10i128.pow(38) - 1, 1], 38, 2), vec![1, 1]);
    let results = one(true, sum, DataType::Decimal128(38, 2), vec![batch]);
    assert_eq!(results, [Ok((decimal(vec![10i128.pow(38) - 1], 38, 2), 1))]);

    let batch = (decimal(vec![100, 100, 1], 10, 2), vec![1, 1, 1]);
    let results = one(true, AggregateFunction::Avg, DataType::Decimal128(14, 6), vec![batch]);
    assert_eq!(results, [Ok((decimal(vec![670_000], 14, 6), 0))]);
}

#[test]
fn float_sums_forget_what_is_taken_back() {
    let check = |function: AggregateFunction, steps: &[(f64, i64)], expected: Option<f64>| {
        let batches = steps.iter().map(|(value, weight)| {
            let array: ArrayRef = Arc::new(Float64Array::from(vec![*value]));
            (array, vec![*weight])
        });
        let results = one(false, function, DataType::Float64, batches.collect());
        let (last, _) = results.last().unwrap().clone().unwrap();
        let expected: ArrayRef = Arc::new(Float64Array::from(vec![expected]));
        assert_eq!(&last, &expected, "{function:?} {steps:?}");
    };
    let sum = AggregateFunction::Sum;
    check(sum, &[(1e16, 1), (1.0, 1), (1e16, -1)], Some(1.0));
    check(sum, &[(0.1, 10)], Some(1.0));
    check(sum, &[(0.1, 1), (0.7, 1), (1e9, 1), (1e9, -1), (0.1, -1)], Some(0.7));
    check(sum, &[(f64::NAN, 1), (2.0, 1), (f64::NAN, -1)], Some(2.0));
    check(sum, &[(f64::INFINITY, 1), (2.0, 1)], Some(f64::INFINITY));
    check(sum, &[(f64::INFINITY, 1), (2.0, 1), (f64::INFINITY, -1)], Some(2.0));
    check(sum, &[(1e308, 2), (1e308, -2)], None);
    check(sum, &[(1e308, 1), (1e308, 1)], Some(f64::INFINITY));
    check(sum, &[(1e308, 1), (1e308, 1), (1e308, -1)], Some(f64::INFINITY));
    check(sum, &[(-1e308, 1), (-1e308, 1)], Some(f64::NEG_INFINITY));
    check(sum, &[(1.5, 1), (1.5, -1)], None);
    check(AggregateFunction::Avg, &[(1.0, 3), (2.0, 1)], Some(1.25));
    check(AggregateFunction::Max, &[(1.0, 1), (f64::NAN, 1), (f64::NAN, -1)], Some(1.0));
    check(AggregateFunction::Min, &[(1.0, 2), (-1.0, 1), (1.0, -1), (-1.0, -1)], Some(1.0));
}

#[test]
fn text_has_extremes_too() {
    for append_only in [true, false] {
        let mut graph = Graph::default();
        let columns = [column("s", DataType::Utf8)];
        let input =
            if append_only { source(&mut graph, &columns) } else { view(&mut graph, &columns) };
        let calls = [AggregateFunction::Min, AggregateFunction::Max];
        let calls = calls.map(|f| call(f, Some(0), None, DataType::Utf8)).to_vec();
        graph.aggregate(input, vec![], calls, None);
        let mut dataflow = dataflow(&graph.plan());
        let first = epoch(&mut dataflow, &added(&[vec![text("b")], vec![NULL], vec![text("")]]));
        assert_eq!(output(&first), [(vec![text(""), text("b")], 1)]);
        if !append_only {
            let second = epoch(&mut dataflow, &[(vec![text("")], -1)]);
            let expected = [(vec![text(""), text("b")], -1), (vec![text("b"), text("b")], 1)];
            assert_eq!(output(&second), expected);
        }
    }
}

#[test]
fn one_group_is_there_from_the_beginning() {
    let mut graph = Graph::default();
    let input = source(&mut graph, &[column("a", DataType::Int64)]);
    let count = call(AggregateFunction::Count, None, None, DataType::Int64);
    let sum = call(AggregateFunction::Sum, Some(0), None, DataType::Int64);
    graph.aggregate(input, vec![], vec![count, sum], None);
    let plan = graph.plan();
    let mut fresh = dataflow(&plan);
    fresh.begin(Timestamp(0));
    let first = fresh.finish(&[]).unwrap();
    assert_eq!(output(&first), [(vec![Value::Int(0), NULL], 1)]);
    let mut again = dataflow(&plan);
    first.tables.iter().for_each(|delta| again.restore(delta).unwrap());
    again.begin(Timestamp(0));
    let second = again.finish(&[]).unwrap();
    assert_eq!(output(&second), []);
    assert_eq!(second.tables, []);
}

/// `(k, t)` counted in windows of ten seconds that begin at one second.
fn windowed() -> (Plan, OperatorId) {
    let mut graph = Graph::default();
    let input = source(&mut graph, &[column("k", DataType::Utf8), column("t", time_type())]);
    let windows = graph.tumble(input, 1, 10_000);
    let count = call(AggregateFunction::Count, None, None, DataType::Int64);
    graph.aggregate(windows, vec![0, 3], vec![count], Some(3));
    (graph.plan(), input)
}

#[test]
fn late_rows_are_counted_and_dropped() {
    let (plan, input) = windowed();
    let mut dataflow = dataflow(&plan);
    let group = |end: i64, count: i64| vec![text("a"), Value::Time(end), Value::Int(count)];
    let mut step = |times: &[i64], watermark: i64| {
        let columns = [column("k", DataType::Utf8), column("t", time_type())];
        let rows: Vec<Row> = times.iter().map(|t| vec![text("a"), Value::Time(*t)]).collect();
        dataflow.begin(Timestamp(0));
        dataflow.push(input, changes_of(&columns, &added(&rows))).unwrap();
        let epoch = dataflow.finish(&[(input, Timestamp(watermark))]).unwrap();
        let state = dataflow.snapshot(0..128).iter().map(|delta| delta.keys.iter().count()).sum();
        (output(&epoch), epoch.late_rows, state)
    };
    // Beside the groups there are two entries: the watermark, and that it has started.
    let expected = vec![(group(1_000, 1), 1), (group(11_000, 2), 1)];
    assert_eq!(step(&[0, 1_000, 10_999], 0), (expected, 0, 4usize));
    // What arrives together with the watermark is not late yet; the window closes after it.
    let expected = vec![(group(1_000, 1), -1), (group(1_000, 2), 1)];
    assert_eq!(step(&[-9_000], 1_000), (expected, 0, 3));
    assert_eq!(step(&[999, 0, 11_000], 10_999), (vec![(group(21_000, 1), 1)], 2, 4));
    let expected = vec![(group(11_000, 2), -1), (group(11_000, 3), 1)];
    assert_eq!(step(&[10_999], 5), (expected, 0, 4));
    assert_eq!(step(&[], i64::MAX), (vec![], 0, 2));
    assert_eq!(step(&[i64::MAX / 2_000_000], i64::MAX), (vec![], 1, 2));
}

#[test]
fn rows_without_a_time_that_has_a_window_are_rejected() {
    let (plan, _) = windowed();
    let mut dataflow = dataflow(&plan);
    let times = [NULL, Value::Time(i64::MAX), Value::Time(i64::MIN), Value::Time(1_000)];
    let epoch = epoch(&mut dataflow, &added(&times.map(|time| vec![text("a"), time])));
    let reasons: Vec<_> = reasons(&epoch).into_iter().map(|(_, reason)| reason).collect();
    let far = "the row's time is out of range";
    assert_eq!(reasons, ["the row has no time", far, far]);
    assert_eq!(output(&epoch).len(), 1);
}

#[test]
fn the_slowest_input_sets_the_watermark() {
    let mut graph = Graph::default();
    let columns = [column("k", DataType::Utf8), column("t", time_type())];
    let (one, two) = (source(&mut graph, &columns), source(&mut graph, &columns));
    let union = graph.add(OperatorKind::Union, &[one, two], columns.to_vec(), true);
    let windows = graph.tumble(union, 1, 10_000);
    let count = call(AggregateFunction::Count, None, None, DataType::Int64);
    graph.aggregate(windows, vec![3], vec![count], Some(3));
    let mut dataflow = dataflow(&graph.plan());
    let mut late = |watermarks: &[(OperatorId, i64)]| {
        let row = vec![text("a"), Value::Time(1_000)];
        dataflow.begin(Timestamp(0));
        dataflow.push(one, changes_of(&columns, &added(&[row]))).unwrap();
        let watermarks: Vec<_> =
            watermarks.iter().map(|(input, time)| (*input, Timestamp(*time))).collect();
        dataflow.finish(&watermarks).unwrap().late_rows
    };
    assert_eq!(late(&[(one, 50_000)]), 0);
    assert_eq!(late(&[(two, 10_999)]), 0);
    assert_eq!(late(&[(two, 11_000)]), 0);
    assert_eq!(late(&[]), 1);
}

#[test]
fn a_lookup_finds_what_is_equal_and_null_equals_nothing() {
    let table = ObjectId(5);
    let names = [column("code", DataType::Utf8), column("name", DataType::Utf8)];
    let rows: Vec<Row> =
        vec![vec![text("a"), text("A")], vec![text("a"), text("AA")], vec![NULL, text("nobody")]];
    let check = |kind: JoinKind, on: Vec<(usize, usize)>, expected: &[(Value, Value, i64)]| {
        let mut graph = Graph::default();
        let input = view(&mut graph, &[column("k", DataType::Utf8)]);
        let columns = [column("k", DataType::Utf8), names[0].clone(), names[1].clone()];
        let kind = OperatorKind::Lookup { table, on, kind };
        graph.add(kind, &[input], columns.to_vec(), false);
        let tables = HashMap::from([(table, changes_of(&names, &added(&rows)).batch)]);
        let mut dataflow = Dataflow::new(&graph.plan(), &tables).unwrap();
        let input = [(vec![text("a")], 2), (vec![text("z")], 1), (vec![NULL], -1)];
        let epoch = epoch(&mut dataflow, &input);
        let set = zset_of(epoch.changes.as_ref().unwrap());
        let found: Vec<_> =
            set.iter().map(|(row, weight)| (row[0].clone(), row[2].clone(), *weight)).collect();
        assert_eq!(found, expected);
    };
    let a = |name: &str| (text("a"), text(name), 2);
    check(JoinKind::Inner, vec![(0, 0)], &[a("A"), a("AA")]);
    let outer = [(NULL, NULL, -1), a("A"), a("AA"), (text("z"), NULL, 1)];
    check(JoinKind::Left, vec![(0, 0)], &outer);
    let all = [(NULL, -1), (text("a"), 2), (text("z"), 1)]
        .into_iter()
        .flat_map(|(k, weight)| ["nobody", "A", "AA"].map(|name| (k.clone(), text(name), weight)));
    check(JoinKind::Inner, vec![], &all.collect::<Vec<_>>());
}

#[test]
fn equal_floats_are_one_key() {
    let floats = |values: &[f64]| -> Vec<Row> {
        values.iter().map(|value| vec![Value::float(*value)]).collect()
    };
    let columns = [column("f", DataType::Float64)];
    let rows = added(&floats(&[0.0, -0.0, f64::NAN, -f64::NAN]));
    let mut graph = Graph::default();
    let input = source(&mut graph, &columns);
    let count = call(AggregateFunction::Count, None, None, DataType::Int64);
    graph.aggregate(input, vec![0], vec![count], None);
    let epoch_of = |plan: &Plan, tables| epoch(&mut Dataflow::new(plan, &tables).unwrap(), &rows);
    let grouped = epoch_of(&graph.plan(), HashMap::new());
    let group = |value: f64| (vec![Value::float(value), Value::Int(2)], 1);
    assert_eq!(output(&grouped), [group(0.0), group(f64::NAN)]);

    let table = ObjectId(5);
    let mut graph = Graph::default();
    let input = source(&mut graph, &columns);
    let kind = OperatorKind::Lookup { table, on: vec![(0, 0)], kind: JoinKind::Inner };
    graph.add(kind, &[input], vec![columns[0].clone(), columns[0].clone()], true);
    let found = batch_of(&columns, &floats(&[-0.0, f64::NAN]));
    let joined = epoch_of(&graph.plan(), HashMap::from([(table, found)]));
    assert_eq!(output(&joined).len(), 4);
}

#[test]
fn state_of_another_plan_is_refused() {
    let (plan, _) = windowed();
    let check = |table: u32, key: &[u8], value: Option<&[u8]>, expected: &str| {
        let delta = TableDelta {
            table: TableId(table),
            keys: BinaryArray::from(vec![key]),
            values: BinaryArray::from(vec![value]),
        };
        let error = dataflow(&plan).restore(&delta).unwrap_err();
        assert_eq!(error.to_string(), expected);
    };
    check(77, b"", None, "the changelog holds state table 77, which the plan does not have");
    let entry = |reason: &str| format!("an entry of state table 2 can not be read: {reason}");
    check(2, b"", Some(b""), &entry("it is too short"));
    check(2, &[9], Some(b""), &entry("its kind is unknown"));
    let name = [1, 0, 0, 0, 0, 0, 0];
    check(2, &name, Some(&[0; 8]), &entry("its aggregate has no such entry"));
    check(2, &[1, 9, 0, 0, 0, 0, 0], None, &entry("its aggregate has no such entry"));
    let meta = "an entry of state table 4294967295 can not be read: it is too short";
    check(u32::MAX, b"other", None, meta);
}

#[test]
fn a_plan_is_checked_before_it_runs() {
    let (plan, _) = windowed();
    for index in 0..plan.operators.len() {
        let mut broken = plan.clone();
        broken.operators[index].inputs.push(OperatorId(99));
        let error = Dataflow::new(&broken, &HashMap::new()).unwrap_err();
        assert!(matches!(error, BuildError::Broken { .. }), "{error}");
    }
}
