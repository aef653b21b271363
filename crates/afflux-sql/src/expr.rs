//! Expressions of DataFusion to expressions of plans: columns by position, casts explicit,
//! functions by their canonical names.

use afflux_plan::{BinaryOperator, ColumnType, Expr, Scalar, UnaryOperator};
use arrow::{
    array::Array,
    compute::{CastOptions, cast_with_options},
    datatypes::{DataType, IntervalUnit, TimeUnit},
};
use datafusion::{
    common::{Column, DFSchema, ScalarValue},
    logical_expr::{self as df, ExprSchemable, Operator, Volatility},
};

use crate::{SqlError, error::sqlstate, planner::from_datafusion};

/// Lowers an expression over the columns of `schema`, which are the first of the operator below.
pub(crate) fn lower(expr: &df::Expr, schema: &DFSchema) -> Result<Expr, SqlError> {
    let one = |expr: &df::Expr| lower(expr, schema).map(Box::new);
    let unary = |op, expr: &df::Expr| Ok(Expr::Unary { op, expr: one(expr)? });
    match expr {
        df::Expr::Alias(alias) => lower(&alias.expr, schema),
        df::Expr::Column(column) => position(column, schema).map(Expr::Column),
        df::Expr::Literal(value, _) => literal(value),
        df::Expr::BinaryExpr(binary) => self::binary(binary, schema),
        df::Expr::Like(like) => match like.escape_char {
            None | Some('\\') => Ok(Expr::Like {
                expr: one(&like.expr)?,
                pattern: one(&like.pattern)?,
                negated: like.negated,
                case_insensitive: like.case_insensitive,
            }),
            Some(_) => Err(SqlError::unsupported("LIKE … ESCAPE takes only a backslash")),
        },
        df::Expr::Not(expr) => unary(UnaryOperator::Not, expr),
        df::Expr::Negative(expr) => unary(UnaryOperator::Negative, expr),
        df::Expr::IsNull(expr) | df::Expr::IsUnknown(expr) => unary(UnaryOperator::IsNull, expr),
        df::Expr::IsNotNull(expr) | df::Expr::IsNotUnknown(expr) => {
            unary(UnaryOperator::IsNotNull, expr)
        }
        df::Expr::IsTrue(expr) => unary(UnaryOperator::IsTrue, expr),
        df::Expr::IsNotTrue(expr) => unary(UnaryOperator::IsNotTrue, expr),
        df::Expr::IsFalse(expr) => unary(UnaryOperator::IsFalse, expr),
        df::Expr::IsNotFalse(expr) => unary(UnaryOperator::IsNotFalse, expr),
        df::Expr::Between(between) => self::between(between, schema),
        df::Expr::Case(case) => {
            let branches = case
                .when_then_expr
                .iter()
                .map(|(when, then)| Ok((lower(when, schema)?, lower(then, schema)?)))
                .collect::<Result<_, SqlError>>()?;
            Ok(Expr::Case {
                operand: case.expr.as_deref().map(one).transpose()?,
                branches,
                otherwise: case.else_expr.as_deref().map(one).transpose()?,
            })
        }
        df::Expr::Cast(cast) => {
            Ok(self::cast(lower(&cast.expr, schema)?, cast.field.data_type(), false))
        }
        df::Expr::TryCast(cast) => {
            Ok(self::cast(lower(&cast.expr, schema)?, cast.field.data_type(), true))
        }
        df::Expr::InList(list) => Ok(Expr::InList {
            expr: one(&list.expr)?,
            list: list.list.iter().map(|item| lower(item, schema)).collect::<Result<_, _>>()?,
            negated: list.negated,
        }),
        df::Expr::ScalarFunction(call) => self::call(call, expr, schema),
        other => Err(refused(other)),
    }
}

/// A conversion, as the plan writes it.
pub(crate) fn cast(expr: Expr, to: &DataType, or_null: bool) -> Expr {
    Expr::Cast { expr: Box::new(expr), to: ColumnType(to.clone()), or_null }
}

