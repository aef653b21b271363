//! Apache Kafka as a child process: one node that is its own controller.
//!
//! It runs as its own start script would run it, with the stock heap and collector and the stock
//! settings of a broker, but for these: its places and ports, one replica instead of three,
//! removed topics whose files go after a second instead of a minute (the disk must hold what many
//! rounds leave), and a log that is quiet, which is for its good.

use std::{
    env,
    fs::{self, File},
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use kafka_protocol::messages::ApiVersionsRequest;

use super::wire::Wire;

/// Says where Kafka's jars are, if this program was not started by cargo.
const CLASS_PATH: &str = "AFFLUX_KAFKA_CLASSPATH";
/// A start that takes longer has failed.
const READY_WITHIN: Duration = Duration::from_mins(1);
/// What `kafka-run-class` gives a broker.
const JVM: &[&str] = &[
    "-Xmx1G",
    "-Xms1G",
    "-server",
    "-XX:+UseG1GC",
    "-XX:MaxGCPauseMillis=20",
    "-XX:InitiatingHeapOccupancyPercent=35",
    "-XX:+ExplicitGCInvokesConcurrent",
    "-Djava.awt.headless=true",
];

/// A running Kafka; killed when dropped.
#[derive(Debug)]
pub(crate) struct Kafka {
    child: Child,
    pub(crate) address: String,
}

impl Kafka {
    /// Formats a directory, starts a node on it and waits until it answers.
    pub(crate) fn start(dir: &Path) -> Result<Self> {
        let class_path = class_path()?;
        fs::create_dir_all(dir).context("make Kafka's directory")?;
        let address = format!("127.0.0.1:{}", free_port()?);
        let controller = format!("127.0.0.1:{}", free_port()?);
        let settings = dir.join("server.properties");
        fs::write(&settings, properties(&dir.join("log"), &address, &controller))?;
        // A file, because a pipe that nobody reads would stop it.
        let said = dir.join("stderr");
        let java = |class: &str| -> Result<Command> {
            let mut command = Command::new("java");
            command.args(JVM).args(["-cp", &class_path, class]);
            let said = File::options().create(true).append(true).open(&said)?;
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(said);
            Ok(command)
        };
        let mut format = java("kafka.tools.StorageTool")?;
        format.args(["format", "--standalone", "--cluster-id", "QWZmbHV4QmVuY2htYXJrcw"]);
        let status = format.arg("--config").arg(&settings).status().context("start java")?;
        ensure!(status.success(), "Kafka's directory: {status}\n{}", fs::read_to_string(&said)?);
        let child = java("kafka.Kafka")?.arg(&settings).spawn().context("start java")?;
        let mut kafka = Self { child, address };
        kafka.wait(&said)?;
        Ok(kafka)
    }

    /// The process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    fn wait(&mut self, said: &Path) -> Result<()> {
        let started = Instant::now();
        loop {
            let answered = Wire::connect(&self.address)
                .and_then(|mut wire| wire.call(3, &ApiVersionsRequest::default()));
            let Err(error) = answered else { return Ok(()) };
            if let Some(status) = self.child.try_wait().context("look after Kafka")? {
                bail!("Kafka ended before it served: {status}\n{}", fs::read_to_string(said)?);
            }
            if started.elapsed() > READY_WITHIN {
                return Err(error.context("Kafka does not serve"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn properties(log: &Path, address: &str, controller: &str) -> String {
    format!(
        "process.roles=broker,controller\n\
         node.id=1\n\
         listeners=PLAINTEXT://{address},CONTROLLER://{controller}\n\
         advertised.listeners=PLAINTEXT://{address},CONTROLLER://{controller}\n\
         controller.listener.names=CONTROLLER\n\
         controller.quorum.bootstrap.servers={controller}\n\
         log.dirs={}\n\
         offsets.topic.replication.factor=1\n\
         transaction.state.log.replication.factor=1\n\
         transaction.state.log.min.isr=1\n\
         log.segment.delete.delay.ms=1000\n",
        log.display()
    )
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0").context("find a free port")?.local_addr()?.port())
}

/// Kafka's jars, which `cargo xtask kafka` fetches.
fn class_path() -> Result<String> {
    if let Ok(class_path) = env::var(CLASS_PATH) {
        return Ok(class_path);
    }
    let Some(cargo) = env::var_os("CARGO") else {
        bail!("start this by `cargo run`, or set {CLASS_PATH} to what `cargo xtask kafka` prints");
    };
    let mut fetch = Command::new(cargo);
    fetch.args(["run", "--quiet", "--package", "xtask", "--", "kafka"]);
    let output = fetch.stderr(Stdio::inherit()).output().context("fetch Kafka")?;
    ensure!(output.status.success(), "Kafka could not be fetched: {}", output.status);
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}
