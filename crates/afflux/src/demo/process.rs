//! The node of the demo: a child process that is started again when it is killed.
//!
//! 1. A thread starts `afflux up` from this very binary and waits for its ready file.
//! 2. When the child ends though nobody asked for it, it is started again on the same data and
//!    the same addresses. It may be killed any number of times while it serves, and a few times
//!    before; one that ended by itself before it served says why, and that is the demo's end.
//! 3. The child ends when its standard input does, so it never outlives this process, however
//!    that ends; and being in a process group of its own, it does not see the terminal's Ctrl-C
//!    before we have done with it.

use std::{
    io::{BufRead, BufReader},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::PathBuf,
    process::{Child, ChildStderr, Command, ExitStatus, Stdio},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use afflux_server::Addresses;
use anyhow::Context;

use crate::{
    demo::screen::Screen,
    failure::{Failure, Status},
};

/// How often the child is looked after.
const LOOK: Duration = Duration::from_millis(2);
/// How long a node may take from start to ready, recovery included.
const READY_WITHIN: Duration = Duration::from_mins(2);
/// How long a node may take to end after it was asked to.
const STOP_WITHIN: Duration = Duration::from_secs(20);
/// How many children in a row may be killed before they serve.
const KILLED_MAX: usize = 5;
/// How many lines of the child's last words are kept.
const LAST_WORDS: usize = 8;
/// How many ports behind the usual one are tried.
const PORTS_TRIED: u16 = 200;

/// Where a node is to be, and what it works on.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// Its data.
    pub(crate) data_dir: PathBuf,
    /// Where it tells that it serves.
    pub(crate) ready_file: PathBuf,
    /// Where it listens; port 0 is any free one.
    pub(crate) listen: Addresses,
}

/// A node that comes back when it is killed.
pub(crate) struct NodeProcess {
    shared: Arc<Shared>,
    guardian: Option<JoinHandle<()>>,
}

