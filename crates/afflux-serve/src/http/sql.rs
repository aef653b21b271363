//! `POST /v1/sql`: statements in, a row a line out.

use std::{convert::Infallible, sync::Arc};

use arrow::datatypes::{FieldRef, Schema};
use axum::{
    body::{Body, Bytes},
    extract::{FromRequest, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use futures::{StreamExt, stream};
use serde::Deserialize;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{Http, failure, json};
use crate::{
    QueryError,
    node::BatchStream,
    read::{Answer, Identity, Session},
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    query: String,
}

pub(super) async fn post(
    State(http): State<Arc<Http>>,
    request: axum::extract::Request,
) -> Response {
    let body = timeout(http.options.body_time_max, Bytes::from_request(request, &()));
    let body = match body.await {
        Ok(Ok(body)) => body,
        Ok(Err(rejection)) => {
            let hint = "send the statements in several requests";
            return failure(rejection.status(), "invalid", &rejection.body_text(), hint);
        }
        Err(_) => {
            let (message, hint) = ("the body stopped coming", "send it again");
            return failure(StatusCode::REQUEST_TIMEOUT, "invalid", message, hint);
        }
    };
    match answer(&http, &body).await {
        Ok(response) => response,
        Err(error) => of_error(&error),
    }
}

/// An error as the whole answer.
pub(super) fn of_error(error: &QueryError) -> Response {
    let mut text = error.json();
    text.push('\n');
    (error.status(), [(header::CONTENT_TYPE, "application/json")], text).into_response()
}

/// A row is an object, and an object has each name once.
fn check_names(schema: &Schema) -> Result<(), QueryError> {
    let fields = schema.fields();
    let twice = |(at, field): &(usize, &FieldRef)| {
        fields[..*at].iter().any(|other| other.name() == field.name())
    };
    match fields.iter().enumerate().find(twice) {
        None => Ok(()),
        Some((_, field)) => {
            let message = format!("the answer has two columns \"{}\"", field.name());
            Err(QueryError::invalid(message)
                .with_sqlstate("42701")
                .with_hint("give one of them another name with AS"))
        }
    }
}

async fn answer(http: &Http, body: &[u8]) -> Result<Response, QueryError> {
    let request: Request = serde_json::from_slice(body).map_err(|error| {
        QueryError::invalid(format!("the body is not a request: {error}"))
            .with_sqlstate("08P01")
            .with_hint(r#"send {"query": "SELECT …"}"#)
    })?;
    let identity = Identity { user: "http".to_owned(), database: "afflux".to_owned() };
    let queries = Arc::clone(&http.queries);
    let mut session = Session::new(queries, identity, http.options.statement_timeout);
    let statements = session.parse(&request.query).await?;
    // Dropped with the answer when the client goes away: that ends the query.
    let cancel = CancellationToken::new();
    let mut rows: Option<BatchStream> = None;
    let mut notices = Vec::new();
    for statement in &statements {
        if rows.is_some() {
            return Err(QueryError::invalid("only the last statement may answer rows")
                .with_sqlstate("42601")
                .with_hint("send the statements one by one"));
        }
        match session.run(statement, Vec::new(), cancel.clone()).await? {
            Answer::Rows { schema, batches, .. } => {
                check_names(&schema)?;
                rows = Some(batches);
            }
            Answer::Done(outcome) => {
                let done = serde_json::json!({ "done": outcome.tag, "notices": outcome.notices });
                notices.push(format!("{done}\n"));
            }
            Answer::Begin | Answer::End { .. } => {}
        }
    }
    let head = match rows {
        Some(_) => String::new(),
        None => notices.concat(),
    };
    let rows = rows.unwrap_or_else(|| stream::empty().boxed());
    // The first batch decides the status: until then nothing has been said.
    let mut rows = Box::pin(rows.peekable());
    if let Some(Err(error)) = rows.as_mut().peek().await {
        return Err(error.clone());
    }
    let lines = rows.map(|batch| {
        Ok::<_, Infallible>(match batch {
            Ok(batch) => json::lines(&batch),
            Err(error) => error.json() + "\n",
        })
    });
    let lines = stream::iter([Ok(head)]).chain(lines).filter(|line| {
        let keep = line.as_ref().is_ok_and(|line| !line.is_empty());
        std::future::ready(keep)
    });
    let headers =
        [(header::CONTENT_TYPE, "application/x-ndjson"), (header::CACHE_CONTROL, "no-store")];
    Ok((StatusCode::OK, headers, Body::from_stream(lines)).into_response())
}
