//! The handle that servers hold, and the thread behind it.
//!
//! The thread alternates between the line ([`crate::line::Line::step`], synchronous) and waiting
//! for what the line said it waits for. Everything else runs on the caller's side: DDL on a
//! blocking thread, reads and followers wherever they are polled.
//!
//! Whoever encodes, decodes or computes a plan recurses as deep as its expressions nest, and those
//! of a view may be hundreds deep: what does so has a stack of [`STACK_BYTES`].

use std::{
    io,
    panic::resume_unwind,
    sync::{Arc, Weak},
    thread,
    time::Duration,
};

use afflux_catalog::Catalog;
use afflux_env::Env;
use afflux_log::{Log, Ticket};
use afflux_sql::Statement;
use afflux_types::ObjectId;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc, watch};

use crate::{
    EngineError, EngineOptions,
    ddl::{self, Ddl, DdlOutcome},
    follow::{Follower, LOG_READERS_MAX},
    line::{Line, Step},
    published::{Pinned, Published, Shared},
    status::PipelineStatus,
    token::ResumeToken,
};

/// An engine that can not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// What is in the log does not make a catalog.
    #[error(transparent)]
    Load(#[from] EngineError),
    /// The system gave no thread.
    #[error("the engine's thread can not be started: {0}")]
    Thread(#[from] io::Error),
}

impl afflux_types::Classified for StartError {
    fn kind(&self) -> afflux_types::ErrorKind {
        match self {
            Self::Load(error) => error.kind(),
            Self::Thread(_) => afflux_types::ErrorKind::Unavailable,
        }
    }
    fn hint(&self) -> Option<String> {
        match self {
            Self::Load(error) => error.hint(),
            Self::Thread(_) => None,
        }
    }
}

/// Only what is used of it takes memory. The deepest view that the dialect takes needs a
/// fraction, also in a debug build.
const STACK_BYTES: usize = 64 << 20;

/// Does some work on a thread with room for deep plans.
fn with_room<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new()
            .name("afflux-ddl".to_owned())
            .stack_size(STACK_BYTES)
            .spawn_scoped(scope, work)?;
        Ok(thread.join().unwrap_or_else(|panic| resume_unwind(panic)))
    })
}

/// Runs every pipeline of a node. Cheap to clone; stops when the last clone is gone or
/// [`Engine::shutdown`] is called.
#[derive(Clone)]
pub struct Engine {
    shared: Arc<Shared>,
    ddl: Arc<Ddl>,
    running: Arc<Running>,
}

struct Running {
    stop: watch::Sender<bool>,
    stopped: watch::Receiver<bool>,
    thread: Mutex<Option<thread::JoinHandle<()>>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

impl Engine {
    /// Folds the DDL topic and starts the thread, which then brings the pipelines back. Blocks
    /// for as long as reading the DDL topic and the static tables takes.
    pub fn start(env: Env, log: Arc<dyn Log>, options: EngineOptions) -> Result<Self, StartError> {
        let shared = with_room(|| shared(env, log, options))??;
        let (commands, received) = mpsc::unbounded_channel();
        let ddl = Arc::new(Ddl::new(Arc::clone(&shared), commands, Box::new(Ticket::wait)));
        let (stop, stopping) = watch::channel(false);
        let (ended, stopped) = watch::channel(false);
        let line = Line::new(Arc::clone(&shared), received);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let halted = Arc::downgrade(&shared);
        let builder = thread::Builder::new().name("afflux-line".to_owned());
        let thread = builder.stack_size(STACK_BYTES).spawn(move || {
            let last_will = LastWill { shared: halted, ended };
            run(line, &runtime, stopping);
            drop(last_will);
        })?;
        let running = Running { stop, stopped, thread: Mutex::new(Some(thread)) };
        Ok(Self { shared, ddl, running: Arc::new(running) })
    }

    /// The catalog now.
    pub fn catalog(&self) -> Catalog {
        self.shared.published.lock().catalog.clone()
    }

    /// Runs a statement that defines or removes something. Durable when it returns. A new view
    /// fills afterwards; [`Engine::pin`] waits for it.
    pub async fn execute(&self, statement: Statement) -> Result<DdlOutcome, EngineError> {
        let ddl = Arc::clone(&self.ddl);
        tokio::task::spawn_blocking(move || with_room(|| ddl.execute(statement)))
            .await
            .map_err(io::Error::other)
            .and_then(|done| done)
            .map_err(|error| EngineError::Halted(error.to_string()))?
    }

