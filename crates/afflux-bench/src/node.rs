//! A node as a child process: the released program, not a library of it.

use std::{
    env,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

/// A node that takes longer than this to serve will not.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// Where the node serves, as its ready file says.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Addresses {
    pub(crate) kafka: String,
    pub(crate) http: String,
}

/// A running node; killed when dropped.
#[derive(Debug)]
pub(crate) struct Node {
    child: Child,
    pub(crate) addresses: Addresses,
    /// From the start of the process to the ready file.
    pub(crate) ready_after: Duration,
}

/// The directory of this program, where `afflux` is built too.
pub(crate) fn program_dir() -> Result<PathBuf> {
    let program = env::current_exe().context("find this program")?;
    program.parent().map(Path::to_path_buf).context("this program lies in no directory")
}

/// Builds `afflux` in the profile of this program and returns where it is. When this program was
/// not started by cargo, what was built last is taken.
pub(crate) fn program() -> Result<PathBuf> {
    if let Some(cargo) = env::var_os("CARGO") {
        let mut build = Command::new(cargo);
        build.args(["build", "--quiet", "--package", "afflux"]);
        if !cfg!(debug_assertions) {
            build.arg("--release");
        }
        let status = build.stdin(Stdio::null()).status().context("build afflux")?;
        if !status.success() {
            bail!("afflux could not be built: {status}");
        }
    }
    let program = program_dir()?.join(format!("afflux{}", env::consts::EXE_SUFFIX));
    if !program.is_file() {
        bail!("{} is not there: cargo build --release -p afflux", program.display());
    }
    Ok(program)
}

impl Node {
    /// Starts a node on free ports of the loopback and waits until it serves.
    pub(crate) fn start(program: &Path, data_dir: &Path) -> Result<Self> {
        let ready_file = data_dir.with_extension("ready");
        // One of an earlier start; a missing one is as good.
        let _ = fs::remove_file(&ready_file);
        // A file, because a pipe that nobody reads would stop the node.
        let said = data_dir.with_extension("stderr");
        let stderr = File::create(&said).context("keep what the node says")?;
        let started = Instant::now();
        let mut child = Command::new(program)
            .arg("up")
            .arg("--data-dir")
            .arg(data_dir)
            .args(["--kafka", "127.0.0.1:0", "--postgres", "127.0.0.1:0", "--http", "127.0.0.1:0"])
            .arg("--ready-file")
            .arg(&ready_file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        let ready = wait_for(&ready_file, &said, started, &mut child);
        let ready_after = started.elapsed();
        match ready {
            Ok(addresses) => Ok(Self { child, addresses, ready_after }),
            Err(error) => {
                // It may have ended by itself, which is what the error says.
                let _ = child.kill();
                let _ = child.wait();
                Err(error)
            }
        }
    }

    /// The process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Runs SQL statements over HTTP. An error says what the node answered.
    pub(crate) fn sql(&self, text: &str) -> Result<()> {
        let url = format!("http://{}/v1/sql", self.addresses.http);
        let agent: ureq::Agent =
            ureq::Agent::config_builder().http_status_as_error(false).build().into();
        let mut response = agent.post(&url).send_json(serde_json::json!({ "query": text }))?;
        let answer = response.body_mut().read_to_string()?;
        if !response.status().is_success() {
            bail!("the node refused `{text}`: {answer}");
        }
        Ok(())
    }

    /// Ends the node and waits until it is gone.
    pub(crate) fn stop(mut self) -> Result<()> {
        self.child.kill().context("end the node")?;
        self.child.wait().context("wait for the node's end")?;
        Ok(())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Already gone after `stop`.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn wait_for(
    ready_file: &Path,
    said: &Path,
    started: Instant,
    child: &mut Child,
) -> Result<Addresses> {
    loop {
        // It is renamed into place, so a file that is there is whole.
        if let Ok(text) = fs::read_to_string(ready_file) {
            return serde_json::from_str(&text).context("read the ready file");
        }
        if let Some(status) = child.try_wait().context("look after the node")? {
            let said = fs::read_to_string(said).context("read what the node said")?;
            bail!("the node ended before it served: {status}\n{said}");
        }
        if started.elapsed() > READY_WITHIN {
            bail!("the node does not serve after {} s", READY_WITHIN.as_secs());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
