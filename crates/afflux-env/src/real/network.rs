//! TCP.

use std::{io, net::SocketAddr, time::Duration};

use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpStream};

use crate::{Connection, Listener, Network, network::BoxFuture};

/// How long the other side may be silent before it is asked whether it is still there.
const SILENCE: Duration = Duration::from_mins(1);
/// How long between questions that stay unanswered.
const ASKED_EVERY: Duration = Duration::from_secs(15);
/// After so many of these it is gone.
const ASKED_TIMES: u32 = 4;

/// TCP. Connections send at once: whoever batches does so on purpose, above. One whose other side
/// has gone without a word fails after two minutes, so that it does not hold what it has for ever.
#[derive(Debug)]
pub struct RealNetwork;

impl Network for RealNetwork {
    fn listen(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let listener = TcpListener::bind(address).await?;
            let address = listener.local_addr()?;
            Ok(Box::new(RealListener { listener, address }) as Box<dyn Listener>)
        })
    }

    fn connect(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Connection>>> {
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            prepare(&stream)?;
            Ok(Box::new(stream) as Box<dyn Connection>)
        })
    }
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, SILENCE)?;
    sockopt::set_tcp_keepintvl(stream, ASKED_EVERY)?;
    sockopt::set_tcp_keepcnt(stream, ASKED_TIMES)?;
    Ok(())
}

struct RealListener {
    listener: TcpListener,
    address: SocketAddr,
}

impl Listener for RealListener {
    fn address(&self) -> SocketAddr {
        self.address
    }

    fn accept(&self) -> BoxFuture<'_, io::Result<(Box<dyn Connection>, SocketAddr)>> {
        Box::pin(async move {
            let (stream, peer) = self.listener.accept().await?;
            prepare(&stream)?;
            Ok((Box::new(stream) as Box<dyn Connection>, peer))
        })
    }
}
