//! Plans as text that people read: what `EXPLAIN` prints and tests compare.
//!
//! The output comes first, each operator's inputs indented below it. Columns appear by name;
//! where two columns of one operator share a name, its position follows (`name#3`).

use std::fmt::{self, Write};

use afflux_types::{ObjectId, OperatorId};
use arrow::datatypes::DataType;

use crate::{
    AggregateCall, AggregateFunction, BinaryOperator, Column, Expr, JoinKind, Operator,
    OperatorKind, Plan, UnaryOperator,
};

impl Plan {
    /// The plan as an indented tree, a line an operator. `name_of` names the objects it reads.
    pub fn text(&self, name_of: impl Fn(ObjectId) -> String) -> String {
        let mut text = String::new();
        let columns = self.columns();
        match &self.key {
            Some(key) if key.is_empty() => text.push_str("View: one row"),
            Some(key) => {
                let key: Vec<_> = key.iter().map(|&at| column(columns, at)).collect();
                let _ = write!(text, "View: key ({})", key.join(", "));
            }
            None => text.push_str("View: no key"),
        }
        if self.output().append_only {
            text.push_str(", append-only");
        }
        text.push('\n');
        self.tree(&mut text, self.output(), 1, &name_of);
        text
    }

    fn tree(
        &self,
        text: &mut String,
        operator: &Operator,
        depth: usize,
        name_of: &impl Fn(ObjectId) -> String,
    ) {
        let inputs: Vec<_> = operator.inputs.iter().filter_map(|id| self.operator(*id)).collect();
        let input = inputs.first().map_or(&[][..], |input| &input.columns);
        let _ = write!(text, "{:indent$}", "", indent = 2 * depth);
        let _ = line(text, operator, input, name_of);
        text.push('\n');
        for input in inputs {
            self.tree(text, input, depth + 1, name_of);
        }
    }

    /// The operator of an id.
    pub fn operator(&self, id: OperatorId) -> Option<&Operator> {
        self.operators.iter().find(|operator| operator.id == id)
    }
}

fn line(
    text: &mut String,
    operator: &Operator,
    input: &[Column],
    name_of: &impl Fn(ObjectId) -> String,
) -> fmt::Result {
    let output = &operator.columns;
    match &operator.kind {
        OperatorKind::Source { object, .. } => {
            write!(text, "Source {}: {}", name_of(*object), typed(output))
        }
        OperatorKind::View { object } => {
            write!(text, "View {}: {}", name_of(*object), typed(output))
        }
        OperatorKind::Table { object } => {
            write!(text, "Table {}: {}", name_of(*object), typed(output))
        }
        OperatorKind::Filter { predicate } => {
            write!(text, "Filter: {}", Shown { expr: predicate, input })
        }
        OperatorKind::Project { exprs } => {
            let exprs: Vec<_> = exprs
                .iter()
                .zip(output)
                .map(|(expr, output)| {
                    let shown = Shown { expr, input }.to_string();
                    if shown == output.name { shown } else { format!("{shown} AS {}", output.name) }
                })
                .collect();
            write!(text, "Project: {}", exprs.join(", "))
        }
        OperatorKind::Tumble { time, size_ms, offset_ms } => {
            write!(text, "Tumble: {} by {}", column(input, *time), duration(*size_ms))?;
            if *offset_ms != 0 {
                write!(text, " from {}", duration(*offset_ms))?;
            }
            Ok(())
        }
        OperatorKind::Aggregate { group, aggregates, window_end, state } => {
            let group: Vec<_> = group.iter().map(|&at| column(input, at)).collect();
            let calls: Vec<_> =
                aggregates.iter().map(|call| Call { call, input }.to_string()).collect();
            write!(text, "Aggregate: group ({})", group.join(", "))?;
            if !calls.is_empty() {
                write!(text, " compute {}", calls.join(", "))?;
            }
            if let Some(end) = window_end {
                write!(text, " final at {}", column(input, *end))?;
            }
            write!(text, " [state {}]", state.id)
        }
        OperatorKind::Lookup { table, on, kind } => {
            let behind = &output[input.len().min(output.len())..];
            let on: Vec<_> = on
                .iter()
                .map(|&(ours, theirs)| {
                    format!("{} = {}", column(input, ours), column(behind, theirs))
                })
                .collect();
            let kind = match kind {
                JoinKind::Inner => "inner",
                JoinKind::Left => "left",
            };
            write!(text, "Lookup {} ({kind}): {}", name_of(*table), on.join(" AND "))
        }
        OperatorKind::Union => text.write_str("Union"),
    }
}

