//! One step of a member towards the target, taken when it is heard of.
//!
//! ```text
//!                 must give up               must wait for others
//!  ┌────────┐ ───────────────▶ ┌───────────┐        ┌────────────┐
//!  │ Stable │                  │ Unrevoked │ ─────▶ │ Unreleased │ ──▶ Stable
//!  └────────┘ ◀─────────────── └───────────┘        └────────────┘
//!                 gave it up, gets the rest
//! ```
//! 1. Of what it holds, what the target does not have is to be given up. Until it says that it
//!    holds nothing of that any more, it keeps its epoch and gets nothing new.
//! 2. Then it moves to the target's epoch, and gets what the target has and nobody owns.
//! 3. If something of the target is still owned, it waits for that, heartbeat by heartbeat.

use std::time::Duration;

use super::{Group, Member, Progress};
use crate::group::{MemberId, Parts, records::Key};

impl Group {
    /// Takes a member one step further. `owned` is what it says that it holds, if it says so.
    pub(super) fn reconcile(&mut self, now: Duration, id: &MemberId, owned: Option<&Parts>) {
        let Some(member) = self.members.get(id) else { return };
        let still_holds = |revoking: &Parts| owned.is_none_or(|owned| !owned.is_disjoint(revoking));
        match member.progress {
            Progress::Stable if member.epoch == self.target_epoch => return,
            Progress::Unrevoked if still_holds(&member.revoking) => return,
            Progress::Stable | Progress::Unrevoked | Progress::Unreleased => {}
        }
        let nothing = Parts::new();
        let wanted = self.topics_of(member);
        let target = self.target.get(id).unwrap_or(&nothing);
        let target: Parts =
            target.iter().filter(|(topic, _)| wanted.contains(topic)).copied().collect();
        let kept: Parts = member.assigned.intersection(&target).copied().collect();
        let revoking: Parts = member.assigned.difference(&kept).copied().collect();
        let is_free = |part: &&(_, _)| self.owners.get(*part).is_none_or(|owner| owner == id);
        let missing: Parts = target.difference(&kept).copied().collect();
        let given: Parts = missing.iter().filter(is_free).copied().collect();

        let mut next = member.clone();
        if !revoking.is_empty() && still_holds(&revoking) {
            next.progress = Progress::Unrevoked;
            next.assigned = kept;
            next.revoking = revoking;
        } else {
            let all = given.len() == missing.len();
            next.progress = if all { Progress::Stable } else { Progress::Unreleased };
            if member.epoch != self.target_epoch {
                next.previous = member.epoch;
                next.epoch = self.target_epoch;
            }
            next.assigned = kept.union(&given).copied().collect();
            next.revoking = Parts::new();
        }
        self.move_to(now, id, next);
    }

    /// A member has a new standing: owners follow it, and it is stored.
    fn move_to(&mut self, now: Duration, id: &MemberId, mut next: Member) {
        let Some(member) = self.members.get_mut(id) else { return };
        // Who speaks the classic protocol has deadlines of its own for joining and syncing.
        if next.classic.is_none() {
            next.due = match (next.progress, member.progress) {
                (Progress::Unrevoked, Progress::Unrevoked) if next.revoking == member.revoking => {
                    member.due
                }
                (Progress::Unrevoked, _) => Some(now + next.rebalance),
                _ => None,
            };
        }
        if next == *member {
            return;
        }
        for part in member.assigned.iter().chain(&member.revoking) {
            if self.owners.get(part) == Some(id) {
                self.owners.remove(part);
            }
        }
        for part in next.assigned.iter().chain(&next.revoking) {
            self.owners.insert(*part, id.clone());
        }
        *member = next;
        self.changed.insert(Key::Current(self.id.clone(), id.clone()));
    }
}