/// The constant `true`.
pub(crate) fn truth() -> Expr {
    Expr::Literal(Scalar {
        scalar_type: ColumnType(DataType::Boolean),
        value: Some("true".to_owned()),
    })
}

/// An interval of some milliseconds.
pub(crate) fn interval(millis: i64) -> Expr {
    Expr::Literal(Scalar {
        scalar_type: ColumnType(DataType::Interval(IntervalUnit::MonthDayNano)),
        value: Some(format!("0 0 {}", i128::from(millis) * 1_000_000)),
    })
}

/// Whether the value depends on when it is computed.
pub(crate) fn has_now(expr: &Expr) -> bool {
    expr.any(|part| matches!(part, Expr::Now))
}

/// Counts how often each column is used.
pub(crate) fn count_columns(expr: &Expr, uses: &mut [usize]) {
    expr.visit(&mut |part| {
        if let Expr::Column(column) = part {
            uses[*column] += 1;
        }
    });
}

/// The expression with each column replaced.
pub(crate) fn replace_columns(expr: &Expr, with: &impl Fn(usize) -> Expr) -> Expr {
    let one = |expr: &Expr| Box::new(replace_columns(expr, with));
    let all = |exprs: &[Expr]| exprs.iter().map(|expr| replace_columns(expr, with)).collect();
    match expr {
        Expr::Column(column) => with(*column),
        Expr::Literal(_) | Expr::Now => expr.clone(),
        Expr::Cast { expr, to, or_null } => {
            Expr::Cast { expr: one(expr), to: to.clone(), or_null: *or_null }
        }
        Expr::Unary { op, expr } => Expr::Unary { op: *op, expr: one(expr) },
        Expr::Binary { op, left, right } => {
            Expr::Binary { op: *op, left: one(left), right: one(right) }
        }
        Expr::Like { expr, pattern, negated, case_insensitive } => Expr::Like {
            expr: one(expr),
            pattern: one(pattern),
            negated: *negated,
            case_insensitive: *case_insensitive,
        },
        Expr::InList { expr, list, negated } => {
            Expr::InList { expr: one(expr), list: all(list), negated: *negated }
        }
        Expr::Case { operand, branches, otherwise } => Expr::Case {
            operand: operand.as_deref().map(one),
            branches: branches.iter().map(|(when, then)| (*one(when), *one(then))).collect(),
            otherwise: otherwise.as_deref().map(one),
        },
        Expr::Call { function, arguments, returns, nullable } => Expr::Call {
            function: function.clone(),
            arguments: all(arguments),
            returns: returns.clone(),
            nullable: *nullable,
        },
    }
}

fn position(column: &Column, schema: &DFSchema) -> Result<usize, SqlError> {
    schema.index_of_column(column).map_err(|error| from_datafusion(&error))
}

fn between(between: &df::Between, schema: &DFSchema) -> Result<Expr, SqlError> {
    let compare = |op, bound: &df::Expr| -> Result<Box<Expr>, SqlError> {
        let (left, right) = (lower(&between.expr, schema)?, lower(bound, schema)?);
        Ok(Box::new(Expr::Binary { op, left: Box::new(left), right: Box::new(right) }))
    };
    Ok(if between.negated {
        Expr::Binary {
            op: BinaryOperator::Or,
            left: compare(BinaryOperator::Less, &between.low)?,
            right: compare(BinaryOperator::Greater, &between.high)?,
        }
    } else {
        Expr::Binary {
            op: BinaryOperator::And,
            left: compare(BinaryOperator::GreaterOrEqual, &between.low)?,
            right: compare(BinaryOperator::LessOrEqual, &between.high)?,
        }
    })
}