    /// Views and tables at one durable tick. Waits for views that catch up, at most
    /// [`EngineOptions::pin_timeout`].
    pub async fn pin(&self, relations: &[ObjectId]) -> Result<Pinned, EngineError> {
        self.shared.pin(relations).await
    }

    /// Follows a view: from a token on, or from a snapshot.
    pub fn follow(
        &self,
        view: ObjectId,
        from: Option<ResumeToken>,
    ) -> Result<Follower, EngineError> {
        Follower::new(Arc::clone(&self.shared), view, from)
    }

    /// How the pipelines are, oldest view first.
    pub fn status(&self) -> Vec<PipelineStatus> {
        self.shared.status()
    }

    /// Resolves, with the reason, once nothing will be published any more.
    pub async fn halted(&self) -> String {
        let mut stopped = self.running.stopped.clone();
        // An error means that the thread is gone already.
        let _ = stopped.wait_for(|stopped| *stopped).await;
        self.shared.published.lock().halted.clone().unwrap_or_default()
    }

    /// Stops the thread and waits for it. What was submitted is in the log's hands; readers and
    /// followers get [`EngineError::Halted`].
    pub async fn shutdown(&self) {
        self.running.stop.send_replace(true);
        let mut stopped = self.running.stopped.clone();
        // An error means that the thread is gone already.
        let _ = stopped.wait_for(|stopped| *stopped).await;
        let thread = self.running.thread.lock().take();
        if let Some(thread) = thread {
            // It has said that it is done; a panic of its was reported by its hook.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
impl Engine {
    pub(crate) fn log_readers(&self) -> Arc<Semaphore> {
        Arc::clone(&self.shared.log_readers)
    }
}

/// What handle, followers and line share, with the catalog loaded.
pub(crate) fn shared(
    env: Env,
    log: Arc<dyn Log>,
    options: EngineOptions,
) -> Result<Arc<Shared>, EngineError> {
    let shared = Arc::new(Shared {
        env,
        log,
        options,
        published: Mutex::new(Published::default()),
        log_readers: Arc::new(Semaphore::new(LOG_READERS_MAX)),
        changed: watch::Sender::new(0),
    });
    ddl::load(&shared)?;
    Ok(shared)
}

/// Tells readers that nothing will come any more, also if the thread panics.
struct LastWill {
    shared: Weak<Shared>,
    ended: watch::Sender<bool>,
}

impl Drop for LastWill {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.upgrade() {
            let mut published = shared.published.lock();
            let reason = if thread::panicking() { "a fault in the engine" } else { "shut down" };
            published.halted.get_or_insert_with(|| reason.to_owned());
            drop(published);
            shared.wake();
        }
        self.ended.send_replace(true);
    }
}

/// How far behind the log the line may be while nothing is made of it.
const UNUSED: Duration = Duration::from_millis(100);

fn run(mut line: Line, runtime: &tokio::runtime::Runtime, mut stopping: watch::Receiver<bool>) {
    let log = line.log();
    let (mut appended, mut durable) = (log.appended(), log.durable());
    loop {
        if *stopping.borrow() {
            return;
        }
        appended.mark_unchanged();
        durable.mark_unchanged();
        let (until, on_append) = match line.step() {
            Step::Again => continue,
            Step::Halted => return,
            Step::Wait { until, on_append } => (until, on_append),
        };
        let unused = line.is_unused();
        let (until, on_append) = if unused { (None, true) } else { (until, on_append) };
        runtime.block_on(async {
            let grown = async {
                let _ = appended.changed().await;
                if unused {
                    tokio::time::sleep(UNUSED).await;
                }
            };
            tokio::select! {
                _ = stopping.changed() => {}
                () = grown, if on_append => {}
                _ = durable.changed(), if !unused => {}
                () = line.stirred() => {}
                () = async { tokio::time::sleep(until.unwrap_or_default()).await },
                    if until.is_some() => {}
            }
        });
    }
}

/// Drives DDL and the line by hand, for tests.
#[cfg(test)]
pub(crate) fn by_hand(
    env: Env,
    log: Arc<dyn Log>,
    options: EngineOptions,
    settle: ddl::Settle,
) -> Result<(Arc<Shared>, Ddl, Line), EngineError> {
    let shared = shared(env, log, options)?;
    let (commands, received) = mpsc::unbounded_channel();
    let ddl = Ddl::new(Arc::clone(&shared), commands, settle);
    let line = Line::new(Arc::clone(&shared), received);
    Ok((shared, ddl, line))
}
