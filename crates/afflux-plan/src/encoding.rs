//! Plans as versioned JSON, and back with every reference checked.

use std::collections::HashMap;

use afflux_types::OperatorId;
use serde::Deserialize;

use crate::{Expr, Operator, OperatorKind, Plan};

/// Bytes that are not a plan this build can run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// Not the JSON of a plan.
    #[error("not a plan: {0}")]
    Syntax(#[from] serde_json::Error),
    /// Written by a newer Afflux.
    #[error("the plan has version {found}; this build reads up to {}", Plan::VERSION)]
    Version {
        /// The version found.
        found: u16,
    },
    /// The graph is not one.
    #[error("the plan's graph is broken: {0}")]
    Graph(String),
}

/// A plan's bytes.
pub fn encode(plan: &Plan) -> Vec<u8> {
    serde_json::to_vec(plan).expect("a plan has only string keys")
}

/// A plan from its bytes, checked.
pub fn decode(bytes: &[u8]) -> Result<Plan, PlanError> {
    #[derive(Deserialize)]
    struct Head {
        version: u16,
    }
    let head: Head = serde_json::from_slice(bytes)?;
    if head.version == 0 || head.version > Plan::VERSION {
        return Err(PlanError::Version { found: head.version });
    }
    // An expression nests as deep as the query's, which the dialect bounds.
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    deserializer.disable_recursion_limit();
    let plan = Plan::deserialize(&mut deserializer)?;
    deserializer.end()?;
    check(&plan)?;
    Ok(plan)
}

fn check(plan: &Plan) -> Result<(), PlanError> {
    if plan.operators.is_empty() {
        return Err(PlanError::Graph("it has no operator".to_owned()));
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
            return Err(PlanError::Graph(format!("operator {}: {fault}", operator.id)));
        }
        if seen.insert(operator.id, operator).is_some() {
            return Err(PlanError::Graph(format!("operator {} occurs twice", operator.id)));
        }
    }
    let width = plan.columns().len();
    if plan.key.iter().flatten().any(|&column| column >= width) {
        return Err(PlanError::Graph("the key names a column that is not there".to_owned()));
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
