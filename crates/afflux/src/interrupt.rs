//! Ctrl-C and SIGTERM, as a question that loops may ask.
//!
//! 1. [`Interrupt::watch`] starts a thread that waits for the first signal.
//! 2. Loops ask [`Interrupt::came`] often, and end cleanly.
//! 3. A second signal ends the process at once, should a loop not come to its end.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use anyhow::{Context, Result};

/// Whether the user wants an end. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Takes over the handling of signals for the rest of the process.
    pub(crate) fn watch() -> Result<Self> {
        let came = Arc::new(AtomicBool::new(false));
        let flag = came.clone();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("starting the thread that waits for signals")?;
        // Registered before this returns, so that no signal falls between.
        let mut signals = {
            let _guard = runtime.enter();
            Signals::new()?
        };
        std::thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    signals.next().await;
                    flag.store(true, Ordering::SeqCst);
                    signals.next().await;
                    std::process::exit(130);
                });
            })
            .context("starting the thread that waits for signals")?;
        Ok(Self(came))
    }

    /// Whether a signal has come.
    pub(crate) fn came(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// The signals that ask for a clean end.
pub(crate) struct Signals {
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    /// Takes over their handling. Must be called inside a runtime.
    pub(crate) fn new() -> Result<Self> {
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            Ok(Self {
                interrupt: signal(SignalKind::interrupt()).context("handling Ctrl-C")?,
                terminate: signal(SignalKind::terminate()).context("handling SIGTERM")?,
            })
        }
        #[cfg(not(unix))]
        Ok(Self {})
    }

    /// Waits for the next one.
    pub(crate) async fn next(&mut self) {
        #[cfg(unix)]
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
        #[cfg(not(unix))]
        {
            let _ = tokio::signal::ctrl_c().await;
        }
    }
}
