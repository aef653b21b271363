//! The encoding of plans: what was once written has to stay readable.

use afflux_plan::{
    AggregateCall, AggregateFunction, BinaryOperator, Column, ColumnType, Expr, JoinKind, Operator,
    OperatorKind, Plan, Scalar, StateTable, UnaryOperator,
};
use afflux_types::{ObjectId, OperatorId, TableId};
use arrow::datatypes::{DataType, IntervalUnit, TimeUnit};
use serde::Deserialize;

const V1: &[u8] = include_bytes!("fixtures/plan-v1.json");

fn encode(plan: &Plan) -> Vec<u8> {
    serde_json::to_vec(plan).expect("a plan is JSON")
}

fn decode(bytes: &[u8]) -> Result<Plan, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    deserializer.disable_recursion_limit();
    let plan = Plan::deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(plan)
}

fn literal(data_type: DataType, value: Option<&str>) -> Expr {
    Expr::Literal(Scalar { scalar_type: ColumnType(data_type), value: value.map(str::to_owned) })
}

fn boxed(column: usize) -> Box<Expr> {
    Box::new(Expr::Column(column))
}

/// One of each kind of expression, over `name Utf8, n Int64`.
fn exprs() -> Vec<Expr> {
    vec![
        Expr::Column(0),
        literal(DataType::Int64, None),
        literal(DataType::Decimal128(10, 2), Some("1.50")),
        literal(DataType::Interval(IntervalUnit::MonthDayNano), Some("1 2 3000000")),
        Expr::Now,
        Expr::Cast { expr: boxed(1), to: ColumnType(DataType::Float64), or_null: true },
        Expr::Unary { op: UnaryOperator::IsNotNull, expr: boxed(0) },
        Expr::Binary { op: BinaryOperator::Add, left: boxed(1), right: boxed(1) },
        Expr::Like { expr: boxed(0), pattern: boxed(0), negated: true, case_insensitive: false },
        Expr::InList {
            expr: boxed(1),
            list: vec![literal(DataType::Int64, Some("1"))],
            negated: false,
        },
        Expr::Case {
            operand: Some(boxed(1)),
            branches: vec![(literal(DataType::Int64, Some("1")), Expr::Column(0))],
            otherwise: Some(boxed(0)),
        },
        Expr::Call {
            function: "upper".to_owned(),
            arguments: vec![Expr::Column(0)],
            returns: ColumnType(DataType::Utf8),
            nullable: true,
        },
    ]
}

fn operator(id: u32, inputs: &[u32], kind: OperatorKind, columns: &[Column]) -> Operator {
    let inputs = inputs.iter().copied().map(OperatorId).collect();
    let append_only = id < 8;
    Operator { id: OperatorId(id), kind, inputs, columns: columns.to_vec(), append_only }
}

/// A plan with one of each kind of operator and expression.
fn everything() -> Plan {
    let time = DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()));
    let name = Column::new("name", DataType::Utf8, true);
    let n = Column::new("n", DataType::Int64, false);
    let pair = [name.clone(), n.clone()];
    let at = Column::new("at", time.clone(), true);
    let read = [name.clone(), at.clone()];
    let window = ["window_start", "window_end", "window_time"]
        .map(|column| Column::new(column, time.clone(), false));
    let windowed: Vec<_> = read.iter().cloned().chain(window).collect();
    let joined: Vec<_> = pair.iter().chain(&pair).cloned().collect();
    let computed: Vec<_> =
        (0..exprs().len()).map(|at| Column::new(format!("c{at}"), DataType::Utf8, true)).collect();
    let sum = AggregateCall {
        function: AggregateFunction::Count,
        argument: None,
        filter: None,
        returns: ColumnType(DataType::Int64),
    };
    let object = ObjectId;
    let aggregate = OperatorKind::Aggregate {
        group: vec![0],
        aggregates: vec![sum],
        window_end: Some(3),
        state: StateTable { id: TableId(0), layout: 1 },
    };
    let lookup = OperatorKind::Lookup { table: object(9), on: vec![(0, 0)], kind: JoinKind::Left };
    let predicate = Expr::Unary { op: UnaryOperator::IsNull, expr: boxed(0) };
    let tumble = OperatorKind::Tumble { time: 1, size_ms: 3_600_000, offset_ms: 60_000 };
    let operators = vec![
        operator(0, &[], OperatorKind::Source { object: object(1), columns: vec![0, 4] }, &read),
        operator(1, &[0], tumble, &windowed),
        operator(2, &[1], aggregate, &pair),
        operator(3, &[], OperatorKind::View { object: object(2) }, &pair),
        operator(4, &[], OperatorKind::Table { object: object(9) }, &pair),
        operator(5, &[2, 3, 4], OperatorKind::Union, &pair),
        operator(6, &[5], OperatorKind::Filter { predicate }, &pair),
        operator(7, &[6], lookup, &joined),
        operator(8, &[7], OperatorKind::Project { exprs: exprs() }, &computed),
    ];
    Plan { version: Plan::VERSION, operators, key: Some(vec![0, 11]) }
}

