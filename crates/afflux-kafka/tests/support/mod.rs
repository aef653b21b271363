//! A node's Kafka listener in this process, and the clients that it is tried with.

use std::{net::SocketAddr, path::Path, sync::Arc, thread::JoinHandle};

use afflux_env::real;
use afflux_kafka::Options;
use afflux_log::{EmbeddedLog, LogOptions};
use tokio::sync::watch;

/// A listener on a free port of the loopback, until it is stopped or dropped.
pub(crate) struct Server {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Opens the log in a directory and serves it.
    pub(crate) fn start(directory: &Path) -> Self {
        Self::start_with(directory, Options::default())
    }

    /// As [`Self::start`], with other options.
    pub(crate) fn start_with(directory: &Path, options: Options) -> Self {
        let (stop, stopping) = watch::channel(false);
        let (bound, address) = std::sync::mpsc::channel();
        let directory = directory.to_owned();
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
            runtime.unwrap().block_on(async move {
                let env = real::env();
                let log = EmbeddedLog::open(&env, &directory, LogOptions::default()).unwrap();
                let log = Arc::new(log);
                let any = "127.0.0.1:0".parse().unwrap();
                let listener = env.network.listen(any).await.unwrap();
                bound.send(listener.address()).unwrap();
                afflux_kafka::serve(env, Arc::clone(&log), listener, options, stopping)
                    .await
                    .unwrap();
                log.shutdown();
            });
        });
        Self { address: address.recv().unwrap(), stop, thread: Some(thread) }
    }

    /// Its address, as clients want it.
    pub(crate) fn bootstrap(&self) -> String {
        self.address.to_string()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
        if let Some(thread) = self.thread.take() {
            let outcome = thread.join();
            if !std::thread::panicking() {
                outcome.unwrap();
            }
        }
    }
}