/// A column's name, and its position where the name alone does not tell.
fn column(columns: &[Column], at: usize) -> String {
    let Some(found) = columns.get(at) else { return format!("#{at}") };
    if columns.iter().filter(|column| column.name == found.name).count() > 1 {
        format!("{}#{at}", found.name)
    } else {
        found.name.clone()
    }
}

fn typed(columns: &[Column]) -> String {
    let columns: Vec<_> = columns
        .iter()
        .map(|column| {
            let not_null = if column.nullable { "" } else { "!" };
            format!("{} {}{not_null}", column.name, column.column_type)
        })
        .collect();
    columns.join(", ")
}

fn duration(millis: i64) -> String {
    if millis == 0 {
        return "0 s".to_owned();
    }
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1_000, "s")];
    match units.into_iter().find(|(unit, _)| millis % unit == 0) {
        Some((unit, name)) => format!("{} {name}", millis / unit),
        None => format!("{millis} ms"),
    }
}

/// `months days nanoseconds` in words.
fn interval(value: &str) -> String {
    let parts: Vec<i64> = value.split(' ').filter_map(|part| part.parse().ok()).collect();
    let [months, days, nanos] = parts[..] else { return value.to_owned() };
    let mut words = Vec::new();
    if months != 0 {
        words.push(format!("{months} months"));
    }
    if days != 0 {
        words.push(format!("{days} d"));
    }
    if nanos != 0 || words.is_empty() {
        words.push(match nanos % 1_000_000 {
            0 => duration(nanos / 1_000_000),
            _ => format!("{nanos} ns"),
        });
    }
    words.join(" ")
}

struct Call<'a> {
    call: &'a AggregateCall,
    input: &'a [Column],
}

impl fmt::Display for Call<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.call.function {
            AggregateFunction::Count => "count",
            AggregateFunction::Sum => "sum",
            AggregateFunction::Avg => "avg",
            AggregateFunction::Min => "min",
            AggregateFunction::Max => "max",
        };
        let argument = self.call.argument.map_or("*".to_owned(), |at| column(self.input, at));
        write!(f, "{name}({argument})")?;
        if let Some(filter) = self.call.filter {
            write!(f, " where {}", column(self.input, filter))?;
        }
        Ok(())
    }
}

/// An expression with its columns named.
struct Shown<'a> {
    expr: &'a Expr,
    input: &'a [Column],
}