fn binary(binary: &df::BinaryExpr, schema: &DFSchema) -> Result<Expr, SqlError> {
    use BinaryOperator as Op;
    let left = || lower(&binary.left, schema).map(Box::new);
    let right = || lower(&binary.right, schema).map(Box::new);
    let like = |negated, case_insensitive| {
        Ok(Expr::Like { expr: left()?, pattern: right()?, negated, case_insensitive })
    };
    let op = match binary.op {
        Operator::Eq => Op::Equal,
        Operator::NotEq => Op::NotEqual,
        Operator::Lt => Op::Less,
        Operator::LtEq => Op::LessOrEqual,
        Operator::Gt => Op::Greater,
        Operator::GtEq => Op::GreaterOrEqual,
        Operator::Plus => Op::Add,
        Operator::Minus => Op::Subtract,
        Operator::Multiply => Op::Multiply,
        Operator::Divide => Op::Divide,
        Operator::Modulo => Op::Modulo,
        Operator::And => Op::And,
        Operator::Or => Op::Or,
        Operator::IsDistinctFrom => Op::IsDistinctFrom,
        Operator::IsNotDistinctFrom => Op::IsNotDistinctFrom,
        Operator::RegexMatch => Op::RegexMatch,
        Operator::RegexIMatch => Op::RegexMatchCaseInsensitive,
        Operator::RegexNotMatch => Op::RegexNotMatch,
        Operator::RegexNotIMatch => Op::RegexNotMatchCaseInsensitive,
        Operator::LikeMatch => return like(false, false),
        Operator::ILikeMatch => return like(false, true),
        Operator::NotLikeMatch => return like(true, false),
        Operator::NotILikeMatch => return like(true, true),
        Operator::BitwiseAnd => Op::BitAnd,
        Operator::BitwiseOr => Op::BitOr,
        Operator::BitwiseXor => Op::BitXor,
        Operator::BitwiseShiftLeft => Op::ShiftLeft,
        Operator::BitwiseShiftRight => Op::ShiftRight,
        Operator::StringConcat => Op::Concat,
        other => {
            return Err(SqlError::unsupported(format!("the operator {other} is not there")));
        }
    };
    Ok(Expr::Binary { op, left: left()?, right: right()? })
}

fn call(
    call: &df::expr::ScalarFunction,
    expr: &df::Expr,
    schema: &DFSchema,
) -> Result<Expr, SqlError> {
    let name = call.func.name();
    let (_, field) = expr.to_field(schema).map_err(|error| from_datafusion(&error))?;
    let returns = field.data_type().clone();
    match (name, call.func.signature().volatility) {
        ("now", _) => return Ok(cast(Expr::Now, &returns, false)),
        ("current_date", _) => return Ok(cast(Expr::Now, &DataType::Date32, false)),
        ("current_time", _) => {
            let nanos = cast(Expr::Now, &DataType::Timestamp(TimeUnit::Nanosecond, None), false);
            return Ok(cast(nanos, &returns, false));
        }
        (_, Volatility::Immutable) => {}
        (_, Volatility::Stable) => {
            return Err(SqlError::unsupported(format!(
                "{name}() depends on the session and can not be in a view"
            ))
            .with_hint("now(), current_date and current_time are taken from the epoch"));
        }
        (_, Volatility::Volatile) => {
            return Err(SqlError::unsupported(format!(
                "{name}() is volatile and can not be in a view"
            ))
            .with_hint("a view has to give the same answer when it is computed again"));
        }
    }
    let arguments =
        call.args.iter().map(|argument| lower(argument, schema)).collect::<Result<_, _>>()?;
    Ok(Expr::Call {
        function: name.to_owned(),
        arguments,
        returns: ColumnType(returns),
        nullable: field.is_nullable(),
    })
}

