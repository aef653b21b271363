//! What a plan means, in simple code: at each epoch every operator's whole result is computed
//! from the whole results of its inputs, a row at a time.
//!
//! Only late rows need a memory: what an aggregation accepted is kept, as rows.

use std::collections::{BTreeMap, HashMap};

use afflux_plan::{
    AggregateCall, AggregateFunction, BinaryOperator, Expr, JoinKind, Operator, OperatorKind, Plan,
    UnaryOperator,
};
use afflux_types::{ObjectId, OperatorId};

use crate::rows::{Row, Value, ZSet, add};

pub(crate) struct Reference {
    plan: Plan,
    tables: HashMap<ObjectId, Vec<Row>>,
    totals: HashMap<OperatorId, ZSet>,
    accepted: HashMap<OperatorId, ZSet>,
    watermarks: HashMap<OperatorId, i64>,
}

impl Reference {
    pub(crate) fn new(plan: &Plan, tables: &HashMap<ObjectId, Vec<Row>>) -> Self {
        Self {
            plan: plan.clone(),
            tables: tables.clone(),
            totals: HashMap::new(),
            accepted: HashMap::new(),
            watermarks: HashMap::new(),
        }
    }

    /// The whole view after an epoch, in which the input's whole contents are these.
    pub(crate) fn epoch(&mut self, input: &ZSet, watermark: i64) -> ZSet {
        let mut output = ZSet::new();
        for operator in &self.plan.operators.clone() {
            output = self.total(operator, input);
            self.totals.insert(operator.id, output.clone());
        }
        for operator in &self.plan.operators {
            let own = match operator.kind {
                OperatorKind::Table { .. } => i64::MAX,
                OperatorKind::Source { .. } | OperatorKind::View { .. } => watermark,
                _ => operator.inputs.iter().map(|input| self.watermarks[input]).min().unwrap(),
            };
            let known = self.watermarks.entry(operator.id).or_insert(i64::MIN);
            *known = own.max(*known);
        }
        output
    }

    fn total(&mut self, operator: &Operator, input: &ZSet) -> ZSet {
        let of = |index: usize| self.totals[&operator.inputs[index]].clone();
        let mut total = ZSet::new();
        match &operator.kind {
            OperatorKind::Source { .. } | OperatorKind::View { .. } => total = input.clone(),
            OperatorKind::Table { object } => {
                for row in &self.tables[object] {
                    add(&mut total, row.clone(), 1);
                }
            }
            OperatorKind::Union => {
                for index in 0..operator.inputs.len() {
                    for (row, weight) in of(index) {
                        add(&mut total, row, weight);
                    }
                }
            }
            OperatorKind::Filter { predicate } => {
                for (row, weight) in of(0) {
                    if evaluate(predicate, &row) == Ok(Value::Bool(true)) {
                        add(&mut total, row, weight);
                    }
                }
            }
            OperatorKind::Project { exprs } => {
                for (row, weight) in of(0) {
                    let values: Result<Row, ()> = exprs.iter().map(|e| evaluate(e, &row)).collect();
                    if let Ok(values) = values {
                        add(&mut total, values, weight);
                    }
                }
            }
            OperatorKind::Tumble { time, size_ms, offset_ms } => {
                for (mut row, weight) in of(0) {
                    if let Value::Time(time) = row[*time] {
                        let mut start = *offset_ms;
                        while start > time {
                            start -= size_ms;
                        }
                        while start + size_ms <= time {
                            start += size_ms;
                        }
                        let end = start + size_ms;
                        row.extend([start, end, end - 1].map(Value::Time));
                        add(&mut total, row, weight);
                    }
                }
            }
            OperatorKind::Lookup { table, on, kind } => {
                for (row, weight) in of(0) {
                    let matches: Vec<&Row> = self.tables[table]
                        .iter()
                        .filter(|other| {
                            on.iter().all(|&(l, r)| row[l] != Value::Null && row[l] == other[r])
                        })
                        .collect();
                    if matches.is_empty() && *kind == JoinKind::Left {
                        let nulls = vec![Value::Null; operator.columns.len() - row.len()];
                        add(&mut total, [row.clone(), nulls].concat(), weight);
                    }
                    for other in matches {
                        add(&mut total, [row.clone(), other.clone()].concat(), weight);
                    }
                }
            }
            OperatorKind::Aggregate { group, aggregates, window_end, .. } => {
                let now = of(0);
                return self.aggregate(operator, &now, group, aggregates, *window_end);
            }
        }
        total
    }

