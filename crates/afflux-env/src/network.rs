//! Listeners and connections: ordered byte streams, nothing else.

use std::{future::Future, io, net::SocketAddr, pin::Pin};

use tokio::io::{AsyncRead, AsyncWrite};

/// A byte stream in both directions.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Connection for T {}

/// A boxed future, for traits that must be objects.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Where connections come from.
pub trait Network: Send + Sync + 'static {
    /// Listens at an address; port 0 picks a free one. `AddrInUse` if it is taken.
    fn listen(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>>;
    /// Connects to a listener.
    fn connect(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Connection>>>;
}

/// A bound listener.
pub trait Listener: Send + Sync + 'static {
    /// The address it is bound to, its port never 0.
    fn address(&self) -> SocketAddr;
    /// The next connection and where it comes from.
    fn accept(&self) -> BoxFuture<'_, io::Result<(Box<dyn Connection>, SocketAddr)>>;
}
