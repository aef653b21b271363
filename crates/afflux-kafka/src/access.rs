//! Who may do what: everybody everything, for there is no access control yet. What is answered is what
//! Kafka answers without an authorizer: whoever asks may do with a thing all that can be done with
//! things of its kind.
//!
//! ```text
//! bit  3 read · 4 write · 5 create · 6 delete · 7 alter · 8 describe · 9 act for the cluster
//!      10 describe settings · 11 alter settings · 12 write idempotently
//! ```

/// What is answered to who did not ask.
const UNTOLD: i32 = i32::MIN;

/// A kind of thing, by the bits of what can be done with it.
#[derive(Clone, Copy)]
pub(crate) struct Kind(i32);

/// The whole cluster.
pub(crate) const CLUSTER: Kind = Kind(0b1_1111_1010_0000);
/// A group.
pub(crate) const GROUP: Kind = Kind(0b0_1101_0100_1000);
/// A topic.
pub(crate) const TOPIC: Kind = Kind(0b0_1101_1111_1000);

impl Kind {
    /// What may be done, for who wants to know it.
    pub(crate) fn told(self, is_asked: bool) -> i32 {
        if is_asked { self.0 } else { UNTOLD }
    }
}