#[test]
fn version_1_stays_readable() {
    assert_eq!(decode(V1).expect("the fixture is a plan"), everything());
}

#[test]
fn version_1_is_written_as_it_was() {
    let value = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).expect("JSON");
    assert_eq!(value(&encode(&everything())), value(V1), "a change needs a new version");
}

#[test]
fn plans_that_can_not_run_are_refused() {
    let check = |change: &dyn Fn(&mut Plan), expected: &str| {
        let mut plan = everything();
        change(&mut plan);
        let error = decode(&encode(&plan)).expect_err(expected);
        assert!(error.to_string().contains(expected), "{error}, not {expected}");
    };
    check(&|plan| plan.version = 0, "version 0");
    check(&|plan| plan.version = Plan::VERSION + 1, "reads up to 1");
    check(&|plan| plan.operators.clear(), "no operator");
    check(&|plan| plan.operators.swap(0, 1), "not before it");
    check(&|plan| plan.operators[4].id = OperatorId(3), "occurs twice");
    check(&|plan| plan.key = Some(vec![12]), "the key names");
    check(
        &|plan| plan.operators[3].inputs = vec![OperatorId(0)],
        "operator 3: it has the wrong inputs",
    );
    check(
        &|plan| plan.operators[5].inputs.push(OperatorId(1)),
        "operator 5: it has the wrong inputs",
    );
    check(&|plan| drop(plan.operators[8].columns.pop()), "wrong number of columns");
    let kind = |at: usize, kind: OperatorKind| {
        move |plan: &mut Plan| plan.operators[at].kind = kind.clone()
    };
    let missing = "names a column that is not there";
    check(&kind(6, OperatorKind::Filter { predicate: Expr::Column(2) }), missing);
    check(&kind(1, OperatorKind::Tumble { time: 2, size_ms: 1, offset_ms: 0 }), missing);
    check(&kind(1, OperatorKind::Tumble { time: 1, size_ms: 0, offset_ms: 0 }), missing);
    let on = vec![(0, 2)];
    check(
        &kind(7, OperatorKind::Lookup { table: ObjectId(9), on, kind: JoinKind::Inner }),
        missing,
    );
}

#[test]
fn other_bytes_are_no_plan() {
    for bytes in [&b""[..], b"{}", b"[1]", b"{\"version\":1}", &V1[..V1.len() - 1]] {
        decode(bytes).expect_err("no plan");
    }
    let unknown = String::from_utf8_lossy(V1).replace("Int64", "Int65");
    let error = decode(unknown.as_bytes()).expect_err("no such type");
    assert!(error.to_string().contains("Int65"), "{error}");
}

#[test]
fn a_newer_version_is_told_before_its_contents() {
    let error = decode(br#"{"version":9,"operators":[{"kind":"from the future"}],"key":null}"#)
        .expect_err("newer");
    assert!(error.to_string().contains("version 9"), "{error}");
}

#[test]
fn deep_expressions_read_back() {
    let mut plan = everything();
    let mut expr = Expr::Column(1);
    for _ in 0..500 {
        expr = Expr::Unary { op: UnaryOperator::Negative, expr: Box::new(expr) };
    }
    let OperatorKind::Project { exprs } = &mut plan.operators[8].kind else { panic!("a project") };
    exprs[1] = expr;
    assert_eq!(decode(&encode(&plan)).expect("reads back"), plan);
}

#[test]
fn a_plan_reads_as_text() {
    let text = everything().text(|object| format!("o{object}"));
    let expected = "\
View: key (c0, c11)
  Project: name#0 AS c0, NULL AS c1, 1.50 AS c2, INTERVAL '1 months 2 d 3 ms' AS c3, now() AS c4, \
TRY_CAST(n#1 AS Float64) AS c5, name#0 IS NOT NULL AS c6, (n#1 + n#1) AS c7, \
name#0 NOT LIKE name#0 AS c8, n#1 IN (1) AS c9, CASE n#1 WHEN 1 THEN name#0 ELSE name#0 END AS c10, \
upper(name#0) AS c11
    Lookup o9 (left): name = name
      Filter: name IS NULL
        Union
          Aggregate: group (name) compute count(*) final at window_end [state 0]
            Tumble: at by 1 h from 1 min
              Source o1: name Utf8, at Timestamp(ms, \"UTC\")
          View o2: name Utf8, n Int64!
          Table o9: name Utf8, n Int64!
";
    assert_eq!(text, expected);
}