impl Shown<'_> {
    fn of<'a>(&'a self, expr: &'a Expr) -> Shown<'a> {
        Shown { expr, input: self.input }
    }

    fn list(&self, exprs: &[Expr]) -> String {
        let exprs: Vec<_> = exprs.iter().map(|expr| self.of(expr).to_string()).collect();
        exprs.join(", ")
    }
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let not = |negated: bool| if negated { "NOT " } else { "" };
        match self.expr {
            Expr::Column(at) => f.write_str(&column(self.input, *at)),
            Expr::Literal(scalar) => match &scalar.value {
                None => f.write_str("NULL"),
                Some(value) if scalar.scalar_type.0.is_numeric() => f.write_str(value),
                Some(value) if matches!(scalar.scalar_type.0, DataType::Boolean) => {
                    f.write_str(value)
                }
                Some(value) if matches!(scalar.scalar_type.0, DataType::Interval(_)) => {
                    write!(f, "INTERVAL '{}'", interval(value))
                }
                Some(value) => write!(f, "'{}'", value.replace('\'', "''")),
            },
            Expr::Now => f.write_str("now()"),
            Expr::Cast { expr, to, or_null } => {
                let cast = if *or_null { "TRY_CAST" } else { "CAST" };
                write!(f, "{cast}({} AS {to})", self.of(expr))
            }
            Expr::Unary { op, expr } => {
                let expr = self.of(expr);
                match op {
                    UnaryOperator::Not => write!(f, "NOT {expr}"),
                    UnaryOperator::Negative => write!(f, "-{expr}"),
                    UnaryOperator::IsNull => write!(f, "{expr} IS NULL"),
                    UnaryOperator::IsNotNull => write!(f, "{expr} IS NOT NULL"),
                    UnaryOperator::IsTrue => write!(f, "{expr} IS TRUE"),
                    UnaryOperator::IsNotTrue => write!(f, "{expr} IS NOT TRUE"),
                    UnaryOperator::IsFalse => write!(f, "{expr} IS FALSE"),
                    UnaryOperator::IsNotFalse => write!(f, "{expr} IS NOT FALSE"),
                }
            }
            Expr::Binary { op, left, right } => {
                write!(f, "({} {} {})", self.of(left), symbol(*op), self.of(right))
            }
            Expr::Like { expr, pattern, negated, case_insensitive } => {
                let like = if *case_insensitive { "ILIKE" } else { "LIKE" };
                write!(f, "{} {}{like} {}", self.of(expr), not(*negated), self.of(pattern))
            }
            Expr::InList { expr, list, negated } => {
                write!(f, "{} {}IN ({})", self.of(expr), not(*negated), self.list(list))
            }
            Expr::Case { operand, branches, otherwise } => {
                f.write_str("CASE")?;
                if let Some(operand) = operand {
                    write!(f, " {}", self.of(operand))?;
                }
                for (when, then) in branches {
                    write!(f, " WHEN {} THEN {}", self.of(when), self.of(then))?;
                }
                if let Some(otherwise) = otherwise {
                    write!(f, " ELSE {}", self.of(otherwise))?;
                }
                f.write_str(" END")
            }
            Expr::Call { function, arguments, .. } => {
                write!(f, "{function}({})", self.list(arguments))
            }
        }
    }
}

fn symbol(op: BinaryOperator) -> &'static str {
    match op {
        BinaryOperator::Equal => "=",
        BinaryOperator::NotEqual => "<>",
        BinaryOperator::Less => "<",
        BinaryOperator::LessOrEqual => "<=",
        BinaryOperator::Greater => ">",
        BinaryOperator::GreaterOrEqual => ">=",
        BinaryOperator::IsDistinctFrom => "IS DISTINCT FROM",
        BinaryOperator::IsNotDistinctFrom => "IS NOT DISTINCT FROM",
        BinaryOperator::And => "AND",
        BinaryOperator::Or => "OR",
        BinaryOperator::Add => "+",
        BinaryOperator::Subtract => "-",
        BinaryOperator::Multiply => "*",
        BinaryOperator::Divide => "/",
        BinaryOperator::Modulo => "%",
        BinaryOperator::Concat => "||",
        BinaryOperator::BitAnd => "&",
        BinaryOperator::BitOr => "|",
        BinaryOperator::BitXor => "#",
        BinaryOperator::ShiftLeft => "<<",
        BinaryOperator::ShiftRight => ">>",
        BinaryOperator::RegexMatch => "~",
        BinaryOperator::RegexMatchCaseInsensitive => "~*",
        BinaryOperator::RegexNotMatch => "!~",
        BinaryOperator::RegexNotMatchCaseInsensitive => "!~*",
    }
}
