//! What the requests and answers of all connections may take of the node's memory.
//!
//! A request counts twice in its life, against a part of [`Options::request_bytes_max`] each time:
//! 1. While it comes, by the bytes that there is room for. What is only announced costs nothing, so
//!    nobody takes room from others by words. When this part is used up, one request at a time goes on
//!    without paying, and has to hurry: those that stand still keep no other from coming. What is
//!    short comes without paying, so that a heartbeat waits for no record.
//! 2. Once it is whole, by its [`cost`], until its answer is there. What produces has a share of its
//!    own, for its answer waits for the node alone. Of all others a connection has one at a time, so that
//!    short ones need not pay; long ones share what is left, none has more than a quarter of that, and
//!    none keeps it while it waits long: see [`crate::fetch`] and [`crate::dispatch`].
//!
//! Answers count against [`Options::answer_bytes_max`] until their clients have taken them. When that is
//! used up those of Fetch are small, and not late: nobody waits for a client that does not read. Others
//! are as large as they are: a long one keeps what its request has paid, and has to be taken in a hurry.

use std::{sync::Arc, time::Duration};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::Options;

/// A request or an answer up to this length is short.
pub(crate) const SHORT_BYTES: usize = 64 << 10;
/// In what all is counted.
const UNIT_BYTES: usize = 1 << 10;
/// What an element of a request takes once it is decoded, about.
const ELEMENT_BYTES: usize = 64;
/// What an answer may have if there is room for none.
const ANSWER_BYTES_MIN: usize = 128 << 10;
/// How long may take who keeps others from something, beside a second for so many bytes.
const HURRY: Duration = Duration::from_secs(1);
const HURRIED_BYTES: usize = 1 << 20;

/// A part of it, given back when it is dropped.
pub(crate) type Paid = OwnedSemaphorePermit;

#[derive(Debug)]
pub(crate) struct Budget {
    coming: Arc<Semaphore>,
    /// The one that comes without paying has it.
    turn: Arc<Semaphore>,
    producing: Arc<Semaphore>,
    long: Arc<Semaphore>,
    /// Of each of these two.
    share: usize,
    answers: Arc<Semaphore>,
}

fn units(bytes: usize) -> usize {
    bytes.div_ceil(UNIT_BYTES)
}

/// How long so many bytes may take of one that keeps others from something.
pub(crate) fn hurry(bytes: usize) -> Duration {
    HURRY + Duration::from_secs(bytes.div_ceil(HURRIED_BYTES) as u64)
}

/// What a whole request takes, of so many bytes and elements, about. Up to [`SHORT_BYTES`] it is short.
pub(crate) fn cost(bytes: usize, elements: usize) -> usize {
    bytes + elements * ELEMENT_BYTES
}

impl Budget {
    pub(crate) fn new(options: &Options) -> Self {
        let room = |bytes| Arc::new(Semaphore::new(units(bytes).min(Semaphore::MAX_PERMITS)));
        let share = options.request_bytes_max / 4;
        Self {
            coming: room(2 * share),
            turn: Arc::new(Semaphore::new(1)),
            producing: room(share),
            long: room(share),
            share: units(share),
            answers: room(options.answer_bytes_max),
        }
    }

    /// Begins to count a request that comes.
    pub(crate) fn coming(&self) -> Coming<'_> {
        Coming { budget: self, bytes: 0, paid: None, turn: None }
    }

    /// Waits until there is room for a whole request. One that takes more than it may have has the
    /// most that it may.
    pub(crate) async fn whole(&self, cost: usize, produces: bool) -> Option<Paid> {
        let (share, most) = match produces {
            true => (&self.producing, self.share),
            false if cost <= SHORT_BYTES => return None,
            false => (&self.long, self.share / 4),
        };
        let cost = units(cost).clamp(1, most.max(1));
        // Nobody ever closes it.
        let share = Arc::clone(share);
        share.acquire_many_owned(u32::try_from(cost).unwrap_or(u32::MAX)).await.ok()
    }

    /// The part of an answer that has so many bytes; none if there is no room for it.
    pub(crate) fn answered(&self, bytes: usize) -> Option<Paid> {
        let answers = Arc::clone(&self.answers);
        answers.try_acquire_many_owned(u32::try_from(units(bytes)).unwrap_or(u32::MAX)).ok()
    }

    /// How large an answer may be of which so much is wanted, and its part.
    pub(crate) fn answer(&self, wanted: usize) -> (usize, Option<Paid>) {
        let cost = units(wanted).min(self.answers.available_permits());
        let answers = Arc::clone(&self.answers);
        let paid = answers.try_acquire_many_owned(u32::try_from(cost).unwrap_or(u32::MAX)).ok();
        let room = paid.as_ref().map_or(0, |paid| paid.num_permits() * UNIT_BYTES);
        (wanted.min(room.max(ANSWER_BYTES_MIN)), paid)
    }
}