struct Shared {
    serving: AtomicBool,
    stopping: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    addresses: Option<Addresses>,
    failure: Option<Failure>,
    restarts: u64,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl NodeProcess {
    /// Starts a node and waits until it serves.
    pub(crate) fn start(place: Place, screen: &Screen) -> Result<Self, Failure> {
        let shared = Arc::new(Shared {
            serving: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let guardian = std::thread::Builder::new()
            .name("node".to_owned())
            .spawn({
                let (shared, screen) = (shared.clone(), screen.clone());
                move || {
                    if let Err(failure) = guard(place, &shared, &screen) {
                        shared.state().failure = Some(failure);
                    }
                    shared.serving.store(false, Ordering::SeqCst);
                    shared.changed.notify_all();
                }
            })
            .context("starting the thread that looks after the node")?;
        let node = Self { shared, guardian: Some(guardian) };
        let mut state = node.shared.state();
        while state.addresses.is_none() {
            if let Some(failure) = state.failure.take() {
                return Err(failure);
            }
            state = node.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        drop(state);
        Ok(node)
    }

    /// Where it serves; the same after every restart.
    pub(crate) fn addresses(&self) -> Addresses {
        self.shared.state().addresses.expect("a started node has addresses")
    }

    /// Whether it serves at this moment.
    pub(crate) fn is_serving(&self) -> bool {
        self.shared.serving.load(Ordering::SeqCst)
    }

    /// How often it was started again.
    pub(crate) fn restarts(&self) -> u64 {
        self.shared.state().restarts
    }

    /// An error if it is gone for good.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        self.shared.state().failure.take().map_or(Ok(()), Err)
    }

    /// Ends it cleanly.
    pub(crate) fn stop(mut self) -> Result<(), Failure> {
        self.shared.stopping.store(true, Ordering::SeqCst);
        if let Some(guardian) = self.guardian.take() {
            let _ = guardian.join();
        }
        self.check()
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        if let Some(guardian) = self.guardian.take() {
            let _ = guardian.join();
        }
    }
}

/// Runs one child after the other until the demo ends or a child can not be brought back.
fn guard(mut place: Place, shared: &Shared, screen: &Screen) -> Result<(), Failure> {
    let mut killed = 0;
    loop {
        let mut life = Life::begin(&place)?;
        match life.until_ready(&place, shared)? {
            Ready::Serving(addresses) => {
                killed = 0;
                place.listen = addresses;
                let pid = life.child.id();
                let mut state = shared.state();
                let again = state.addresses.replace(addresses).is_some();
                drop(state);
                shared.serving.store(true, Ordering::SeqCst);
                shared.changed.notify_all();
                screen.node(pid, again);
                let ended = life.until_end(shared)?;
                shared.serving.store(false, Ordering::SeqCst);
                if shared.stopping.load(Ordering::SeqCst) {
                    return Ok(());
                }
                shared.state().restarts += 1;
                screen.node_ended(pid, ended);
            }
            Ready::Killed => {
                shared.state().restarts += 1;
                killed += 1;
                if killed == KILLED_MAX {
                    let message = format!("the node was killed {killed} times before it served");
                    return Err(Failure::new(Status::CannotStart, message).hint(
                        "see whether the system ran out of memory, for instance with dmesg",
                    ));
                }
            }
            Ready::Stopped => return Ok(()),
        }
    }
}

enum Ready {
    Serving(Addresses),
    /// A signal ended it first.
    Killed,
    /// The demo is ending.
    Stopped,
}

/// One child, from start to end.
struct Life {
    child: Child,
    last_words: JoinHandle<Vec<String>>,
}

impl Life {
    fn begin(place: &Place) -> Result<Self, Failure> {
        let _ = std::fs::remove_file(&place.ready_file);
        let binary = std::env::current_exe().context("finding this binary")?;
        let mut command = Command::new(binary);
        command
            .arg("up")
            .arg("--until-stdin-ends")
            .arg("--data-dir")
            .arg(&place.data_dir)
            .arg("--ready-file")
            .arg(&place.ready_file)
            .args(["--kafka", &place.listen.kafka.to_string()])
            .args(["--postgres", &place.listen.postgres.to_string()])
            .args(["--http", &place.listen.http.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command.spawn().context("starting the node")?;
        let stderr = child.stderr.take().context("reading what the node says")?;
        let last_words = std::thread::spawn(move || listen(stderr));
        Ok(Self { child, last_words })
    }

    fn until_ready(&mut self, place: &Place, shared: &Shared) -> Result<Ready, Failure> {
        let begun = Instant::now();
        loop {
            // The file appears whole, because the node renames it into place.
            if let Ok(text) = std::fs::read_to_string(&place.ready_file) {
                let addresses = serde_json::from_str(&text).context("reading the ready file")?;
                return Ok(Ready::Serving(addresses));
            }
            if let Some(status) = self.child.try_wait().context("waiting for the node")? {
                return match status.code() {
                    None => Ok(Ready::Killed),
                    Some(code) => Err(self.why(code)),
                };
            }
            if shared.stopping.load(Ordering::SeqCst) {
                self.until_end(shared)?;
                return Ok(Ready::Stopped);
            }
            if begun.elapsed() > READY_WITHIN {
                let _ = self.child.kill();
                return Err(Failure::new(
                    Status::CannotStart,
                    format!("the node did not serve within {} s", READY_WITHIN.as_secs()),
                ));
            }
            std::thread::sleep(LOOK);
        }
    }

    fn until_end(&mut self, shared: &Shared) -> Result<ExitStatus, Failure> {
        let mut asked: Option<Instant> = None;
        loop {
            if let Some(status) = self.child.try_wait().context("waiting for the node")? {
                return Ok(status);
            }
            if asked.is_none() && shared.stopping.load(Ordering::SeqCst) {
                drop(self.child.stdin.take());
                asked = Some(Instant::now());
            }
            if asked.is_some_and(|asked| asked.elapsed() > STOP_WITHIN) {
                let _ = self.child.kill();
                let _ = self.child.wait();
                return Err(Failure::new(
                    Status::Failed,
                    format!("the node did not end within {} s", STOP_WITHIN.as_secs()),
                ));
            }
            std::thread::sleep(LOOK);
        }
    }

    /// What a child said that ended by itself.
    fn why(&mut self, code: i32) -> Failure {
        let words = std::mem::replace(&mut self.last_words, std::thread::spawn(Vec::new));
        let words = words.join().unwrap_or_default();
        let find = |prefix: &str| {
            words.iter().rev().find_map(|line| line.strip_prefix(prefix)).map(str::to_owned)
        };
        let status =
            if code == Status::Damaged as i32 { Status::Damaged } else { Status::CannotStart };
        let message = find("error: ")
            .unwrap_or_else(|| format!("it ended with status {code}: {}", words.join("; ")));
        let failure = Failure::new(status, format!("the node can not start: {message}"));
        match find("hint: ") {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}

/// Keeps the last lines that the child wrote.
fn listen(stderr: ChildStderr) -> Vec<String> {
    let mut words = std::collections::VecDeque::with_capacity(LAST_WORDS);
    for line in BufReader::new(stderr).lines().map_while(Result::ok) {
        if words.len() == LAST_WORDS {
            words.pop_front();
        }
        words.push_back(line);
    }
    words.into()
}

/// Addresses to listen at: those asked for, else on loopback the usual ports or the next free.
pub(crate) fn free_addresses(asked: [(Option<SocketAddr>, u16); 3]) -> Result<Addresses, Failure> {
    // Held until all are chosen, so that no two get the same.
    let mut held = Vec::new();
    let mut chosen = Vec::new();
    for (address, usual) in asked {
        if let Some(address) = address {
            chosen.push(address);
            continue;
        }
        let listener = (usual..usual.saturating_add(PORTS_TRIED))
            .find_map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok())
            .ok_or_else(|| {
                Failure::new(
                    Status::CannotStart,
                    format!("all of the {PORTS_TRIED} ports from {usual} on are in use"),
                )
            })?;
        chosen.push(listener.local_addr().context("choosing a port")?);
        held.push(listener);
    }
    Ok(Addresses { kafka: chosen[0], postgres: chosen[1], http: chosen[2] })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_is_taken_makes_way_for_the_next() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let usual = taken.local_addr().expect("an address").port();
        let asked: SocketAddr = "127.0.0.1:0".parse().expect("an address");
        let chosen = free_addresses([(None, usual), (None, usual), (Some(asked), usual)]);
        let chosen = chosen.unwrap_or_else(|failure| panic!("{failure:?}"));
        assert!(chosen.kafka.port() > usual, "{chosen:?}");
        assert!(chosen.postgres.port() > chosen.kafka.port(), "{chosen:?}");
        assert_eq!(chosen.http, asked);
    }
}
