//! Scalar expressions over the columns of one batch.

use serde::{Deserialize, Serialize};

use crate::ColumnType;

/// A scalar expression. Types are resolved: operands of a binary operator have types that its
/// Arrow kernel takes, with every coercion an explicit [`Expr::Cast`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Expr {
    /// A column of the input, by position.
    Column(usize),
    /// A constant.
    Literal(Scalar),
    /// When the epoch was committed: `now()`. `Timestamp(ms, "UTC")`.
    Now,
    /// Conversion to another type.
    Cast {
        /// What is converted.
        expr: Box<Self>,
        /// To which type.
        to: ColumnType,
        /// Whether what does not convert becomes null (`TRY_CAST`) instead of an error.
        or_null: bool,
    },
    /// One operand.
    Unary {
        /// What is done to it.
        op: UnaryOperator,
        /// The operand.
        expr: Box<Self>,
    },
    /// Two operands.
    Binary {
        /// What joins them.
        op: BinaryOperator,
        /// The left operand.
        left: Box<Self>,
        /// The right operand.
        right: Box<Self>,
    },
    /// `LIKE` and `ILIKE`.
    Like {
        /// The text.
        expr: Box<Self>,
        /// The pattern.
        pattern: Box<Self>,
        /// `NOT LIKE`.
        negated: bool,
        /// `ILIKE`.
        case_insensitive: bool,
    },
    /// `IN (…)`.
    InList {
        /// What is looked for.
        expr: Box<Self>,
        /// Where.
        list: Vec<Self>,
        /// `NOT IN`.
        negated: bool,
    },
    /// `CASE`.
    Case {
        /// `CASE operand WHEN …`; none for `CASE WHEN condition …`.
        operand: Option<Box<Self>>,
        /// `WHEN … THEN …`.
        branches: Vec<(Self, Self)>,
        /// `ELSE …`.
        otherwise: Option<Box<Self>>,
    },
    /// A scalar function, by its name in the function registry.
    Call {
        /// Its canonical name, lower case.
        function: String,
        /// Its arguments.
        arguments: Vec<Self>,
        /// What it returns.
        returns: ColumnType,
        /// Whether the result can be null.
        nullable: bool,
    },
}

impl Expr {
    /// Whether a test holds for the expression or anything in it.
    pub fn any(&self, test: impl Fn(&Self) -> bool) -> bool {
        let mut found = false;
        self.visit(&mut |part| found |= test(part));
        found
    }

    /// Shows the expression and everything in it, outermost first.
    pub fn visit(&self, see: &mut impl FnMut(&Self)) {
        see(self);
        match self {
            Self::Column(_) | Self::Literal(_) | Self::Now => {}
            Self::Cast { expr, .. } | Self::Unary { expr, .. } => expr.visit(see),
            Self::Binary { left, right, .. } => {
                left.visit(see);
                right.visit(see);
            }
            Self::Like { expr, pattern, .. } => {
                expr.visit(see);
                pattern.visit(see);
            }
            Self::InList { expr, list, .. } => {
                expr.visit(see);
                for item in list {
                    item.visit(see);
                }
            }
            Self::Case { operand, branches, otherwise } => {
                if let Some(operand) = operand {
                    operand.visit(see);
                }
                for (when, then) in branches {
                    when.visit(see);
                    then.visit(see);
                }
                if let Some(otherwise) = otherwise {
                    otherwise.visit(see);
                }
            }
            Self::Call { arguments, .. } => {
                for argument in arguments {
                    argument.visit(see);
                }
            }
        }
    }
}

/// A constant: its type, and its value as text that Arrow casts to that type. Intervals, which
/// have no such text, are `months days nanoseconds`. `None` is null.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Scalar {
    /// The type.
    #[serde(rename = "type")]
    pub scalar_type: ColumnType,
    /// The value's text.
    pub value: Option<String>,
}

/// Operators with one operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the names are SQL's")]
pub enum UnaryOperator {
    Not,
    Negative,
    IsNull,
    IsNotNull,
    IsTrue,
    IsNotTrue,
    IsFalse,
    IsNotFalse,
}

/// Operators with two operands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the names are SQL's")]
pub enum BinaryOperator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    IsDistinctFrom,
    IsNotDistinctFrom,
    And,
    Or,
    Add,
    Subtract,
    Multiply,
    Divide,
    Modulo,
    Concat,
    BitAnd,
    BitOr,
    BitXor,
    ShiftLeft,
    ShiftRight,
    RegexMatch,
    RegexMatchCaseInsensitive,
    RegexNotMatch,
    RegexNotMatchCaseInsensitive,
}
