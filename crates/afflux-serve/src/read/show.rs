//! `SHOW`, `DESCRIBE` and `EXPLAIN`: small tables of text.

use std::sync::Arc;

use afflux_catalog::{Catalog, Object, ObjectKind};
use afflux_plan::{OperatorKind, Plan};
use afflux_types::ErrorKind;
use arrow::{
    array::{ArrayRef, Int64Array, StringArray},
    datatypes::{DataType, Field, Schema, SchemaRef},
    record_batch::RecordBatch,
};
use futures::{StreamExt, stream};

use super::{session::Answer, settings::Settings};
use crate::{QueryError, node::PipelineState};

/// Columns of text or numbers, whole in memory.
pub(crate) struct Table(RecordBatch);

enum Column {
    Text(&'static str, Vec<Option<String>>),
    Number(&'static str, Vec<i64>),
}

impl Table {
    fn new(columns: Vec<Column>) -> Self {
        let (fields, arrays): (Vec<_>, Vec<ArrayRef>) = columns
            .into_iter()
            .map(|column| match column {
                Column::Text(name, values) => (
                    Field::new(name, DataType::Utf8, true),
                    Arc::new(StringArray::from(values)) as ArrayRef,
                ),
                Column::Number(name, values) => (
                    Field::new(name, DataType::Int64, false),
                    Arc::new(Int64Array::from(values)) as ArrayRef,
                ),
            })
            .unzip();
        let schema = Arc::new(Schema::new(fields));
        Self(RecordBatch::try_new(schema, arrays).expect("columns of one length"))
    }

    pub(crate) fn schema(&self) -> SchemaRef {
        self.0.schema()
    }

    pub(crate) fn answer(self, tag: &'static str) -> Answer {
        let schema = self.0.schema();
        Answer::Rows { schema, batches: stream::iter([Ok(self.0)]).boxed(), tag }
    }
}

fn text<T>(name: &'static str, of: &[T], value: impl Fn(&T) -> String) -> Column {
    Column::Text(name, of.iter().map(|item| Some(value(item))).collect())
}

/// The object of a name.
pub(super) fn find<'a>(catalog: &'a Catalog, name: &str) -> Result<&'a Object, QueryError> {
    catalog.find(name).map(AsRef::as_ref).ok_or_else(|| {
        QueryError::new(ErrorKind::NotFound, format!("there is no \"{name}\""))
            .with_hint("SHOW SOURCES, SHOW TABLES and SHOW VIEWS list what there is")
    })
}

pub(super) fn sources(catalog: &Catalog) -> Table {
    let sources: Vec<_> = catalog
        .objects()
        .filter_map(|object| match &object.kind {
            ObjectKind::Source(source) => Some((object, source)),
            _ => None,
        })
        .collect();
    Table::new(vec![
        text("name", &sources, |(object, _)| object.name.clone()),
        text("topic", &sources, |(_, source)| source.topic.to_string()),
        text("format", &sources, |(_, source)| format!("{:?}", source.format).to_lowercase()),
    ])
}

pub(super) fn tables(catalog: &Catalog) -> Table {
    let tables: Vec<_> = catalog
        .objects()
        .filter_map(|object| match &object.kind {
            ObjectKind::Table(table) => Some((object, table)),
            _ => None,
        })
        .collect();
    Table::new(vec![
        text("name", &tables, |(object, _)| object.name.clone()),
        Column::Number("rows", tables.iter().map(|(_, table)| table.rows as i64).collect()),
    ])
}

pub(super) fn views(catalog: &Catalog, pipelines: &[PipelineState]) -> Table {
    let views: Vec<_> =
        catalog.objects().filter(|object| matches!(object.kind, ObjectKind::View(_))).collect();
    let state = |object: &&Arc<Object>| {
        pipelines
            .iter()
            .find(|pipeline| pipeline.view == object.name)
            .map_or("starting", |pipeline| pipeline.state)
            .to_owned()
    };
    Table::new(vec![
        text("name", &views, |object| object.name.clone()),
        text("state", &views, state),
    ])
}

pub(super) fn topics(topics: &[(String, i32)]) -> Table {
    Table::new(vec![
        text("name", topics, |(name, _)| name.clone()),
        Column::Number("partitions", topics.iter().map(|(_, count)| i64::from(*count)).collect()),
    ])
}

