//! Plans out of their JSON: nobody gets one that this build can not run.

use std::collections::HashMap;

use afflux_types::OperatorId;
use serde::{Deserialize, Deserializer, de::Error};

use crate::{Expr, Operator, OperatorKind, Plan};

impl<'de> Deserialize<'de> for Plan {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // The version comes first, and is looked at before anything that a newer one may have.
        #[derive(Deserialize)]
        struct Unchecked {
            #[serde(deserialize_with = "known_version")]
            version: u16,
            operators: Vec<Operator>,
            key: Option<Vec<usize>>,
        }
        let Unchecked { version, operators, key } = Unchecked::deserialize(deserializer)?;
        let plan = Self { version, operators, key };
        match check(&plan) {
            Ok(()) => Ok(plan),
            Err(fault) => Err(D::Error::custom(format!("the plan's graph is broken: {fault}"))),
        }
    }
}

fn known_version<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u16, D::Error> {
    let found = u16::deserialize(deserializer)?;
    if (1..=Plan::VERSION).contains(&found) {
        return Ok(found);
    }
    let known = Plan::VERSION;
    Err(D::Error::custom(format!("the plan has version {found}; this build reads up to {known}")))
}

fn check(plan: &Plan) -> Result<(), String> {
    if plan.operators.is_empty() {
        return Err("it has no operator".to_owned());
    }
    let mut seen: HashMap<OperatorId, &Operator> = HashMap::new();
    for operator in &plan.operators {
        let inputs: Option<Vec<_>> =
            operator.inputs.iter().map(|input| seen.get(input).copied()).collect();
        let fault = match inputs {
            None => Some("it reads an operator that is not before it"),
            Some(inputs) => fault(operator, &inputs),
        };
        if let Some(fault) = fault {
            return Err(format!("operator {}: {fault}", operator.id));
        }
        if seen.insert(operator.id, operator).is_some() {
            return Err(format!("operator {} occurs twice", operator.id));
        }
    }
    let width = plan.columns().len();
    if plan.key.iter().flatten().any(|&column| column >= width) {
        return Err("the key names a column that is not there".to_owned());
    }
    Ok(())
}

/// What is wrong with an operator's shape: inputs, widths, and columns that are named.
fn fault(operator: &Operator, inputs: &[&Operator]) -> Option<&'static str> {
    let output = operator.columns.len();
    let input = inputs.first().map_or(0, |input| input.columns.len());
    let inputs_are_right = match &operator.kind {
        OperatorKind::Source { .. } | OperatorKind::View { .. } | OperatorKind::Table { .. } => {
            inputs.is_empty()
        }
        OperatorKind::Union => {
            !inputs.is_empty() && inputs.iter().all(|input| input.columns.len() == output)
        }
        _ => inputs.len() == 1,
    };
    if !inputs_are_right {
        return Some("it has the wrong inputs");
    }
    let there = |expr: &Expr| {
        let mut there = true;
        expr.visit(&mut |part| {
            there &= !matches!(part, Expr::Column(column) if *column >= input);
        });
        there
    };
    let (width, named) = match &operator.kind {
        OperatorKind::Source { columns, .. } => (columns.len(), true),
        OperatorKind::View { .. } | OperatorKind::Table { .. } | OperatorKind::Union => {
            (output, true)
        }
        OperatorKind::Filter { predicate } => (input, there(predicate)),
        OperatorKind::Project { exprs } => (exprs.len(), exprs.iter().all(there)),
        OperatorKind::Tumble { time, size_ms, .. } => (input + 3, *time < input && *size_ms > 0),
        OperatorKind::Aggregate { group, aggregates, window_end, .. } => {
            let of_calls =
                aggregates.iter().flat_map(|call| [call.argument, call.filter]).flatten();
            let mut columns = group.iter().copied().chain(of_calls).chain(*window_end);
            (group.len() + aggregates.len(), columns.all(|column| column < input))
        }
        OperatorKind::Lookup { on, .. } => {
            let table = output.saturating_sub(input);
            let named = on.iter().all(|(ours, theirs)| *ours < input && *theirs < table);
            (output.max(input), named)
        }
    };
    if width != output {
        return Some("it has the wrong number of columns");
    }
    (!named).then_some("it names a column that is not there")
}
