//! When a statement has to stop: its client has gone or asked for it, or its time is up.

use std::{future::Future, time::Duration};

use arrow::record_batch::RecordBatch;
use datafusion::execution::SendableRecordBatchStream;
use futures::{Stream, StreamExt, stream};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::QueryError;

/// The limits of one running statement. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Interrupt {
    cancel: CancellationToken,
    end: Option<(Instant, Duration)>,
}

impl Interrupt {
    /// Stops when the token is cancelled or the time, if limited, has passed from now on.
    pub(crate) fn new(cancel: CancellationToken, timeout: Option<Duration>) -> Self {
        let end = timeout.and_then(|timeout| Some((Instant::now().checked_add(timeout)?, timeout)));
        Self { cancel, end }
    }

    /// Awaits a step of the statement, or its end.
    pub(crate) async fn limit<T>(
        &self,
        step: impl Future<Output = Result<T, QueryError>>,
    ) -> Result<T, QueryError> {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(QueryError::cancelled()),
            after = self.time_out() => Err(QueryError::timed_out(after)),
            outcome = step => outcome,
        }
    }

    async fn time_out(&self) -> Duration {
        match self.end {
            Some((end, timeout)) => {
                sleep_until(end).await;
                timeout
            }
            None => std::future::pending().await,
        }
    }

    /// The batches of a stream until it or the statement ends. Nothing follows an error.
    pub(crate) fn limit_stream(
        self,
        batches: SendableRecordBatchStream,
    ) -> impl Stream<Item = Result<RecordBatch, QueryError>> + Send {
        stream::unfold(Some((batches, self)), |state| async {
            let (mut batches, interrupt) = state?;
            let next = interrupt.limit(async { Ok(batches.next().await.transpose()?) }).await;
            match next {
                Ok(batch) => Some((Ok(batch?), Some((batches, interrupt)))),
                Err(error) => Some((Err(error), None)),
            }
        })
    }
}