pub(super) fn pipelines(pipelines: &[PipelineState]) -> Table {
    let number = |name, value: fn(&PipelineState) -> u64| {
        Column::Number(name, pipelines.iter().map(|p| value(p) as i64).collect())
    };
    Table::new(vec![
        text("view", pipelines, |p| p.view.clone()),
        text("state", pipelines, |p| p.state.to_owned()),
        Column::Text("detail", pipelines.iter().map(|p| p.detail.clone()).collect()),
        number("tick", |p| p.tick.0),
        number("rows", |p| p.rows),
        number("records_in", |p| p.records_in),
        number("late_rows", |p| p.late_rows),
        number("dead_letters", |p| p.dead_letters),
    ])
}

pub(super) fn create(object: &Object) -> Table {
    Table::new(vec![
        text("name", &[object], |object| object.name.clone()),
        text("create_statement", &[object], |object| object.sql.clone()),
    ])
}

pub(super) fn parameter(name: &str, value: &str) -> Table {
    // The column has the parameter's name, as in Postgres.
    let field = Field::new(name, DataType::Utf8, true);
    let array: ArrayRef = Arc::new(StringArray::from(vec![value]));
    let schema = Arc::new(Schema::new(vec![field]));
    Table(RecordBatch::try_new(schema, vec![array]).expect("one column of one row"))
}

pub(super) fn parameters(settings: &Settings) -> Table {
    let all: Vec<_> = settings.iter().collect();
    Table::new(vec![
        text("name", &all, |(name, _)| (*name).to_owned()),
        text("setting", &all, |(_, value)| (*value).to_owned()),
    ])
}

pub(super) fn columns(object: &Object) -> Table {
    let columns = object.columns();
    let key = match &object.kind {
        ObjectKind::View(view) => view.plan.key.as_deref(),
        _ => None,
    };
    let is_key = |position: usize| key.is_some_and(|key| key.contains(&position));
    let keys = (0..columns.len()).map(|n| Some(if is_key(n) { "yes" } else { "no" }.to_owned()));
    Table::new(vec![
        text("name", columns, |column| column.name.clone()),
        text("type", columns, |column| column.column_type.to_string()),
        text("nullable", columns, |column| if column.nullable { "yes" } else { "no" }.to_owned()),
        Column::Text("key", keys.collect()),
    ])
}

pub(super) fn columns_schema() -> SchemaRef {
    let names = ["name", "type", "nullable", "key"];
    Arc::new(Schema::new(names.map(|name| Field::new(name, DataType::Utf8, true)).to_vec()))
}

pub(super) fn explained(lines: Vec<String>) -> Table {
    Table::new(vec![Column::Text("plan", lines.into_iter().map(Some).collect())])
}

pub(super) fn explain_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("plan", DataType::Utf8, true)]))
}

/// The dataflow that would keep a view, an operator a line.
pub(super) fn plan(plan: &Plan, catalog: &Catalog) -> Vec<String> {
    let name = |id| catalog.get(id).map_or_else(|| format!("object {id}"), |o| o.name.clone());
    let line = |operator: &afflux_plan::Operator| {
        let what = match &operator.kind {
            OperatorKind::Source { object, .. } => format!("Source {}", name(*object)),
            OperatorKind::View { object } => format!("View {}", name(*object)),
            OperatorKind::Table { object } => format!("Table {}", name(*object)),
            OperatorKind::Filter { .. } => "Filter".to_owned(),
            OperatorKind::Project { .. } => "Project".to_owned(),
            OperatorKind::Tumble { size_ms, .. } => format!("Tumble {size_ms} ms"),
            OperatorKind::Aggregate { group, aggregates, .. } => {
                format!("Aggregate by {} columns, {} results", group.len(), aggregates.len())
            }
            OperatorKind::Lookup { table, kind, .. } => format!("{kind:?} join {}", name(*table)),
            OperatorKind::Union => "Union".to_owned(),
        };
        let inputs: Vec<_> = operator.inputs.iter().map(|id| format!("#{id}")).collect();
        let from =
            if inputs.is_empty() { String::new() } else { format!(" <- {}", inputs.join(", ")) };
        let columns: Vec<_> = operator.columns.iter().map(|column| column.name.as_str()).collect();
        format!("#{} {what}{from} [{}]", operator.id, columns.join(", "))
    };
    let mut lines: Vec<_> = plan.operators.iter().map(line).collect();
    lines.push(match &plan.key {
        Some(key) => {
            let columns: Vec<_> = key.iter().map(|n| plan.columns()[*n].name.as_str()).collect();
            format!(
                "key: {}",
                if columns.is_empty() { "one row".to_owned() } else { columns.join(", ") }
            )
        }
        None => "key: none, rows may repeat".to_owned(),
    });
    lines
}
