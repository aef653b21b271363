//! Column types: Arrow's, written as Arrow's own text.

use std::{fmt, str::FromStr};

use arrow::datatypes::{DataType, Field, Schema};
use serde::{Deserialize, Serialize};

/// An Arrow type. Encoded as Arrow's text for it, such as `Int64` or
/// `Timestamp(ms, "UTC")`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ColumnType(pub DataType);

/// Text that names no Arrow type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a column type")]
pub struct UnknownType(String);

impl TryFrom<String> for ColumnType {
    type Error = UnknownType;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        DataType::from_str(&text).map(Self).map_err(|_| UnknownType(text))
    }
}

impl From<ColumnType> for String {
    fn from(column_type: ColumnType) -> Self {
        column_type.0.to_string()
    }
}

impl fmt::Display for ColumnType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A named, typed column.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Column {
    /// Its name; may repeat within intermediate operators, never in a source or view.
    pub name: String,
    /// Its type.
    #[serde(rename = "type")]
    pub column_type: ColumnType,
    /// Whether it can be null.
    pub nullable: bool,
}

impl Column {
    /// A column of an Arrow type.
    pub fn new(name: impl Into<String>, data_type: DataType, nullable: bool) -> Self {
        Self { name: name.into(), column_type: ColumnType(data_type), nullable }
    }

    /// The Arrow schema of some columns.
    pub fn schema(columns: &[Self]) -> Schema {
        Schema::new(
            columns
                .iter()
                .map(|c| Field::new(&c.name, c.column_type.0.clone(), c.nullable))
                .collect::<Vec<_>>(),
        )
    }

    /// The columns of an Arrow schema.
    pub fn of_schema(schema: &Schema) -> Vec<Self> {
        schema
            .fields()
            .iter()
            .map(|f| Self::new(f.name(), f.data_type().clone(), f.is_nullable()))
            .collect()
    }
}
