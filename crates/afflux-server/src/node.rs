//! A node's life: see the crate's steps.

use std::{fs, io, path::Path, sync::Arc};

use afflux_engine::{Engine, EngineOptions};
use afflux_env::{Env, Interposed};
use afflux_log::{EmbeddedLog, Log, LogOptions};
use afflux_serve::{ServeOptions, Serving};
use tokio::{sync::watch, task::JoinHandle};

use crate::{
    Addresses, Config, StartError,
    crash::{CrashLog, Trigger},
    listen,
};

/// A node that serves. [`Node::stop`] ends it; one that is dropped instead ends as by a crash,
/// which loses nothing either.
pub struct Node {
    addresses: Addresses,
    log: Arc<EmbeddedLog>,
    engine: Engine,
    serving: Serving,
    kafka: JoinHandle<()>,
    stopping: watch::Sender<bool>,
}

impl Node {
    /// Starts a node. When this returns it serves, and the ready file is there.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let mut kafka_options = afflux_kafka::Options {
            advertised: config.kafka_advertised,
            ..afflux_kafka::Options::default()
        };
        kafka_options.set(config.kafka_settings)?;
        let mut env = afflux_env::real::env();
        let (network, addresses) = listen::bind(&env, config.listen).await?;
        env.network = network;
        let trigger = config.crash.as_ref().and_then(Trigger::of);
        if let Some(trigger) = &trigger {
            env.disk = Arc::new(Interposed::new(env.disk, Arc::clone(trigger)));
        }

        let (log, engine) = {
            let (env, dir) = (env.clone(), config.data_dir.clone());
            let options = log_options(config.log_bytes_max, &kafka_options);
            // Recovery reads files, and takes as long as it takes.
            tokio::task::spawn_blocking(move || open(&env, &dir, options, trigger))
                .await
                .unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?
        };

        let (stopping, stops) = watch::channel(false);
        let listener =
            env.network.listen(addresses.kafka).await.map_err(|source| StartError::Address {
                listener: crate::Listener::Kafka,
                address: addresses.kafka,
                source,
            })?;
        let kafka =
            afflux_kafka::start(env.clone(), Arc::clone(&log), listener, kafka_options, stops)
                .await?;
        let kafka = tokio::spawn(kafka);
        let options = ServeOptions {
            postgres: addresses.postgres,
            http: addresses.http,
            http_hosts: config.http_hosts,
            ..ServeOptions::default()
        };
        let topics = listed_topics(Arc::clone(&log));
        let serving = afflux_serve::serve(&env, engine.clone(), topics, options).await?;
        let node = Self { addresses, log, engine, serving, kafka, stopping };
        if let Some(path) = &config.ready_file
            && let Err(source) = write_whole(path, &addresses)
        {
            let path = path.clone();
            node.stop().await;
            return Err(StartError::ReadyFile { path, source });
        }
        tracing::info!(kafka = %addresses.kafka, postgres = %addresses.postgres,
            http = %addresses.http, "serving");
        Ok(node)
    }

    /// Where it serves.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Resolves, with the reason, when the node can not go on and has to be started again.
    pub async fn failed(&mut self) -> String {
        let mut durable = self.log.durable();
        let journal = async {
            loop {
                if let Some(error) = self.log.failure() {
                    return format!("the journal failed: {error}");
                }
                if durable.changed().await.is_err() {
                    // Only a shutdown ends the log, and that is not for here to tell.
                    std::future::pending::<()>().await;
                }
            }
        };
        tokio::select! {
            reason = journal => reason,
            reason = self.engine.halted() => format!("the engine stopped: {reason}"),
            ended = &mut self.kafka => match ended {
                Ok(()) => "the Kafka listener ended".to_owned(),
                Err(error) => format!("the Kafka listener ended: {error}"),
            },
        }
    }

    /// Stops, cleanly: answers in flight may end, within seconds, and the log says that it is
    /// whole, so that the next start has nothing to repair.
    pub async fn stop(self) {
        let Self { log, engine, serving, kafka, stopping, .. } = self;
        stopping.send_replace(true);
        let kafka = async move {
            if !kafka.is_finished() {
                let _ = kafka.await;
            }
        };
        tokio::join!(kafka, serving.shutdown());
        engine.shutdown().await;
        // It waits for the disk.
        let _ = tokio::task::spawn_blocking(move || log.shutdown()).await;
    }
}

/// What the log is told. How long producers are remembered has one of Kafka's names.
fn log_options(bytes_max: Option<u64>, kafka: &afflux_kafka::Options) -> LogOptions {
    let producer_retention = kafka.producer_retention;
    LogOptions { bytes_max, producer_retention, ..LogOptions::default() }
}

fn open(
    env: &Env,
    dir: &Path,
    options: LogOptions,
    trigger: Option<Arc<Trigger>>,
) -> Result<(Arc<EmbeddedLog>, Engine), StartError> {
    env.disk
        .create_dir_all(dir)
        .map_err(|source| StartError::DataDir { path: dir.to_owned(), source })?;
    let log = Arc::new(EmbeddedLog::open(env, dir, options)?);
    let door: Arc<dyn Log> = match trigger {
        Some(trigger) => Arc::new(CrashLog { log: log.clone(), trigger }),
        None => log.clone(),
    };
    let engine = Engine::start(env.clone(), door, EngineOptions::default())?;
    Ok((log, engine))
}

/// Writes the addresses as JSON into a file that appears whole or not at all.
fn write_whole(path: &Path, addresses: &Addresses) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    let part = path.with_file_name(name);
    fs::write(&part, serde_json::to_vec(addresses)?)?;
    fs::rename(&part, path)
}

/// The topics that clients may see, with their partition counts.
fn listed_topics(log: Arc<EmbeddedLog>) -> afflux_serve::TopicList {
    Arc::new(move || {
        let topics = log.topics();
        let listed = topics
            .iter()
            .filter(|topic| !topic.name.is_internal() && !afflux_kafka::is_internal(&topic.name));
        listed.map(|topic| (topic.name.clone(), topic.partitions)).collect()
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_log_is_told_what_it_is_set_to() {
        let mut kafka = afflux_kafka::Options::default();
        let usual = log_options(None, &kafka);
        assert_eq!((usual.bytes_max, usual.producer_retention), (None, Duration::from_hours(24)));
        kafka.set([("producer.id.expiration.ms".to_owned(), "3000".to_owned())]).unwrap();
        let told = log_options(Some(1 << 30), &kafka);
        assert_eq!(
            (told.bytes_max, told.producer_retention),
            (Some(1 << 30), Duration::from_secs(3))
        );
    }
}