    fn aggregate(
        &mut self,
        operator: &Operator,
        now: &ZSet,
        group: &[usize],
        aggregates: &[AggregateCall],
        window_end: Option<usize>,
    ) -> ZSet {
        let accepted = self.accepted.entry(operator.id).or_default();
        let watermark = self.watermarks.get(&operator.id).copied().unwrap_or(i64::MIN);
        let open = |row: &Row| match window_end.map(|column| &row[column]) {
            Some(Value::Time(end)) => *end > watermark,
            _ => true,
        };
        // What is open follows the input; what is closed stays as it was.
        accepted.retain(|row, _| !open(row));
        for (row, weight) in now.iter().filter(|(row, _)| open(row)) {
            add(accepted, row.clone(), *weight);
        }
        let mut groups: BTreeMap<Row, Vec<(&Row, i64)>> = BTreeMap::new();
        if group.is_empty() {
            groups.insert(Vec::new(), Vec::new());
        }
        for (row, weight) in accepted.iter() {
            let key = group.iter().map(|&column| row[column].clone()).collect();
            groups.entry(key).or_default().push((row, *weight));
        }
        let mut total = ZSet::new();
        for (mut key, rows) in groups {
            key.extend(aggregates.iter().map(|call| aggregate(call, &rows)));
            add(&mut total, key, 1);
        }
        total
    }
}

fn aggregate(call: &AggregateCall, rows: &[(&Row, i64)]) -> Value {
    let rows = rows.iter().filter(|(row, _)| {
        call.filter.is_none_or(|column| row[column] == Value::Bool(true))
            && call.argument.is_none_or(|column| row[column] != Value::Null)
    });
    let weighted: Vec<(Option<&Value>, i64)> =
        rows.map(|(row, weight)| (call.argument.map(|column| &row[column]), *weight)).collect();
    let count: i64 = weighted.iter().map(|(_, weight)| weight).sum();
    let values = weighted.iter().filter_map(|(value, _)| *value);
    match call.function {
        AggregateFunction::Count => Value::Int(count),
        _ if count == 0 => Value::Null,
        AggregateFunction::Min => values.min().cloned().unwrap(),
        AggregateFunction::Max => values.max().cloned().unwrap(),
        AggregateFunction::Sum | AggregateFunction::Avg => {
            let mean = call.function == AggregateFunction::Avg;
            let whole = weighted.iter().all(|(value, _)| matches!(value, Some(Value::Int(_))));
            if whole {
                let sum: i64 = weighted
                    .iter()
                    .map(
                        |(value, weight)| {
                            if let Some(Value::Int(v)) = value { v * weight } else { 0 }
                        },
                    )
                    .sum();
                return if mean {
                    Value::float(sum as f64 / count as f64)
                } else {
                    Value::Int(sum)
                };
            }
            let float = |value: Option<&Value>| value.unwrap().as_float().unwrap();
            let sum: f64 =
                weighted.iter().map(|(value, weight)| float(*value) * *weight as f64).sum();
            // As additions in any order of numbers that are not -0.0 give it.
            let sum = if sum == 0.0 { 0.0 } else { sum };
            Value::float(if mean { sum / count as f64 } else { sum })
        }
    }
}

fn evaluate(expr: &Expr, row: &Row) -> Result<Value, ()> {
    Ok(match expr {
        Expr::Column(column) => row[*column].clone(),
        Expr::Literal(scalar) => match (&scalar.value, scalar.scalar_type.to_string().as_str()) {
            (None, _) => Value::Null,
            (Some(text), "Int64") => Value::Int(text.parse().unwrap()),
            (Some(text), "Float64") => Value::float(text.parse().unwrap()),
            (Some(text), _) => Value::Text(text.clone()),
        },
        Expr::Unary { op: UnaryOperator::IsNotNull, expr } => {
            Value::Bool(evaluate(expr, row)? != Value::Null)
        }
        Expr::Binary { op: BinaryOperator::And, left, right } => {
            let left = evaluate(left, row)?;
            if left == Value::Bool(false) {
                return Ok(left);
            }
            match (left, evaluate(right, row)?) {
                (Value::Bool(true), right) => right,
                (_, Value::Bool(false)) => Value::Bool(false),
                _ => Value::Null,
            }
        }
        Expr::Binary { op, left, right } => match (evaluate(left, row)?, evaluate(right, row)?) {
            (Value::Null, _) | (_, Value::Null) => Value::Null,
            (Value::Int(left), Value::Int(right)) => match op {
                BinaryOperator::Add => Value::Int(left.checked_add(right).ok_or(())?),
                BinaryOperator::Divide => Value::Int(left.checked_div(right).ok_or(())?),
                other => compare(*other, &left, &right),
            },
            (left, right) => compare(*op, &left, &right),
        },
        other => panic!("the tests have no {other:?}"),
    })
}

fn compare<T: Ord>(op: BinaryOperator, left: &T, right: &T) -> Value {
    Value::Bool(match op {
        BinaryOperator::Less => left < right,
        BinaryOperator::Greater => left > right,
        BinaryOperator::NotEqual => left != right,
        other => panic!("the tests have no {other:?}"),
    })
}
