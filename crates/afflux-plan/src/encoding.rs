//! Plans as versioned JSON, and back with every reference checked.

use std::collections::HashSet;

use crate::Plan;

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
    #[derive(serde::Deserialize)]
    struct Head {
        version: u16,
    }
    let head: Head = serde_json::from_slice(bytes)?;
    if head.version == 0 || head.version > Plan::VERSION {
        return Err(PlanError::Version { found: head.version });
    }
    let plan: Plan = serde_json::from_slice(bytes)?;
    check(&plan)?;
    Ok(plan)
}

fn check(plan: &Plan) -> Result<(), PlanError> {
    if plan.operators.is_empty() {
        return Err(PlanError::Graph("it has no operator".to_owned()));
    }
    let mut seen = HashSet::new();
    for operator in &plan.operators {
        if let Some(input) = operator.inputs.iter().find(|input| !seen.contains(*input)) {
            return Err(PlanError::Graph(format!(
                "operator {} reads {input}, which is not before it",
                operator.id
            )));
        }
        if !seen.insert(operator.id) {
            return Err(PlanError::Graph(format!("operator {} occurs twice", operator.id)));
        }
    }
    let width = plan.columns().len();
    if plan.key.iter().flatten().any(|&column| column >= width) {
        return Err(PlanError::Graph("the key names a column that is not there".to_owned()));
    }
    Ok(())
}
