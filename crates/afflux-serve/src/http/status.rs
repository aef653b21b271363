//! How the node is doing: `/v1/status`, `/health`, `/ready`, `/metrics`.

use std::{fmt::Write, sync::Arc};

use afflux_catalog::ObjectKind;
use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use super::Http;
use crate::node::PipelineState;

pub(super) async fn status(State(http): State<Arc<Http>>) -> Json<Value> {
    let node = http.queries.node();
    let catalog = node.catalog();
    let objects: Vec<_> = catalog
        .objects()
        .map(|object| {
            let kind = match object.kind {
                ObjectKind::Source(_) => "source",
                ObjectKind::Table(_) => "table",
                ObjectKind::View(_) => "view",
            };
            json!({ "name": object.name, "kind": kind })
        })
        .collect();
    Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "objects": objects,
        "pipelines": node.pipelines().iter().map(pipeline).collect::<Vec<_>>(),
    }))
}

fn pipeline(state: &PipelineState) -> Value {
    json!({
        "view": state.view,
        "state": state.state,
        "detail": state.detail,
        "tick": state.tick,
        "rows": state.rows,
        "bytes": state.bytes,
        "epochs": state.epochs,
        "records_in": state.records_in,
        "late_rows": state.late_rows,
        "dead_letters": state.dead_letters,
    })
}

/// The process answers.
pub(super) async fn health() -> &'static str {
    "ok\n"
}

/// The process serves: not while it stops.
pub(super) async fn ready(State(http): State<Arc<Http>>) -> (StatusCode, &'static str) {
    if http.stop.is_cancelled() {
        (StatusCode::SERVICE_UNAVAILABLE, "stopping\n")
    } else {
        (StatusCode::OK, "ready\n")
    }
}

pub(super) async fn metrics(State(http): State<Arc<Http>>) -> Response {
    let text = rendered(&http.queries.node().pipelines());
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

type Value64 = fn(&PipelineState) -> u64;

/// Name, type, help and value.
const METRICS: &[(&str, &str, &str, Value64)] = &[
    (
        "afflux_view_up",
        "gauge",
        "Whether the view is kept up to date: 0 once it has failed.",
        |p| u64::from(p.state != "failed"),
    ),
    ("afflux_view_live", "gauge", "Whether the view has caught up with its inputs.", |p| {
        u64::from(p.state == "live")
    }),
    ("afflux_view_tick", "gauge", "The tick that readers of the view see.", |p| p.tick.0),
    ("afflux_view_rows", "gauge", "Rows in the view.", |p| p.rows),
    ("afflux_view_bytes", "gauge", "Bytes of the view's keys and rows.", |p| p.bytes),
    ("afflux_view_epochs_total", "counter", "Epochs that changed the view.", |p| p.epochs),
    ("afflux_view_records_in_total", "counter", "Records read for the view.", |p| p.records_in),
    ("afflux_view_late_rows_total", "counter", "Rows that came too late for their window.", |p| {
        p.late_rows
    }),
    ("afflux_view_dead_letters_total", "counter", "Records that could not be used.", |p| {
        p.dead_letters
    }),
];

/// Prometheus's text format.
fn rendered(pipelines: &[PipelineState]) -> String {
    let mut text = format!(
        "# HELP afflux_info The build that runs.\n# TYPE afflux_info gauge\n\
         afflux_info{{version=\"{}\"}} 1\n",
        env!("CARGO_PKG_VERSION")
    );
    for (name, kind, help, value) in METRICS {
        // Writing to a string does not fail.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for pipeline in pipelines {
            let _ =
                writeln!(text, "{name}{{view=\"{}\"}} {}", label(&pipeline.view), value(pipeline));
        }
    }
    text
}

fn label(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use afflux_types::Tick;

    use super::*;

    #[test]
    fn metrics_are_prometheus_text() {
        let state = PipelineState {
            view: "a\"b".into(),
            state: "live",
            detail: None,
            tick: Tick(7),
            rows: 3,
            bytes: 99,
            records_in: 10,
            epochs: 2,
            late_rows: 1,
            dead_letters: 0,
        };
        let text = rendered(&[state]);
        assert!(text.contains("\nafflux_view_tick{view=\"a\\\"b\"} 7\n"), "{text}");
        assert!(text.contains("# TYPE afflux_view_records_in_total counter\n"), "{text}");
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (series, value) = line.rsplit_once(' ').unwrap();
            assert!(series.ends_with('}') && value.parse::<u64>().is_ok(), "{line}");
        }
    }
}
