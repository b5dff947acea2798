//! What a state of the model is made of.

use std::fmt;

/// Chunkservers.
pub const SERVERS: usize = 3;
/// Clients, each with one session.
pub const CLIENTS: usize = 2;
/// Most writes of one client.
pub const WRITES_MAX: usize = 2;
/// Writes of all clients.
pub const ALL_WRITES: usize = CLIENTS * WRITES_MAX;

/// A set of servers, or of writes.
pub type Mask = u8;

pub fn bit(n: usize) -> Mask {
    1 << n
}

/// A write: `1 + client * WRITES_MAX + number - 1`. 0 is a hole.
pub type Write = u8;

pub fn write(client: usize, number: u8) -> Write {
    (1 + client * WRITES_MAX) as u8 + number - 1
}
pub fn writer(w: Write) -> usize {
    (usize::from(w) - 1) / WRITES_MAX
}
pub fn number(w: Write) -> u8 {
    ((usize::from(w) - 1) % WRITES_MAX) as u8 + 1
}
pub fn write_bit(w: Write) -> Mask {
    bit(usize::from(w) - 1)
}

/// A start of a server as others remember it: what counts is only whether it still runs.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Start {
    /// None is remembered.
    #[default]
    Nobody,
    Now,
    Before,
}

impl Start {
    /// It does not run any more, or does not stand for what it acknowledged.
    pub fn end(&mut self) {
        if *self == Self::Now {
            *self = Self::Before;
        }
    }
}

/// Blocks of the chunk. A client's writes go to one after the other.
pub const BLOCKS: usize = 2;
/// What is in them.
pub type Content = [Write; BLOCKS];

pub fn block(w: Write) -> usize {
    usize::from(number(w) - 1) % BLOCKS
}

/// Servers in order.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Chain {
    len: u8,
    at: [u8; SERVERS],
}

impl Chain {
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.at[..usize::from(self.len)].iter().map(|s| usize::from(*s))
    }
    pub fn len(&self) -> usize {
        self.len.into()
    }
    pub fn head(&self) -> Option<usize> {
        self.iter().next()
    }
    pub fn behind(&self) -> impl Iterator<Item = usize> + '_ {
        self.iter().skip(1)
    }
    pub fn has(&self, server: usize) -> bool {
        self.iter().any(|s| s == server)
    }
    pub fn mask(&self) -> Mask {
        self.iter().fold(0, |m, s| m | bit(s))
    }
}

impl FromIterator<usize> for Chain {
    fn from_iter<T: IntoIterator<Item = usize>>(from: T) -> Self {
        let mut chain = Self::default();
        for s in from.into_iter().take(SERVERS) {
            chain.at[usize::from(chain.len)] = s as u8;
            chain.len += 1;
        }
        chain
    }
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// A bump under way (`PendingBump`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Bump {
    pub version: u8,
    pub survivors: Chain,
    pub joining: Chain,
    /// Its survivor is the winner among suspects.
    pub winner: bool,
}

impl Bump {
    pub fn named(&self) -> Mask {
        self.survivors.mask() | self.joining.mask()
    }
    /// It has no survivor: the set begins with nothing.
    pub fn is_anew(&self) -> bool {
        self.survivors.len() == 0
    }
}

/// The chunk's record (`ChunkRec`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Rec {
    pub version: u8,
    pub members: Chain,
    pub pending: Option<Bump>,
    pub committed: bool,
    pub since: u8,
    /// Somebody wants a bump in any case (`Memory::wanted`).
    pub force: bool,
}

impl Rec {
    pub fn newest(&self) -> u8 {
        self.pending.map_or(self.version, |b| b.version)
    }
}

/// The leader's task that drives the chunk (`Inner::settle`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Driver {
    Idle,
    /// A winner was declared: the next look follows.
    Again,
    /// Nobody took the pending version: it is planned anew.
    Anew,
    /// Decided, not committed yet.
    Begin {
        survivors: Chain,
        joining: Chain,
        winner: bool,
    },
    /// `SetVersion` goes to `todo`. `committed`: as the task has read it.
    Setting {
        todo: Mask,
        create: bool,
        committed: bool,
    },
    /// `Pull` goes to `fill`, then the version opens.
    Filling {
        ready: Chain,
        fill: Chain,
    },
}

