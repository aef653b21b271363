//! `GET /v1/views/NAME/changes`: a view as server-sent events.
//!
//! ```text
//! event: snapshot | changes | reset
//! id: <resume token>                 (on the last event of a snapshot, on all changes;
//!                                     empty on a reset)
//! data: {"tick":N,"changes":[{"weight":1,"row":{…}},…]}     (reset: {"reason":"…"})
//! ```
//!
//! 1. The stream begins behind the resume token of `Last-Event-ID`, which a browser sends when it
//!    reconnects, else of `?resume=`, else with a snapshot.
//! 2. The next event is only taken from the engine when the one before has been written to the
//!    socket. So a slow reader costs one event of memory; what it misses is read from the log,
//!    and a reader that falls behind the history gets a reset.
//! 3. Silence is broken by a comment, so that both sides notice when the other has gone.

use std::{convert::Infallible, sync::Arc, time::Duration};

use afflux_catalog::ObjectKind;
use afflux_record::changelog::Changes;
use afflux_types::ErrorKind;
use arrow::array::Int64Array;
use axum::{
    body::Body,
    extract::{Path, Query, State, rejection::QueryRejection},
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
};
use futures::{Stream, stream};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use super::{Http, json, sql::of_error};
use crate::{
    QueryError,
    node::{Event, Follow},
};

/// How long a stream is silent at most.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How many rows of a snapshot go into one event.
const SNAPSHOT_ROWS: usize = 1_000;

#[derive(Deserialize)]
pub(super) struct Parameters {
    resume: Option<String>,
}

pub(super) async fn get(
    State(http): State<Arc<Http>>,
    Path(name): Path<String>,
    parameters: Result<Query<Parameters>, QueryRejection>,
    headers: HeaderMap,
) -> Response {
    let outcome = parameters
        .map_err(|rejection| QueryError::invalid(rejection.body_text()).with_sqlstate("08P01"))
        .and_then(|Query(parameters)| follow(&http, &name, parameters.resume.as_deref(), &headers));
    match outcome {
        Ok(follower) => {
            let headers = [
                (header::CONTENT_TYPE, "text/event-stream; charset=utf-8"),
                (header::CACHE_CONTROL, "no-store"),
                // Proxies that buffer would hold the stream back.
                (header::HeaderName::from_static("x-accel-buffering"), "no"),
            ];
            let body = Body::from_stream(events(follower, http.stop.clone()));
            (headers, body).into_response()
        }
        Err(error) => of_error(&error),
    }
}

fn follow(
    http: &Http,
    name: &str,
    resume: Option<&str>,
    headers: &HeaderMap,
) -> Result<Box<dyn Follow>, QueryError> {
    let node = http.queries.node();
    let catalog = node.catalog();
    let object = catalog.find(name).ok_or_else(|| {
        QueryError::new(ErrorKind::NotFound, format!("there is no view \"{name}\""))
            .with_hint("GET / lists the views")
    })?;
    if !matches!(object.kind, ObjectKind::View(_)) {
        return Err(QueryError::invalid(format!("\"{name}\" is not a view"))
            .with_sqlstate("42809")
            .with_hint("only materialized views have changes to follow"));
    }
    let last = headers.get("last-event-id").map(|value| {
        value.to_str().map_err(|_| QueryError::invalid("the Last-Event-ID is not text"))
    });
    let token = last.transpose()?.or(resume).filter(|token| !token.is_empty());
    node.follow(object.id, token)
}

struct Following {
    follower: Box<dyn Follow>,
    stop: CancellationToken,
    pending: std::collections::VecDeque<String>,
    ended: bool,
}

/// The events as bytes, for as long as the reader takes them.
fn events(
    follower: Box<dyn Follow>,
    stop: CancellationToken,
) -> impl Stream<Item = Result<String, Infallible>> {
    let state = Following { follower, stop, pending: [":\n\n".to_owned()].into(), ended: false };
    stream::unfold(state, |mut state| async {
        if let Some(text) = state.pending.pop_front() {
            return Some((Ok(text), state));
        }
        if state.ended {
            return None;
        }
        let text = tokio::select! {
            () = state.stop.cancelled() => return None,
            event = state.follower.next() => match event {
                Ok(event) => {
                    let token = state.follower.token();
                    state.pending.extend(rendered(&event, token.as_deref()));
                    state.pending.pop_front()?
                }
                Err(error) => {
                    // Reconnecting is the reader's affair, and what EventSource does.
                    state.ended = true;
                    format!("event: error\ndata: {}\n\n", error.json())
                }
            },
            () = tokio::time::sleep(KEEP_ALIVE) => ":\n\n".to_owned(),
        };
        Some((Ok(text), state))
    })
}