/// Gives back what was paid for more than this.
pub(crate) fn refund(paid: &mut Option<Paid>, bytes: usize) {
    if let Some(paid) = paid {
        drop(paid.split(paid.num_permits().saturating_sub(units(bytes))));
    }
}

/// A request that comes.
pub(crate) struct Coming<'a> {
    budget: &'a Budget,
    bytes: usize,
    paid: Option<Paid>,
    turn: Option<Paid>,
}

impl Coming<'_> {
    /// Waits until so much of a request may be there. If the rest of it has to hurry from now on:
    /// how long it may take.
    pub(crate) async fn room(&mut self, bytes: usize, length: usize) -> Option<Duration> {
        if length <= SHORT_BYTES || bytes <= self.bytes || self.turn.is_some() {
            return None;
        }
        let more = units(bytes) - units(self.bytes);
        let (coming, turn) = (Arc::clone(&self.budget.coming), Arc::clone(&self.budget.turn));
        let coming = coming.acquire_many_owned(u32::try_from(more).unwrap_or(u32::MAX));
        tokio::select! {
            biased;
            Ok(more) = coming => match &mut self.paid {
                Some(paid) => paid.merge(more),
                paid => *paid = Some(more),
            },
            Ok(turn) = turn.acquire_owned() => {
                self.turn = Some(turn);
                return Some(hurry(length - self.bytes));
            }
        }
        self.bytes = bytes;
        None
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use super::*;

    const MIB: usize = 1 << 20;

    fn budget(requests: usize, answers: usize) -> Budget {
        let options = Options {
            request_bytes_max: requests,
            answer_bytes_max: answers,
            ..Options::default()
        };
        Budget::new(&options)
    }

    fn poll<T>(future: std::pin::Pin<&mut impl Future<Output = T>>) -> Poll<T> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[tokio::test]
    async fn who_stands_still_keeps_one_other_at_a_time_from_nothing() {
        let budget = budget(8 * MIB, 0);
        let mut still = [(); 4].map(|()| budget.coming());
        for one in &mut still {
            assert_eq!(one.room(MIB, 100 * MIB).await, None);
        }
        // One goes on, and has to hurry.
        let mut first = budget.coming();
        let hurry = first.room(MIB, 5 * MIB).await;
        assert_eq!(hurry, Some(Duration::from_secs(6)));
        assert_eq!(first.room(4 * MIB, 5 * MIB).await, None);
        // The next waits for it, and for nobody else.
        let mut second = budget.coming();
        {
            let mut waits = std::pin::pin!(second.room(MIB, 2 * MIB));
            assert!(poll(waits.as_mut()).is_pending());
            drop(first);
            assert_eq!(poll(waits.as_mut()), Poll::Ready(Some(Duration::from_secs(3))));
        }
        // A short one pays nothing.
        assert_eq!(budget.coming().room(SHORT_BYTES, SHORT_BYTES).await, None);
        drop(still);
        drop(second);
        assert_eq!(budget.coming.available_permits(), units(4 * MIB));
        assert_eq!(budget.turn.available_permits(), 1);
    }

    #[tokio::test]
    async fn what_is_whole_counts_until_it_is_answered() {
        let budget = budget(4 * MIB, 0);
        let all = budget.whole(10 * MIB, true).await.unwrap();
        let mut waits = std::pin::pin!(budget.whole(1, true));
        assert!(poll(waits.as_mut()).is_pending());
        // No other takes all of what others may have.
        let mut long = Vec::new();
        for _ in 0..4 {
            long.push(budget.whole(10 * MIB, false).await.unwrap());
        }
        let of_many = cost(1, 2_000);
        let mut next = std::pin::pin!(budget.whole(of_many, false));
        assert!(poll(next.as_mut()).is_pending());
        // A short one does not pay.
        assert!(budget.whole(cost(1, 100), false).await.is_none());
        drop(all);
        assert!(poll(waits.as_mut()).is_ready());
        assert!(poll(next.as_mut()).is_pending());
        long.pop();
        let next = next.await.unwrap();
        assert_eq!(next.num_permits(), units(of_many));
    }

    #[test]
    fn answers_get_smaller_and_do_not_wait() {
        let budget = budget(0, MIB);
        let (large, mut paid) = budget.answer(MIB - 10);
        assert_eq!(large, MIB - 10);
        let (small, nothing) = budget.answer(MIB);
        assert_eq!((small, nothing.unwrap().num_permits()), (ANSWER_BYTES_MIN, 0));
        refund(&mut paid, 300 << 10);
        let (rest, _paid) = budget.answer(MIB);
        assert_eq!(rest, MIB - (300 << 10));
        refund(&mut paid, 0);
        assert_eq!(budget.answer(10).0, 10);
    }
}
