//! The catalogue's functions. They see their arguments as text, a row at a time: catalogue
//! queries are small.

use std::{
    hash::{Hash, Hasher},
    sync::Arc,
};

use arrow::{
    array::{Array, ArrayRef, AsArray, BooleanArray, Int32Array, StringArray},
    compute::cast,
    datatypes::DataType,
};
use datafusion::{
    error::Result,
    logical_expr::{
        ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature,
        Volatility,
    },
};

use super::{FIRST_OID, OWNER, Snapshot, oid_of, rows::Cell, types};
use crate::read::settings::SERVER_VERSION;

type Body = fn(&Snapshot, &[Option<&str>]) -> Option<Cell>;

/// Names by which a query shows that it needs the catalogue, beside `pg_…`.
pub(super) const NAMES: &[&str] = &[
    "array_to_string",
    "col_description",
    "current_",
    "format_type",
    "has_",
    "obj_description",
    "quote_ident",
    "session_user",
    "version",
];

/// All functions, over one snapshot.
pub(super) fn all(snapshot: &Arc<Snapshot>) -> Vec<ScalarUDF> {
    let mut functions = Vec::new();
    let mut add = |name: &'static str, returns: DataType, body: Body| {
        let snapshot = Arc::clone(snapshot);
        let signature = Signature::one_of(
            vec![TypeSignature::Nullary, TypeSignature::VariadicAny],
            Volatility::Stable,
        );
        functions.push(ScalarUDF::new_from_impl(Function {
            name,
            returns,
            body,
            snapshot,
            signature,
        }));
    };
    for name in ["current_user", "session_user", "current_role", "user"] {
        add(name, DataType::Utf8, |snapshot, _| Some(snapshot.identity.user.as_str().into()));
    }
    for name in ["current_database", "current_catalog"] {
        add(name, DataType::Utf8, |snapshot, _| Some(snapshot.identity.database.as_str().into()));
    }
    for name in [
        "pg_table_is_visible",
        "pg_type_is_visible",
        "pg_function_is_visible",
        "has_table_privilege",
        "has_schema_privilege",
        "has_database_privilege",
        "has_column_privilege",
    ] {
        add(name, DataType::Boolean, |_, _| Some(true.into()));
    }
    for name in ["pg_relation_is_publishable", "pg_is_in_recovery", "pg_is_other_temp_schema"] {
        add(name, DataType::Boolean, |_, _| Some(false.into()));
    }
    for name in [
        "array_to_string",
        "col_description",
        "obj_description",
        "shobj_description",
        "pg_get_constraintdef",
        "pg_get_expr",
        "pg_get_indexdef",
        "pg_get_partkeydef",
        "pg_get_statisticsobjdef_columns",
        "pg_size_pretty",
    ] {
        add(name, DataType::Utf8, |_, _| None);
    }
    for name in ["pg_table_size", "pg_relation_size", "pg_total_relation_size", "pg_my_temp_schema"]
    {
        add(name, DataType::Int32, |_, _| None);
    }
    add("current_schema", DataType::Utf8, |_, _| Some("public".into()));
    add("current_schemas", DataType::Utf8, |_, _| Some("{pg_catalog,public}".into()));
    add("version", DataType::Utf8, |_, _| Some(format!("PostgreSQL {SERVER_VERSION}").into()));
    add("pg_get_userbyid", DataType::Utf8, |_, _| Some(OWNER.into()));
    add("pg_encoding_to_char", DataType::Utf8, |_, _| Some("UTF8".into()));
    add("format_type", DataType::Utf8, format_type);
    add("pg_get_viewdef", DataType::Utf8, view_definition);
    add("quote_ident", DataType::Utf8, |_, args| Some(quoted(args.first().copied()??).into()));
    add("to_regclass", DataType::Int32, relation_oid);
    add("afflux_relation_name", DataType::Utf8, relation_name);
    add("to_regtype", DataType::Int32, |_, args| {
        types::find(args.first().copied()??).map(Cell::from)
    });
    functions
}

fn format_type(_: &Snapshot, args: &[Option<&str>]) -> Option<Cell> {
    let oid = args.first().copied()??.parse().ok()?;
    let modifier = args.get(1).copied().flatten().and_then(|text| text.parse().ok());
    Some(types::format(oid, modifier).into())
}

fn view_definition(snapshot: &Snapshot, args: &[Option<&str>]) -> Option<Cell> {
    let oid: i32 = args.first().copied()??.parse().ok()?;
    let object = snapshot.objects.iter().find(|object| oid_of(object) == oid)?;
    Some(object.sql.as_str().into())
}

/// `'name'::regclass`: a number, as text or in digits.
fn relation_oid(snapshot: &Snapshot, args: &[Option<&str>]) -> Option<Cell> {
    let name = args.first().copied()??;
    if let Ok(oid) = name.parse::<i32>() {
        return Some(oid.into());
    }
    let name = name.strip_prefix("public.").unwrap_or(name);
    let name = match name.strip_prefix('"').and_then(|name| name.strip_suffix('"')) {
        Some(quoted) => quoted.replace("\"\"", "\""),
        None => name.to_lowercase(),
    };
    let object = snapshot.objects.iter().find(|object| object.name == name)?;
    Some(oid_of(object).into())
}

/// `oid::regclass`, as it is shown.
fn relation_name(snapshot: &Snapshot, args: &[Option<&str>]) -> Option<Cell> {
    let text = args.first().copied()??;
    let oid: i32 = text.parse().ok()?;
    if oid < FIRST_OID {
        return Some(if oid == 0 { "-".to_owned() } else { text.to_owned() }.into());
    }
    let object = snapshot.objects.iter().find(|object| oid_of(object) == oid);
    Some(object.map_or_else(|| text.to_owned(), |object| quoted(&object.name)).into())
}

fn quoted(name: &str) -> String {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let starts_plain = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
    if starts_plain && name.chars().all(plain) {
        name.to_owned()
    } else {
        format!("\"{}\"", name.replace('"', "\"\""))
    }
}

#[derive(Debug)]
struct Function {
    name: &'static str,
    returns: DataType,
    body: Body,
    snapshot: Arc<Snapshot>,
    signature: Signature,
}

// Within one query there is one function of a name, over one snapshot.
impl PartialEq for Function {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Function {}

impl Hash for Function {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl ScalarUDFImpl for Function {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.returns.clone())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let columns = args
            .args
            .iter()
            .map(|arg| Ok(cast(&arg.to_array(args.number_rows)?, &DataType::Utf8)?))
            .collect::<Result<Vec<ArrayRef>>>()?;
        let columns: Vec<&StringArray> = columns.iter().map(AsArray::as_string).collect();
        let cells = (0..args.number_rows).map(|row| {
            let values: Vec<_> =
                columns.iter().map(|c| c.is_valid(row).then(|| c.value(row))).collect();
            (self.body)(&self.snapshot, &values)
        });
        let array: ArrayRef = match self.returns {
            DataType::Boolean => Arc::new(
                cells
                    .map(|cell| match cell {
                        Some(Cell::Flag(value)) => Some(value),
                        _ => None,
                    })
                    .collect::<BooleanArray>(),
            ),
            DataType::Int32 => Arc::new(
                cells
                    .map(|cell| match cell {
                        Some(Cell::Number(value)) => Some(value),
                        _ => None,
                    })
                    .collect::<Int32Array>(),
            ),
            _ => Arc::new(
                cells
                    .map(|cell| match cell {
                        Some(Cell::Text(value)) => Some(value),
                        _ => None,
                    })
                    .collect::<StringArray>(),
            ),
        };
        Ok(ColumnarValue::Array(array))
    }
}