/// A constant. Its text has to give the same value back, else it is written as a cast of one
/// that does.
fn literal(value: &ScalarValue) -> Result<Expr, SqlError> {
    let data_type = value.data_type();
    let scalar = |data_type: DataType, value: Option<String>| {
        Expr::Literal(Scalar { scalar_type: ColumnType(data_type), value })
    };
    if value.is_null() {
        return Ok(scalar(data_type, None));
    }
    let months_days_nanos = match value {
        ScalarValue::IntervalMonthDayNano(Some(v)) => Some((v.months, v.days, v.nanoseconds)),
        ScalarValue::IntervalDayTime(Some(v)) => {
            Some((0, v.days, i64::from(v.milliseconds) * 1_000_000))
        }
        ScalarValue::IntervalYearMonth(Some(months)) => Some((*months, 0, 0)),
        _ => None,
    };
    if let Some((months, days, nanos)) = months_days_nanos {
        let interval = DataType::Interval(IntervalUnit::MonthDayNano);
        let literal = scalar(interval.clone(), Some(format!("{months} {days} {nanos}")));
        return Ok(if data_type == interval { literal } else { cast(literal, &data_type, false) });
    }
    if let ScalarValue::Binary(Some(bytes)) = value
        && std::str::from_utf8(bytes).is_err()
    {
        // Text can not hold these bytes.
        let digit = |nibble: u8| char::from_digit(nibble.into(), 16).unwrap_or('0');
        let hex =
            bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect::<String>();
        let text = |text: &str| scalar(DataType::Utf8, Some(text.to_owned()));
        return Ok(Expr::Call {
            function: "decode".to_owned(),
            arguments: vec![text(&hex), text("hex")],
            returns: ColumnType(DataType::Binary),
            nullable: false,
        });
    }
    let array = value.to_array().map_err(|error| from_datafusion(&error))?;
    let strict = CastOptions { safe: false, ..CastOptions::default() };
    let text_of = |array: &dyn Array| -> Option<String> {
        let text = cast_with_options(array, &DataType::Utf8, &strict).ok()?;
        let text: &arrow::array::StringArray = text.as_any().downcast_ref()?;
        (!text.is_null(0)).then(|| text.value(0).to_owned())
    };
    let gives_back = |text: &str| {
        let text = arrow::array::StringArray::from(vec![text]);
        cast_with_options(&text, &data_type, &strict)
            .is_ok_and(|back| back.to_data() == array.to_data())
    };
    if let Some(text) = text_of(&array)
        && gives_back(&text)
    {
        return Ok(scalar(data_type, Some(text)));
    }
    let number = cast_with_options(&array, &DataType::Int64, &strict).ok();
    match number.as_deref().and_then(text_of) {
        Some(text) => Ok(cast(scalar(DataType::Int64, Some(text)), &data_type, false)),
        None => Err(SqlError::unsupported(format!("the constant {value} can not be kept"))),
    }
}

/// The error about an expression that no plan has.
pub(crate) fn refused(expr: &df::Expr) -> SqlError {
    let error = |message: &str| SqlError::unsupported(message);
    match expr {
        df::Expr::ScalarSubquery(_)
        | df::Expr::InSubquery(_)
        | df::Expr::Exists(_)
        | df::Expr::SetComparison(_)
        | df::Expr::OuterReferenceColumn(..) => {
            error("a view can not have subqueries in expressions yet")
                .with_hint("join with the table, or make the subquery a view of its own")
        }
        df::Expr::WindowFunction(_) => error("a view can not have window functions yet")
            .with_hint("group by the windows of TUMBLE"),
        df::Expr::Placeholder(_) => {
            SqlError::invalid(sqlstate::UNDEFINED_OBJECT, "a view can not have parameters")
                .with_hint("write the value")
        }
        df::Expr::GroupingSet(_) => {
            error("GROUPING SETS, CUBE and ROLLUP are not there yet").with_hint("use UNION ALL")
        }
        df::Expr::SimilarTo(_) => error("SIMILAR TO is not there").with_hint("use ~ or LIKE"),
        df::Expr::Unnest(_) => error("a view can not have UNNEST yet"),
        df::Expr::AggregateFunction(call) => {
            error(&format!("{}() can not be here", call.func.name()))
        }
        other => error(&format!("{other} can not be in a view")),
    }
}
