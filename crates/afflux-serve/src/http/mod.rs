//! The HTTP listener: SQL, live changes, the node's state, and its pages.
//!
//! Requests and answers are described in `docs/http-api.md`. Every request passes [`guard`]
//! first.

mod changes;
mod guard;
mod json;
mod pages;
mod sql;
mod stall;
mod status;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use afflux_env::{Connection, Listener};
use axum::{
    Router,
    extract::{DefaultBodyLimit, Request, State},
    http::{HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{io::AsyncWriteExt, sync::Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{ServeOptions, accept::accept, read::Queries};

/// How long a client may take over a request's headers.
const HEADERS_MAX: Duration = Duration::from_secs(15);
/// How long a client may leave an answer untouched.
const STALL_MAX: Duration = Duration::from_mins(1);
/// The longest head of a request.
const HEADER_BYTES_MAX: usize = 32 << 10;
/// What may be loaded by a page of this node: its own files.
const CONTENT_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    connect-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'";

/// What all requests share.
pub(crate) struct Http {
    queries: Arc<Queries>,
    options: ServeOptions,
    address: SocketAddr,
    stop: CancellationToken,
}

impl Http {
    pub(crate) fn new(
        queries: Arc<Queries>,
        options: ServeOptions,
        address: SocketAddr,
        stop: CancellationToken,
    ) -> Self {
        Self { queries, options, address, stop }
    }

    fn router(self: Arc<Self>) -> Router {
        Router::new()
            .route("/", get(pages::views))
            .route("/views/{name}", get(pages::view))
            .route("/assets/{file}", get(pages::asset))
            .route("/v1/sql", post(sql::post))
            .route("/v1/views/{name}/changes", get(changes::get))
            .route("/v1/status", get(status::status))
            .route("/health", get(status::health))
            .route("/ready", get(status::ready))
            .route("/metrics", get(status::metrics))
            .fallback(not_found)
            .layer(DefaultBodyLimit::max(self.options.body_bytes_max))
            .layer(middleware::from_fn_with_state(Arc::clone(&self), guarded))
            .with_state(self)
    }

    /// Serves a listener until the node stops.
    pub(crate) async fn serve(
        self: Arc<Self>,
        listener: Box<dyn Listener>,
        connections: TaskTracker,
    ) {
        let free = Arc::new(Semaphore::new(self.options.connections_max));
        let router = Arc::clone(&self).router();
        while let Some((connection, peer)) = accept(listener.as_ref(), &self.stop).await {
            tracing::debug!(%peer, "an HTTP client has connected");
            match Arc::clone(&free).try_acquire_owned() {
                Ok(permit) => {
                    let stop = self.stop.clone();
                    let router = router.clone();
                    connections.spawn(async move {
                        serve_connection(connection, router, stop).await;
                        drop(permit);
                    });
                }
                Err(_) => drop(connections.spawn(turn_away(connection))),
            }
        }
    }
}

async fn serve_connection(
    connection: Box<dyn Connection>,
    router: Router,
    stop: CancellationToken,
) {
    let service = TowerToHyperService::new(router);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_MAX)
        .max_buf_size(HEADER_BYTES_MAX)
        .serve_connection(TokioIo::new(stall::Stalling::new(connection, STALL_MAX)), service);
    tokio::pin!(connection);
    tokio::select! {
        outcome = connection.as_mut() => log(outcome),
        () = stop.cancelled() => {
            // What is being answered is answered; the next request goes elsewhere.
            connection.as_mut().graceful_shutdown();
            log(connection.await);
        }
    }
}

fn log(outcome: hyper::Result<()>) {
    if let Err(error) = outcome {
        tracing::debug!(%error, "an HTTP connection broke");
    }
}

async fn turn_away(mut connection: Box<dyn Connection>) {
    let answer = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 30\r\nretry-after: 1\r\n\
        connection: close\r\n\r\nall HTTP connections are taken";
    let _ = connection.write_all(answer.as_bytes()).await;
    let _ = connection.shutdown().await;
}

async fn guarded(State(http): State<Arc<Http>>, request: Request, next: Next) -> Response {
    let outcome = guard::check(request.headers(), http.address, &http.options.http_hosts);
    let mut response = match outcome {
        Ok(()) => next.run(request).await,
        Err(refusal) => {
            tracing::debug!(status = %refusal.status, message = refusal.message, "refused");
            failure(refusal.status, "invalid", &refusal.message, refusal.hint)
        }
    };
    let headers = response.headers_mut();
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CONTENT_SECURITY_POLICY, CONTENT_POLICY),
        (header::HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// A failure that no statement has caused, in the shape of those.
fn failure(status: StatusCode, kind: &str, message: &str, hint: &str) -> Response {
    let error = serde_json::json!({ "error": {
        "kind": kind, "message": message, "hint": hint, "sqlstate": null, "position": null,
    }});
    (status, [(header::CONTENT_TYPE, "application/json")], format!("{error}\n")).into_response()
}

async fn not_found(request: Request) -> Response {
    let message = format!("there is nothing at {}", request.uri().path());
    failure(StatusCode::NOT_FOUND, "not found", &message, "docs/http-api.md lists the paths")
}
