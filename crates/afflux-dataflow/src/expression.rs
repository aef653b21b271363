//! The plan's expressions as DataFusion's physical expressions.
//!
//! Made once, when the graph is built. What differs from DataFusion's own planning:
//!
//! 1. Integer arithmetic that overflows is an error of the row, never a wrapped value.
//! 2. `now()` is a literal that the epoch sets ([`Now`]), so that it is the same for every row of
//!    an epoch and a replay sees what was logged.
//! 3. `AND` and `OR` whose right side can fail evaluate it only for rows that need it: a guard
//!    such as `b <> 0 AND a / b > 1` holds, whatever else is in the batch.
//! 4. Functions that do not depend on their arguments alone are refused.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicI64, Ordering},
    },
};

use afflux_plan::{BinaryOperator, Expr, Scalar, UnaryOperator};
use afflux_types::Timestamp;
use arrow::{
    array::{BooleanArray, RecordBatch},
    compute::{and_kleene, or_kleene},
    datatypes::{DataType, Field, IntervalMonthDayNano, Schema, TimeUnit},
};
use datafusion::{
    common::{cast::as_boolean_array, config::ConfigOptions},
    error::{DataFusionError, Result},
    execution::SessionStateDefaults,
    logical_expr::{ColumnarValue, Operator, ScalarUDF, Volatility},
    physical_expr::{PhysicalExpr, ScalarFunctionExpr, expressions},
    scalar::ScalarValue,
};

type Physical = Arc<dyn PhysicalExpr>;

/// The epoch's `now()`, shared by all expressions of a graph.
#[derive(Debug, Clone, Default)]
pub(crate) struct Clock(Arc<AtomicI64>);

impl Clock {
    pub(crate) fn set(&self, now: Timestamp) {
        self.0.store(now.0, Ordering::Relaxed);
    }
}

/// Whether an expression's value depends on when it is evaluated.
pub(crate) fn reads_clock(expr: &Expr) -> bool {
    expr.any(|part| matches!(part, Expr::Now))
}

/// Makes an expression over batches of a schema.
pub(crate) fn build(expr: &Expr, schema: &Schema, clock: &Clock) -> Result<Physical> {
    let make = |expr: &Expr| build(expr, schema, clock);
    let all = |exprs: &[Expr]| exprs.iter().map(make).collect::<Result<Vec<_>>>();
    match expr {
        Expr::Column(index) => {
            let field = schema.fields().get(*index).ok_or_else(|| {
                DataFusionError::Plan(format!("there is no input column {index}"))
            })?;
            Ok(Arc::new(expressions::Column::new(field.name(), *index)))
        }
        Expr::Literal(scalar) => Ok(expressions::lit(literal(scalar)?)),
        Expr::Now => Ok(Arc::new(Now(clock.clone()))),
        Expr::Cast { expr, to, or_null: false } => {
            expressions::cast(make(expr)?, schema, to.0.clone())
        }
        Expr::Cast { expr, to, or_null: true } => {
            expressions::try_cast(make(expr)?, schema, to.0.clone())
        }
        Expr::Unary { op, expr } => unary(*op, make(expr)?, schema),
        Expr::Binary { op: op @ (BinaryOperator::And | BinaryOperator::Or), left, right }
            if can_fail(right) =>
        {
            let or = *op == BinaryOperator::Or;
            Ok(Arc::new(Guarded { or, left: make(left)?, right: make(right)? }))
        }
        Expr::Binary { op, left, right } => Ok(binary(operator(*op), make(left)?, make(right)?)),
        Expr::Like { expr, pattern, negated, case_insensitive } => {
            expressions::like(*negated, *case_insensitive, make(expr)?, make(pattern)?, schema)
        }
        Expr::InList { expr, list, negated } => {
            expressions::in_list(make(expr)?, all(list)?, negated, schema)
        }
        Expr::Case { operand, branches, otherwise } => {
            let operand = operand.as_deref().map(make).transpose()?;
            let branch = |(when, then): &(Expr, Expr)| Ok((make(when)?, make(then)?));
            let branches = branches.iter().map(branch).collect::<Result<Vec<_>>>()?;
            expressions::case(operand, branches, otherwise.as_deref().map(make).transpose()?)
        }
        Expr::Call { function, arguments, returns, nullable } => {
            let result = Field::new(function, returns.0.clone(), *nullable);
            call(function, arguments, all(arguments)?, result, schema)
        }
    }
}

