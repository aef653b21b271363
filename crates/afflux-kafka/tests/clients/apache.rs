//! Apache Kafka itself, one node, to be asked what is right.

use std::{
    net::TcpListener,
    process::{Child, Command},
    time::Duration,
};

use rdkafka::{
    ClientConfig,
    producer::{BaseProducer, Producer},
};
use tempfile::TempDir;

use crate::{java, scenarios::Broker};

/// How long it may take to start.
const PATIENCE: Duration = Duration::from_mins(1);

pub(crate) struct Apache {
    node: Child,
    bootstrap: String,
    _directory: TempDir,
}

impl Apache {
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        // Both are free at the same time, and so not the same.
        let ports = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [broker, controller] = ports.map(|port| port.local_addr().unwrap().to_string());
        let data = directory.path().join("data");
        let settings = directory.path().join("server.properties");
        let text = format!(
            "process.roles=broker,controller\n\
             node.id=1\n\
             controller.quorum.bootstrap.servers={controller}\n\
             listeners=PLAINTEXT://{broker},CONTROLLER://{controller}\n\
             controller.listener.names=CONTROLLER\n\
             log.dirs={}\n\
             auto.create.topics.enable=false\n\
             offsets.topic.replication.factor=1\n\
             offsets.topic.num.partitions=1\n\
             transaction.state.log.replication.factor=1\n\
             transaction.state.log.min.isr=1\n\
             transaction.state.log.num.partitions=1\n\
             group.initial.rebalance.delay.ms=200\n\
             group.consumer.heartbeat.interval.ms=200\n\
             group.consumer.min.heartbeat.interval.ms=200\n",
            data.display()
        );
        std::fs::write(&settings, text).unwrap();
        let format = ["format", "--standalone", "-t", "AAAAAAAAAAAAAAAAAAAAAQ", "-c"];
        let done =
            java::kafka("kafka.tools.StorageTool").args(format).arg(&settings).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let mut command: Command = java::kafka("kafka.Kafka");
        let node = command.arg(&settings).current_dir(directory.path()).spawn().unwrap();
        let started = Self { node, bootstrap: broker, _directory: directory };
        let client: BaseProducer =
            ClientConfig::new().set("bootstrap.servers", &started.bootstrap).create().unwrap();
        client.client().fetch_metadata(None, PATIENCE).unwrap();
        started
    }
}

impl Broker for Apache {
    fn bootstrap(&self) -> String {
        self.bootstrap.clone()
    }

    /// It is not what is tried.
    fn restart(&mut self) {}
}

impl Drop for Apache {
    fn drop(&mut self) {
        let _ = self.node.kill();
        let _ = self.node.wait();
    }
}
