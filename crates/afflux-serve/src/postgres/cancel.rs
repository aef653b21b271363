//! Cancel requests: they come on a connection of their own and name the one to cancel.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI32, Ordering},
    },
};

use afflux_env::Random;
use tokio_util::sync::CancellationToken;

/// The sessions that can be cancelled.
#[derive(Default)]
pub(super) struct Cancels {
    next: AtomicI32,
    sessions: Mutex<HashMap<i32, (i32, Arc<Slot>)>>,
}

type Slot = Mutex<Option<CancellationToken>>;

/// A session's entry, gone when it is dropped.
pub(super) struct Entry {
    cancels: Arc<Cancels>,
    pub(super) process: i32,
    pub(super) secret: i32,
    slot: Arc<Slot>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Nothing in here can be left half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Cancels {
    /// Enters a session under a new number and secret.
    pub(super) fn enter(self: &Arc<Self>, random: &dyn Random) -> Entry {
        let process = self.next.fetch_add(1, Ordering::Relaxed).wrapping_add(1) & i32::MAX;
        let secret = random.next_u64() as i32;
        let slot = Arc::new(Slot::default());
        lock(&self.sessions).insert(process, (secret, Arc::clone(&slot)));
        Entry { cancels: Arc::clone(self), process, secret, slot }
    }

    /// Cancels what a session is doing, if the secret is right. Nobody is told whether it was.
    pub(super) fn cancel(&self, process: i32, secret: &[u8]) {
        let slot = match lock(&self.sessions).get(&process) {
            Some((known, slot)) if known.to_be_bytes() == secret => Arc::clone(slot),
            _ => return,
        };
        if let Some(running) = lock(&slot).take() {
            running.cancel();
        }
    }
}

impl Entry {
    /// From now on a cancel request means this token.
    pub(super) fn begin(&self, running: CancellationToken) {
        *lock(&self.slot) = Some(running);
    }

    /// Nothing is running.
    pub(super) fn end(&self) {
        *lock(&self.slot) = None;
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        lock(&self.cancels.sessions).remove(&self.process);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed;

    impl Random for Fixed {
        fn next_u64(&self) -> u64 {
            0x0102_0304
        }
    }

    #[test]
    fn only_the_secret_cancels_and_only_what_runs() {
        let cancels = Arc::new(Cancels::default());
        let entry = cancels.enter(&Fixed);
        let check = |secret: &[u8], process: i32, expected: bool| {
            let running = CancellationToken::new();
            entry.begin(running.clone());
            cancels.cancel(process, secret);
            assert_eq!(running.is_cancelled(), expected);
        };
        check(&[1, 2, 3, 4], entry.process, true);
        check(&[1, 2, 3, 5], entry.process, false);
        check(&[1, 2, 3], entry.process, false);
        check(&[1, 2, 3, 4], entry.process + 1, false);
        let running = CancellationToken::new();
        entry.begin(running.clone());
        entry.end();
        cancels.cancel(entry.process, &[1, 2, 3, 4]);
        assert!(!running.is_cancelled());
        drop(entry);
        assert!(lock(&cancels.sessions).is_empty());
    }
}