fn call(
    name: &str,
    exprs: &[Expr],
    arguments: Vec<Physical>,
    result: Field,
    schema: &Schema,
) -> Result<Physical> {
    // DataFusion's optimizer rewrites these; they can not be evaluated.
    if matches!(name, "coalesce" | "nvl" | "ifnull") {
        return coalesce(&arguments);
    }
    if let ("nvl2", [condition, then, otherwise]) = (name, arguments.as_slice()) {
        let condition = expressions::is_not_null(condition.clone())?;
        return expressions::case(None, vec![(condition, then.clone())], Some(otherwise.clone()));
    }
    let function = functions()
        .get(name)
        .ok_or_else(|| DataFusionError::Plan(format!("there is no function {name}")))?;
    if function.signature().volatility != Volatility::Immutable {
        let reason = format!("{name}() depends on more than its {} arguments", exprs.len());
        return Err(DataFusionError::Plan(reason));
    }
    let config = Arc::new(ConfigOptions::default());
    let checked =
        ScalarFunctionExpr::try_new(function.clone(), arguments.clone(), schema, config.clone())?;
    if checked.return_type() != result.data_type() {
        return Err(DataFusionError::Plan(format!(
            "{name}() returns {}, but {} when the plan was made",
            checked.return_type(),
            result.data_type()
        )));
    }
    let function = function.clone();
    Ok(Arc::new(ScalarFunctionExpr::new(name, function, arguments, Arc::new(result), config)))
}

fn coalesce(arguments: &[Physical]) -> Result<Physical> {
    let Some((last, others)) = arguments.split_last() else {
        return Err(DataFusionError::Plan("coalesce() needs an argument".to_owned()));
    };
    if others.is_empty() {
        return Ok(last.clone());
    }
    let branch = |expr: &Physical| Ok((expressions::is_not_null(expr.clone())?, expr.clone()));
    let branches = others.iter().map(branch).collect::<Result<Vec<_>>>()?;
    expressions::case(None, branches, Some(last.clone()))
}

/// All scalar functions of this build by name and alias.
fn functions() -> &'static HashMap<String, Arc<ScalarUDF>> {
    static FUNCTIONS: OnceLock<HashMap<String, Arc<ScalarUDF>>> = OnceLock::new();
    FUNCTIONS.get_or_init(|| {
        let mut functions = HashMap::new();
        for function in SessionStateDefaults::default_scalar_functions() {
            for alias in function.aliases() {
                functions.insert(alias.clone(), function.clone());
            }
            functions.insert(function.name().to_owned(), function);
        }
        functions
    })
}

fn binary(op: Operator, left: Physical, right: Physical) -> Physical {
    Arc::new(expressions::BinaryExpr::new(left, op, right).with_fail_on_overflow(true))
}

fn unary(op: UnaryOperator, expr: Physical, schema: &Schema) -> Result<Physical> {
    let compared = |op, value: bool| Ok(binary(op, expr.clone(), expressions::lit(value)));
    match op {
        UnaryOperator::Not => expressions::not(expr),
        UnaryOperator::Negative => {
            let data_type = expr.data_type(schema)?;
            if data_type.is_signed_integer() {
                // The kernel for negation wraps at the smallest integer; this does not.
                let zero = expressions::lit(ScalarValue::new_zero(&data_type)?);
                return Ok(binary(Operator::Minus, zero, expr));
            }
            expressions::negative(expr, schema)
        }
        UnaryOperator::IsNull => expressions::is_null(expr),
        UnaryOperator::IsNotNull => expressions::is_not_null(expr),
        UnaryOperator::IsTrue => compared(Operator::IsNotDistinctFrom, true),
        UnaryOperator::IsNotTrue => compared(Operator::IsDistinctFrom, true),
        UnaryOperator::IsFalse => compared(Operator::IsNotDistinctFrom, false),
        UnaryOperator::IsNotFalse => compared(Operator::IsDistinctFrom, false),
    }
}

/// Whether evaluating an expression can be an error, to the best of our knowledge.
fn can_fail(expr: &Expr) -> bool {
    expr.any(|part| match part {
        Expr::Cast { or_null, .. } => !or_null,
        Expr::Call { .. } => true,
        Expr::Unary { op, .. } => *op == UnaryOperator::Negative,
        Expr::Binary { op, .. } => matches!(
            op,
            BinaryOperator::Add
                | BinaryOperator::Subtract
                | BinaryOperator::Multiply
                | BinaryOperator::Divide
                | BinaryOperator::Modulo
                | BinaryOperator::RegexMatch
                | BinaryOperator::RegexMatchCaseInsensitive
                | BinaryOperator::RegexNotMatch
                | BinaryOperator::RegexNotMatchCaseInsensitive
        ),
        _ => false,
    })
}

fn literal(scalar: &Scalar) -> Result<ScalarValue> {
    let Some(text) = &scalar.value else {
        return ScalarValue::try_from(&scalar.scalar_type.0);
    };
    let data_type = &scalar.scalar_type.0;
    let value = if let DataType::Interval(_) = data_type {
        interval(text)
            .ok_or_else(|| DataFusionError::Plan(format!("\"{text}\" is not an interval")))?
    } else {
        ScalarValue::Utf8(Some(text.clone()))
    };
    value.cast_to(data_type)
}

fn interval(text: &str) -> Option<ScalarValue> {
    let mut parts = text.split(' ');
    let value = IntervalMonthDayNano::new(
        parts.next()?.parse().ok()?,
        parts.next()?.parse().ok()?,
        parts.next()?.parse().ok()?,
    );
    parts.next().is_none().then_some(ScalarValue::IntervalMonthDayNano(Some(value)))
}

