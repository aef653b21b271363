//! A client's way to the node, over which requests and answers are lost, cut, late or twice.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use afflux_env::{
    Network,
    sim::{SimNetwork, SimRandom},
};
use bytes::Bytes;
use kafka_protocol::{
    ResponseError,
    messages::ResponseHeader,
    protocol::{Decodable, HeaderVersion, Request},
};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinSet,
};

use crate::{
    producer::Ask,
    sim::{frame, patiently},
};

/// What becomes of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manners {
    /// Those that get through are over when their client goes on.
    Orderly,
    /// They may come late, behind later ones of the same client.
    Late,
}

/// See the module.
#[derive(Clone)]
pub(crate) struct Link {
    pub(crate) network: Arc<SimNetwork>,
    pub(crate) address: SocketAddr,
    pub(crate) random: Arc<SimRandom>,
    pub(crate) manners: Manners,
    /// Once set, nothing is lost any more.
    pub(crate) calm: Arc<AtomicBool>,
    /// Requests that the network keeps.
    pub(crate) late: Arc<Mutex<JoinSet<()>>>,
}

/// No answer came.
pub(crate) const LOST: ResponseError = ResponseError::NetworkException;

impl Link {
    /// Lets others do something.
    pub(crate) async fn pause(&self, most: u64) {
        for _ in 0..self.random.below(most) {
            tokio::task::yield_now().await;
        }
    }

    /// The same with other manners.
    pub(crate) fn with(&self, manners: Manners) -> Self {
        Self { manners, ..self.clone() }
    }

    /// Sends requests over one connection; the answers that came, in order.
    pub(crate) async fn send(&self, requests: &[Bytes]) -> Vec<Bytes> {
        let bytes = requests.concat();
        let fate = if self.calm.load(Ordering::SeqCst) { 9 } else { self.random.below(24) };
        match fate {
            // It never gets there.
            0 => Vec::new(),
            // Only its beginning does.
            1 => {
                let part = self.random.below(bytes.len() as u64) as usize;
                self.exchange(&bytes[..part], 0).await
            }
            // The answers get lost, some or all.
            2 => {
                let answers = self.exchange(&bytes, requests.len()).await;
                let heard = self.random.below(requests.len() as u64) as usize;
                answers.into_iter().take(heard).collect()
            }
            // The client gives up at once.
            3 if self.manners == Manners::Late => self.exchange(&bytes, 0).await,
            // The network keeps it for a while, and its client has long tried again.
            4 if self.manners == Manners::Late => {
                let (link, answers) = (self.clone(), requests.len());
                self.late.lock().spawn(async move {
                    link.pause(3_000).await;
                    link.exchange(&bytes, answers).await;
                });
                Vec::new()
            }
            _ => {
                self.pause(8).await;
                self.exchange(&bytes, requests.len()).await
            }
        }
    }

    /// Sends bytes, and waits for some answers; those that came.
    async fn exchange(&self, bytes: &[u8], answers: usize) -> Vec<Bytes> {
        let mut came = Vec::new();
        let exchanging = async {
            let mut stream = self.network.connect(self.address).await?;
            stream.write_all(bytes).await?;
            while came.len() < answers {
                let mut body = vec![0; stream.read_i32().await? as usize];
                stream.read_exact(&mut body).await?;
                came.push(Bytes::from(body));
            }
            std::io::Result::Ok(())
        };
        // An error is a node that is gone: what came before counts.
        let _ = patiently("a request hangs", exchanging).await;
        came
    }
}

/// The body of an answer.
pub(crate) fn decode<T: Decodable + HeaderVersion>(mut answer: Bytes, version: i16) -> T {
    ResponseHeader::decode(&mut answer, T::header_version(version)).unwrap();
    T::decode(&mut answer, version).unwrap()
}

impl Ask for Link {
    async fn ask<R: Request>(
        &self,
        version: i16,
        request: &R,
    ) -> Result<R::Response, ResponseError> {
        let answers = self.send(&[frame(version, 1, request)]).await;
        answers.into_iter().next().map(|answer| decode(answer, version)).ok_or(LOST)
    }
}
