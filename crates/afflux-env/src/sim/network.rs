//! Pipes in memory, named by socket addresses.

use std::{collections::HashMap, io, net::SocketAddr, sync::Arc};

use parking_lot::Mutex;
use tokio::{io::DuplexStream, sync::mpsc};

use crate::{Connection, Listener, Network, network::BoxFuture};

/// What one direction of a pipe holds before its writer waits.
const PIPE_BYTES: usize = 64 * 1024;
/// Connections that wait to be accepted.
const BACKLOG: usize = 128;
/// The first port handed out for port 0, and as the peer's of a connection.
const PORT_FIRST: u16 = 40_000;

type Incoming = (DuplexStream, SocketAddr);

/// Pipes in memory.
#[derive(Debug, Default, Clone)]
pub struct SimNetwork(Arc<Mutex<Ports>>);

#[derive(Debug, Default)]
struct Ports {
    listeners: HashMap<SocketAddr, mpsc::Sender<Incoming>>,
    taken: u16,
}

impl Ports {
    fn next(&mut self) -> u16 {
        self.taken += 1;
        PORT_FIRST + self.taken
    }
}

impl Network for SimNetwork {
    fn listen(&self, mut address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let mut ports = self.0.lock();
            if address.port() == 0 {
                address.set_port(ports.next());
            }
            if ports.listeners.get(&address).is_some_and(|listener| !listener.is_closed()) {
                return Err(io::ErrorKind::AddrInUse.into());
            }
            let (sender, receiver) = mpsc::channel(BACKLOG);
            ports.listeners.insert(address, sender);
            let listener = SimListener { address, incoming: tokio::sync::Mutex::new(receiver) };
            Ok(Box::new(listener) as Box<dyn Listener>)
        })
    }

    fn connect(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Connection>>> {
        Box::pin(async move {
            let (listener, peer) = {
                let mut ports = self.0.lock();
                let port = ports.next();
                let listener = ports.listeners.get(&address).cloned();
                (listener, SocketAddr::new(address.ip(), port))
            };
            let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
            let (near, far) = tokio::io::duplex(PIPE_BYTES);
            listener.ok_or_else(refused)?.send((far, peer)).await.map_err(|_| refused())?;
            Ok(Box::new(near) as Box<dyn Connection>)
        })
    }
}

struct SimListener {
    address: SocketAddr,
    incoming: tokio::sync::Mutex<mpsc::Receiver<Incoming>>,
}

impl Listener for SimListener {
    fn address(&self) -> SocketAddr {
        self.address
    }

    fn accept(&self) -> BoxFuture<'_, io::Result<(Box<dyn Connection>, SocketAddr)>> {
        Box::pin(async move {
            let (stream, peer) =
                self.incoming.lock().await.recv().await.ok_or(io::ErrorKind::ConnectionAborted)?;
            Ok((Box::new(stream) as Box<dyn Connection>, peer))
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn bytes_come_out_at_the_other_end() {
        let network = SimNetwork::default();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let listener = network.listen(any).await.unwrap();
        assert_eq!(
            network.listen(listener.address()).await.err().unwrap().kind(),
            io::ErrorKind::AddrInUse
        );
        let mut client = network.connect(listener.address()).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        client.write_all(b"ping").await.unwrap();
        let mut got = [0; 4];
        server.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"ping");
        let address = listener.address();
        drop(listener);
        assert_eq!(
            network.connect(address).await.err().unwrap().kind(),
            io::ErrorKind::ConnectionRefused
        );
    }
}
