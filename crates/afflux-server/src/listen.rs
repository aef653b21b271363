//! The node's addresses, bound before anything else happens.
//!
//! The servers bind their addresses themselves, through the network of their [`Env`]. So that a
//! port in use is told before a data directory is made or recovered, all addresses are bound
//! first; [`Bound`] is a network that hands out what is bound already.

use std::{io, net::SocketAddr, sync::Arc};

use afflux_env::{Connection, Env, Listener as Bind, Network, network::BoxFuture};
use parking_lot::Mutex;

use crate::{Addresses, Listener, StartError};

/// A network on which some addresses are bound already.
pub(crate) struct Bound {
    network: Arc<dyn Network>,
    listeners: Mutex<Vec<Box<dyn Bind>>>,
}

/// Binds all addresses. Gives a network that has them, and the addresses without a port 0.
pub(crate) async fn bind(
    env: &Env,
    addresses: Addresses,
) -> Result<(Arc<Bound>, Addresses), StartError> {
    let mut listeners = Vec::new();
    let mut bound = addresses;
    for (listener, address) in [
        (Listener::Kafka, &mut bound.kafka),
        (Listener::Postgres, &mut bound.postgres),
        (Listener::Http, &mut bound.http),
    ] {
        let listened = env.network.listen(*address).await.map_err(|source| {
            let address = *address;
            match source.kind() {
                io::ErrorKind::AddrInUse => StartError::AddressInUse { listener, address },
                _ => StartError::Address { listener, address, source },
            }
        })?;
        *address = listened.address();
        listeners.push(listened);
    }
    let network = Arc::clone(&env.network);
    Ok((Arc::new(Bound { network, listeners: Mutex::new(listeners) }), bound))
}

impl Network for Bound {
    fn listen(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Bind>>> {
        let mut listeners = self.listeners.lock();
        match listeners.iter().position(|bound| bound.address() == address) {
            Some(index) => {
                let listener = listeners.swap_remove(index);
                Box::pin(async move { Ok(listener) })
            }
            None => self.network.listen(address),
        }
    }

    fn connect(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Connection>>> {
        self.network.connect(address)
    }
}
