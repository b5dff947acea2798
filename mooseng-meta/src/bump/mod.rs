//! The rules of a chunk's bump. Pure: the driver in `service` asks the servers and acts, these decide, by what the
//! servers answered and what the leader remembers of them.
//!
//! ```text
//!   asked ─ Found::told ─ decide ─┬─ Leave, Wait, copies ahead
//!                                 └─ BumpStart ─ Taken ─┬─ stuck
//!                                                       └─ fill ─┬─ is_short, Past::again ─ decide
//!                                                                └─ asked_again ─ BumpOpen ─ Opened
//! ```

mod carry;
mod decide;

pub use carry::{Opened, Taken, asked_again, given_up, has_version, is_short, note_filled};
pub use decide::{Decision, Known, Look, asked, decide, hurry};

use mooseng_core::ids::ServerId;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// What the bumps of a chunk have met since it was in order.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Past {
    /// Members that no other could be made equal to.
    pub uncopied: BTreeSet<ServerId>,
    /// How often members could not take part.
    pub unfilled: BTreeMap<ServerId, u8>,
    /// How often a version was not opened, for it had too few members; and since when.
    pub short: Option<(u8, Duration)>,
}
