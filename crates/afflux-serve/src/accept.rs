//! Taking connections off a listener.

use std::{io, net::SocketAddr, time::Duration};

use afflux_env::{Connection, Listener};
use tokio_util::sync::CancellationToken;

/// How long accepting rests after a fault that will not pass by itself, such as too many open
/// files.
const REST: Duration = Duration::from_millis(200);

/// The next connection; none once it is time to stop.
pub(crate) async fn accept(
    listener: &dyn Listener,
    stop: &CancellationToken,
) -> Option<(Box<dyn Connection>, SocketAddr)> {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return None,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok(accepted) => return Some(accepted),
            // The client has gone again: that is its own affair.
            Err(error) if is_of_client(&error) => {}
            Err(error) => {
                tracing::warn!(%error, address = %listener.address(), "can not accept connections");
                tokio::select! {
                    () = stop.cancelled() => return None,
                    () = tokio::time::sleep(REST) => {}
                }
            }
        }
    }
}

fn is_of_client(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}