/// An event as the reader gets it; a long snapshot as several.
fn rendered(event: &Event, token: Option<&str>) -> Vec<String> {
    match event {
        Event::Snapshot { tick, rows, last } => {
            let parts = parts(rows);
            let count = parts.len();
            let part = |(n, part)| {
                let id = if *last && n + 1 == count { id(token) } else { String::new() };
                format!("event: snapshot\n{id}data: {}\n\n", json::changes(*tick, &part))
            };
            parts.into_iter().enumerate().map(part).collect()
        }
        Event::Changes { tick, changes } => {
            let (id, data) = (id(token), json::changes(*tick, changes));
            vec![format!("event: changes\n{id}data: {data}\n\n")]
        }
        Event::Reset { reason } => {
            let data = serde_json::json!({ "reason": reason });
            // The empty id makes a browser forget the token that is void.
            vec![format!("event: reset\nid:\ndata: {data}\n\n")]
        }
    }
}

fn id(token: Option<&str>) -> String {
    token.map_or(String::new(), |token| format!("id: {token}\n"))
}

/// At least one part, each of bounded length.
fn parts(rows: &Changes) -> Vec<Changes> {
    let count = rows.batch.num_rows();
    let slice = |from: usize| {
        let length = SNAPSHOT_ROWS.min(count - from);
        let weights: Option<Int64Array> =
            rows.weights.as_ref().map(|weights| weights.slice(from, length));
        Changes { batch: rows.batch.slice(from, length), weights }
    };
    (0..count.max(1)).step_by(SNAPSHOT_ROWS).map(slice).collect()
}

#[cfg(test)]
mod tests {
    use afflux_types::Tick;
    use arrow::{array::ArrayRef, record_batch::RecordBatch};

    use super::*;

    fn numbers(count: i64) -> Changes {
        let column = Arc::new(Int64Array::from_iter_values(0..count)) as ArrayRef;
        Changes::additions(RecordBatch::try_from_iter([("n", column)]).unwrap())
    }

    #[test]
    fn events_are_rendered_as_the_page_reads_them() {
        let check = |event: Event, expected: &str| {
            assert_eq!(rendered(&event, Some("ab-9")).concat(), expected);
        };
        let (tick, row) = (Tick(9), r#"{"tick":9,"changes":[{"weight":1,"row":{"n":0}}]}"#);
        check(
            Event::Snapshot { tick, rows: numbers(1), last: true },
            &format!("event: snapshot\nid: ab-9\ndata: {row}\n\n"),
        );
        check(
            Event::Snapshot { tick, rows: numbers(1), last: false },
            &format!("event: snapshot\ndata: {row}\n\n"),
        );
        check(
            Event::Snapshot { tick, rows: numbers(0), last: true },
            "event: snapshot\nid: ab-9\ndata: {\"tick\":9,\"changes\":[]}\n\n",
        );
        check(
            Event::Changes { tick, changes: numbers(1) },
            &format!("event: changes\nid: ab-9\ndata: {row}\n\n"),
        );
        check(
            Event::Reset { reason: "gone\nfor good".into() },
            "event: reset\nid:\ndata: {\"reason\":\"gone\\nfor good\"}\n\n",
        );
    }

    #[test]
    fn a_long_snapshot_is_several_events_and_the_last_has_the_id() {
        let event = Event::Snapshot { tick: Tick(1), rows: numbers(2_500), last: true };
        let events = rendered(&event, Some("t-1"));
        let ids: Vec<_> = events.iter().map(|event| event.contains("\nid: t-1\n")).collect();
        assert_eq!(ids, [false, false, true]);
        let rows: usize = events.iter().map(|event| event.matches("weight").count()).sum();
        assert_eq!(rows, 2_500);
    }
}