/// A command that nobody waits for any more. It arrives at any time, or never.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Late {
    SetVersion {
        server: usize,
        version: u8,
        anew: bool,
        create: bool,
        winner: bool,
    },
    Pull {
        server: usize,
        version: u8,
        from: Chain,
    },
    /// An entry in the log whose proposer has gone away.
    Open {
        version: u8,
        members: Chain,
    },
}

impl Late {
    /// The server that it goes to.
    pub fn to(&self) -> Option<usize> {
        match self {
            Self::SetVersion { server, .. } | Self::Pull { server, .. } => Some(*server),
            Self::Open { .. } => None,
        }
    }
}

/// A frame that a head has admitted (`Pass`, `Sending`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Out {
    pub write: Write,
    pub version: u8,
    pub chain: Chain,
    pub applied: bool,
    /// Who behind the head has acknowledged it.
    pub by: [Start; SERVERS],
    pub failed: bool,
    /// The stream that brought it has ended: the answer reaches nobody.
    pub old: bool,
}

/// One chunkserver, with what it has of the chunk (`Known`, `Numbers`, `Way`, `Access`).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Server {
    pub up: bool,
    /// The masters do not reach it; clients and other servers do.
    pub cut: bool,
    /// It has the masters' orders since its start.
    pub ordered: bool,
    /// It knows that client 0's session is fenced.
    pub fenced: bool,
    pub made: bool,
    pub version: u8,
    pub suspect: bool,
    pub dirty: bool,
    /// The durable note that it is dirty.
    pub mark: bool,
    pub mem: Content,
    pub disk: Content,
    /// Its file is durable: it was synced since it was made.
    pub filed: bool,
    pub numbers: [u8; CLIENTS],
    /// Those that are durable.
    pub kept: [u8; CLIENTS],
    pub complete: bool,
    /// The version up to which it was deleted here since the start.
    pub gone: u8,
    /// The version whose chain failed with frames under way; 0 for none.
    pub broken: u8,
    pub out: Option<Out>,
}

impl Server {
    pub fn good(&self) -> bool {
        self.made && !self.suspect
    }
    pub fn serves(&self, version: u8) -> bool {
        self.up && self.good() && self.version == version
    }
    pub fn reachable(&self) -> bool {
        self.up && !self.cut
    }
    /// A frame was sent on that is not applied here yet (`Known::sending`).
    pub fn sending(&self) -> bool {
        self.out.is_some_and(|o| !o.applied)
    }
    /// Whether power takes anything.
    pub fn loses(&self) -> bool {
        self.mem != self.disk || self.made && !self.filed
    }
    /// The chunk is not here.
    pub fn empty(&mut self) {
        (self.made, self.version, self.dirty, self.mark, self.suspect) = (false, 0, false, false, false);
        (self.mem, self.disk, self.filed, self.complete) = ([0; BLOCKS], [0; BLOCKS], false, false);
        (self.numbers, self.kept) = ([0; CLIENTS], [0; CLIENTS]);
    }
}

/// A frame under way.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Frame {
    pub to: usize,
    pub write: Write,
    pub version: u8,
    pub chain: Chain,
    /// Who has no chunk and may make it.
    pub create: Mask,
    /// The head's start, of frames that it has sent on; nobody's from a client.
    pub by: Start,
}

/// A client with one queue of writes (`Queue`, `Writer`).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Client {
    /// Version and chain; version 0 before the first.
    pub version: u8,
    pub chain: Chain,
    /// The masters did not know the chunk to be written.
    pub fresh: bool,
    /// Who may make it then: in the start that the masters knew of.
    pub create: Mask,
    /// The place is to be learnt again.
    pub lost: bool,
    pub issued: u8,
    pub acked: u8,
    pub synced: u8,
    pub flying: bool,
    /// Who acknowledged what is not synced, and has it: not in another start, nor made equal to another since.
    pub members: [Start; SERVERS],
    /// They did so at a version before, when it is closed.
    pub moved: bool,
    /// The masters know of everything written.
    pub told: bool,
    /// Its last handle is closed: nothing is held any more (`Pool::leave_unsynced`).
    pub closed: bool,
}

impl Client {
    /// It has nothing more to do, or to ask.
    pub fn is_done(&self, writes: u8) -> bool {
        self.synced == writes && self.told
    }
}

/// The end of client 0's session.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Fence {
    Live,
    /// The fence is committed, and on its way.
    Fenced,
    /// The session has ended; `owing` have not acknowledged (`Table::Unfenced`).
    Ended {
        owing: Mask,
    },
}

