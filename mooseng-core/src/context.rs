//! What travels with every call. Pure.

use crate::{
    ids::{FsId, SessionStamp, SlotStamp, SpanId, TraceId},
    net::PeerIdentity,
};
use serde::{Deserialize, Serialize};
use std::{sync::Arc, time::Duration};

/// Who asks, as POSIX permission checks see it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Credentials {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups, at most [`crate::limits::GROUPS_MAX`].
    pub groups: Vec<u32>,
}

impl Credentials {
    /// The superuser.
    pub const fn root() -> Self {
        Self { uid: 0, gid: 0, groups: Vec::new() }
    }
    /// A user with one group.
    pub const fn user(uid: u32, gid: u32) -> Self {
        Self { uid, gid, groups: Vec::new() }
    }
    /// Whether the caller is in the group.
    pub fn in_group(&self, gid: u32) -> bool {
        self.gid == gid || self.groups.contains(&gid)
    }
    /// Whether the caller is the superuser.
    pub const fn is_root(&self) -> bool {
        self.uid == 0
    }
}

/// What travels with every call: time left, who asks, under which session, as which mutation.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CallContext {
    /// Time left for the call, counted by each hop from when it received it. Never an instant.
    pub budget: Duration,
    /// Which filesystem is meant.
    pub fs: FsId,
    /// Who asks.
    pub creds: Credentials,
    /// Under which session and epoch; absent before one is opened, and between servers.
    pub session: Option<SessionStamp>,
    /// Names a mutation so that a retry gets the first answer.
    pub slot: Option<SlotStamp>,
    /// Groups what belongs to one call.
    pub trace: TraceId,
    /// The caller's span, when the trace is kept.
    pub span: SpanId,
    /// Who is at the other end of the connection. Never on the wire: the dispatcher fills it in
    /// from the connection, an in-process caller by itself.
    #[serde(skip)]
    pub peer: Option<Arc<PeerIdentity>>,
}

impl CallContext {
    /// A call of the superuser outside any session: between servers, and in tests.
    pub const fn internal(budget: Duration) -> Self {
        Self {
            budget,
            fs: FsId(0),
            creds: Credentials::root(),
            session: None,
            slot: None,
            trace: TraceId(0),
            span: SpanId(0),
            peer: None,
        }
    }
    /// The same call with another time limit.
    #[must_use]
    pub fn with_budget(mut self, budget: Duration) -> Self {
        self.budget = budget;
        self
    }
}

impl Default for CallContext {
    fn default() -> Self {
        Self::internal(Duration::from_secs(crate::limits::CALL_DEADLINE_SECS))
    }
}