fn operator(op: BinaryOperator) -> Operator {
    match op {
        BinaryOperator::Equal => Operator::Eq,
        BinaryOperator::NotEqual => Operator::NotEq,
        BinaryOperator::Less => Operator::Lt,
        BinaryOperator::LessOrEqual => Operator::LtEq,
        BinaryOperator::Greater => Operator::Gt,
        BinaryOperator::GreaterOrEqual => Operator::GtEq,
        BinaryOperator::IsDistinctFrom => Operator::IsDistinctFrom,
        BinaryOperator::IsNotDistinctFrom => Operator::IsNotDistinctFrom,
        BinaryOperator::And => Operator::And,
        BinaryOperator::Or => Operator::Or,
        BinaryOperator::Add => Operator::Plus,
        BinaryOperator::Subtract => Operator::Minus,
        BinaryOperator::Multiply => Operator::Multiply,
        BinaryOperator::Divide => Operator::Divide,
        BinaryOperator::Modulo => Operator::Modulo,
        BinaryOperator::Concat => Operator::StringConcat,
        BinaryOperator::BitAnd => Operator::BitwiseAnd,
        BinaryOperator::BitOr => Operator::BitwiseOr,
        BinaryOperator::BitXor => Operator::BitwiseXor,
        BinaryOperator::ShiftLeft => Operator::BitwiseShiftLeft,
        BinaryOperator::ShiftRight => Operator::BitwiseShiftRight,
        BinaryOperator::RegexMatch => Operator::RegexMatch,
        BinaryOperator::RegexMatchCaseInsensitive => Operator::RegexIMatch,
        BinaryOperator::RegexNotMatch => Operator::RegexNotMatch,
        BinaryOperator::RegexNotMatchCaseInsensitive => Operator::RegexNotIMatch,
    }
}

/// `AND` and `OR` that look at the right side only where the left one does not decide. Each side
/// is evaluated once: a chain of them costs as much as its parts.
#[derive(Debug, Clone, Eq)]
struct Guarded {
    or: bool,
    left: Physical,
    right: Physical,
}

// Deriving equality would move the sides out.
impl PartialEq for Guarded {
    fn eq(&self, other: &Self) -> bool {
        self.or == other.or && self.left.eq(&other.left) && self.right.eq(&other.right)
    }
}

impl std::hash::Hash for Guarded {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (self.or, &self.left, &self.right).hash(state);
    }
}

impl fmt::Display for Guarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.left, if self.or { "OR" } else { "AND" }, self.right)
    }
}

impl PhysicalExpr for Guarded {
    fn data_type(&self, _: &Schema) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn nullable(&self, schema: &Schema) -> Result<bool> {
        Ok(self.left.nullable(schema)? || self.right.nullable(schema)?)
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        let array = |value: ColumnarValue| value.into_array(batch.num_rows());
        let left = array(self.left.evaluate(batch)?)?;
        let left = as_boolean_array(&left)?;
        let open: BooleanArray = left.iter().map(|side| Some(side != Some(self.or))).collect();
        if !open.has_true() {
            return Ok(ColumnarValue::Array(Arc::new(left.clone())));
        }
        // Rows that are decided get a null from the right, which does not change them.
        let right = array(self.right.evaluate_selection(batch, &open)?)?;
        let right = as_boolean_array(&right)?;
        let both = if self.or { or_kleene(left, right)? } else { and_kleene(left, right)? };
        Ok(ColumnarValue::Array(Arc::new(both)))
    }

    fn children(&self) -> Vec<&Physical> {
        vec![&self.left, &self.right]
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Physical>) -> Result<Physical> {
        let [left, right] = <[Physical; 2]>::try_from(children)
            .map_err(|_| DataFusionError::Internal("AND and OR have two sides".to_owned()))?;
        Ok(Arc::new(Self { or: self.or, left, right }))
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A literal whose value is the epoch's time.
#[derive(Debug, Clone)]
struct Now(Clock);

impl fmt::Display for Now {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("now()")
    }
}

impl PartialEq for Now {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0.0, &other.0.0)
    }
}

impl Eq for Now {}

impl std::hash::Hash for Now {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.0.0).hash(state);
    }
}

impl PhysicalExpr for Now {
    fn data_type(&self, _: &Schema) -> Result<DataType> {
        Ok(DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())))
    }

    fn nullable(&self, _: &Schema) -> Result<bool> {
        Ok(false)
    }

    fn evaluate(&self, _: &RecordBatch) -> Result<ColumnarValue> {
        let now = self.0.0.load(Ordering::Relaxed);
        let value = ScalarValue::TimestampMillisecond(Some(now), Some("UTC".into()));
        Ok(ColumnarValue::Scalar(value))
    }

    fn children(&self) -> Vec<&Physical> {
        Vec::new()
    }

    fn with_new_children(self: Arc<Self>, _: Vec<Physical>) -> Result<Physical> {
        Ok(self)
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("now()")
    }
}