/// What only the properties look at.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Ghost {
    /// Of each write, those that were acknowledged before it was written, and the writer's own.
    pub before: [Mask; ALL_WRITES],
    pub acked: Mask,
    /// Writes of which no server has anything any more, its disks being lost: their writer was told nothing yet.
    pub void: Mask,
    /// Writes that an fsync has promised.
    pub promised: Mask,
    /// Of each promised write, the servers that had it on disk and whose disk was not lost since.
    pub had: [Mask; ALL_WRITES],
    /// The version at which a session was let in after the fenced one had ended.
    pub let_in: u8,
    /// The last version that was made from a suspect.
    pub settled: u8,
    pub late_write: bool,
    pub went_back: bool,
}

impl Ghost {
    /// Whether content is older than a write.
    pub fn is_older(&self, content: Content, than: Write) -> bool {
        let content = content[block(than)];
        content == 0 || self.before[usize::from(than) - 1] & write_bit(content) != 0
    }
    pub fn promises(&self) -> impl Iterator<Item = Write> + '_ {
        (1..=ALL_WRITES as Write).filter(|w| self.promised & write_bit(*w) != 0)
    }
    /// A server has content on its disk now.
    pub fn is_on_disk(&mut self, server: usize, content: Content) {
        for w in 1..=ALL_WRITES as Write {
            if self.promised & write_bit(w) != 0 && !self.is_older(content, w) {
                self.had[usize::from(w) - 1] |= bit(server);
            }
        }
    }
    /// A server's disk is lost: what nobody else had may be gone.
    pub fn wiped(&mut self, server: usize) {
        for w in 1..=ALL_WRITES as Write {
            let had = &mut self.had[usize::from(w) - 1];
            *had &= !bit(server);
            if *had == 0 {
                self.promised &= !write_bit(w);
            }
        }
    }
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct State {
    pub rec: Rec,
    pub driver: Driver,
    pub servers: [Server; SERVERS],
    pub clients: [Client; CLIENTS],
    /// In order, without repeats.
    pub frames: Vec<Frame>,
    pub late: Vec<Late>,
    pub fence: Fence,
    pub failures: u8,
    pub ghost: Ghost,
}

impl State {
    /// The chunk is at its first servers. `fresh`: only in the record, for nobody has written it yet.
    pub fn first(members: usize, fresh: bool) -> Self {
        let members: Chain = (0..members).collect();
        let server = |s: usize| {
            let made = !fresh && members.has(s);
            Server {
                up: true,
                cut: false,
                ordered: true,
                fenced: false,
                made,
                version: u8::from(made),
                suspect: false,
                dirty: false,
                mark: false,
                mem: [0; BLOCKS],
                disk: [0; BLOCKS],
                filed: made,
                numbers: [0; CLIENTS],
                kept: [0; CLIENTS],
                complete: false,
                gone: 0,
                broken: 0,
                out: None,
            }
        };
        let client = Client {
            version: u8::from(!fresh),
            chain: if fresh { Chain::default() } else { members },
            fresh: false,
            create: 0,
            lost: false,
            issued: 0,
            acked: 0,
            synced: 0,
            flying: false,
            members: [Start::Nobody; SERVERS],
            moved: false,
            told: !fresh,
            closed: false,
        };
        let ghost = Ghost {
            before: [0; ALL_WRITES],
            acked: 0,
            void: 0,
            promised: 0,
            had: [0; ALL_WRITES],
            let_in: 0,
            settled: 0,
            late_write: false,
            went_back: false,
        };
        Self {
            rec: Rec { version: 1, members, pending: None, committed: !fresh, since: 1, force: false },
            driver: Driver::Idle,
            servers: [server(0), server(1), server(2)],
            clients: [client.clone(), client],
            frames: vec![],
            late: vec![],
            fence: Fence::Live,
            failures: 0,
            ghost,
        }
    }

    pub fn put_frame(&mut self, f: Frame) {
        if let Err(at) = self.frames.binary_search(&f) {
            self.frames.insert(at, f);
        }
    }
    pub fn put_late(&mut self, l: Late) {
        if let Err(at) = self.late.binary_search(&l) {
            self.late.insert(at, l);
        }
    }
    pub fn take_late(&mut self, l: Late) {
        self.late.retain(|x| *x != l);
    }
    /// Whether a client's session is in force at the masters.
    pub fn lives(&self, client: usize) -> bool {
        client != 0 || self.fence == Fence::Live
    }
}
