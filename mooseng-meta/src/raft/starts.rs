//! Tells a directory that was restored from an older copy: what the masters remember of each other's starts.
//!
//! Each start of a master has a number, higher than that of the start before, and a random tag. Both are on its
//! disk before it says anything, with the tags of the starts before. It tells them to the others, and these keep the
//! newest start of each master on their disks. What they keep comes back with their votes and their
//! questions for one: a master that is told of a start of its own that its directory does not know was
//! restored. In memory they have also the newest term and the end of the log that it vouched for.
//!
//! ```text
//!   raft/starts: two slots as in raft/vote, of Book in postcard
//! ```

use super::segment::LogPos;
use super::vote::Votes;
use super::writer::{STARTS_FILE, open_slots, write_slots};
use mooseng_core::seam::{Disk, DiskFile, Lane, Rng, on_lane};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::{io, sync::Arc};

/// Starts whose tags are kept. So many may pass while another master is silent, and it is still noticed
/// that one of them was of another history. Older ones are believed.
const TAGS_MAX: usize = 128;
/// Masters whose starts are kept; those with the highest numbers, for the numbers rise. With the tags they fit a
/// slot.
const PEERS_MAX: usize = 64;

/// One start of a master.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Start {
    /// Higher than that of the start before.
    pub number: u64,
    /// Of this start alone.
    pub tag: u64,
}

/// The starts of one master, as far as it knows them.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct History {
    /// Number of its newest start.
    number: u64,
    /// Tags of its starts, the newest first.
    tags: VecDeque<u64>,
}

impl History {
    /// Whether `start` may be one of these.
    fn knows(&self, start: Start) -> bool {
        let Some(ago) = self.number.checked_sub(start.number) else { return false };
        let tag = usize::try_from(ago).ok().and_then(|ago| self.tags.get(ago));
        tag.is_none_or(|tag| *tag == start.tag)
    }

    fn newest(&self) -> Start {
        Start { number: self.number, tag: self.tags.front().copied().unwrap_or(0) }
    }

    fn begin(&mut self, tag: u64) {
        self.number = self.number.saturating_add(1);
        self.tags.push_front(tag);
        self.tags.truncate(TAGS_MAX);
    }

    /// Goes on above `foreign`, a start of a history that is not this one.
    fn rise(&mut self, foreign: u64, tag: u64) {
        self.number = self.number.max(foreign);
        self.tags.clear();
        self.begin(tag);
    }
}

/// What one master has seen of another.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Seen {
    /// Its newest start.
    pub start: Option<Start>,
    /// The newest term in which it voted or led.
    pub term: u64,
    /// Up to where it had the log on its disk.
    pub last: Option<LogPos>,
}

/// What is on disk.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
struct Book {
    /// This master's.
    own: History,
    /// The newest start of each other master.
    peers: BTreeMap<u64, Start>,
}

impl Book {
    /// Whether the newest start of another master is news. A history that does not know what is kept here of it
    /// replaces nothing: the other one has to hear of it first.
    fn is_news(&self, peer: u64, theirs: &History) -> bool {
        self.peers.get(&peer).is_none_or(|known| known.number < theirs.number && theirs.knows(*known))
    }

    /// Notes the newest start of another master; whether it is news.
    fn meets(&mut self, peer: u64, theirs: &History) -> bool {
        if !self.is_news(peer, theirs) {
            return false;
        }
        self.peers.insert(peer, theirs.newest());
        while self.peers.len() > PEERS_MAX {
            self.peers.pop_first();
        }
        self.peers.get(&peer) == Some(&theirs.newest())
    }
}

/// The term and the end of the log that another master vouched for.
type Vouched = (u64, Option<LogPos>);

/// The starts of this master and of the others.
pub(super) struct Starts {
    file: Arc<dyn DiskFile>,
    lane: Arc<dyn Lane>,
    rng: Arc<dyn Rng>,
    book: Mutex<Book>,
    /// One writer at a time; the sequence of what was written last.
    writing: tokio::sync::Mutex<u64>,
    /// The highest number of a start of this master that it does not know.
    foreign: Mutex<Option<u64>>,
    vouched: Mutex<BTreeMap<u64, Vouched>>,
}

impl std::fmt::Debug for Starts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Starts").field("book", &self.book).finish_non_exhaustive()
    }
}

impl Starts {
    /// Reads what is on `disk`, and whether there was anything that can be read.
    pub(super) async fn open(
        disk: Arc<dyn Disk>,
        lane: Arc<dyn Lane>,
        rng: Arc<dyn Rng>,
    ) -> io::Result<(Self, bool)> {
        let stopped = || io::Error::other("the log's lane was stopped");
        let (file, slots) =
            on_lane(&lane, move || open_slots(&disk, STARTS_FILE)).await.ok_or_else(stopped)??;
        let (sequence, book) = match slots {
            Votes::Newest { sequence, vote } => (sequence, postcard::from_bytes::<Book>(&vote).ok()),
            Votes::Empty | Votes::Damaged => (0, None),
        };
        let known = book.is_some();
        let starts = Self {
            file,
            lane,
            rng,
            book: Mutex::new(book.unwrap_or_default()),
            writing: tokio::sync::Mutex::new(sequence),
            foreign: Mutex::default(),
            vouched: Mutex::default(),
        };
        Ok((starts, known))
    }

    /// Makes a change durable, and only then known.
    async fn change(&self, change: impl FnOnce(&mut Book) -> bool) -> io::Result<()> {
        let mut sequence = self.writing.lock().await;
        let mut book = self.book.lock().clone();
        if !change(&mut book) {
            return Ok(());
        }
        *sequence += 1;
        let bytes = postcard::to_allocvec(&book).map_err(io::Error::other)?;
        let (file, at) = (Arc::clone(&self.file), *sequence);
        on_lane(&self.lane, move || write_slots(&*file, at, &bytes))
            .await
            .ok_or_else(|| io::Error::other("the log's lane was stopped"))??;
        *self.book.lock() = book;
        Ok(())
    }

    /// A new start, durable on return.
    pub(super) async fn begin(&self) -> io::Result<()> {
        let tag = self.rng.next_u64();
        self.change(|book| {
            book.own.begin(tag);
            true
        })
        .await
    }

    /// The starts of this master.
    pub(super) fn own(&self) -> History {
        self.book.lock().own.clone()
    }

    /// Keeps the newest start of another master, durable on return, unless it has to hear first of one that is kept.
    pub(super) async fn meet(&self, peer: u64, theirs: &History) -> io::Result<()> {
        if !self.book.lock().is_news(peer, theirs) {
            return Ok(());
        }
        self.change(|book| book.meets(peer, theirs)).await
    }

    /// Takes what a vote or an answer of another master said: its term, and where its log ends on its disk.
    pub(super) fn vouches(&self, peer: u64, term: u64, last: Option<LogPos>) {
        let mut vouched = self.vouched.lock();
        let (newest, upto) = vouched.entry(peer).or_default();
        *newest = term.max(*newest);
        *upto = last.max(*upto);
    }

    /// What was seen of another master.
    pub(super) fn seen_of(&self, peer: u64) -> Seen {
        let (term, last) = self.vouched.lock().get(&peer).copied().unwrap_or_default();
        Seen { start: self.book.lock().peers.get(&peer).copied(), term, last }
    }

    /// Whether `start` may be one of this master's. One that is not has to be risen above.
    pub(super) fn knows(&self, start: Start) -> bool {
        let known = self.book.lock().own.knows(start);
        if !known {
            let mut foreign = self.foreign.lock();
            *foreign = (*foreign).max(Some(start.number));
        }
        known
    }

    /// Whether the others know of a start of this master that it does not know.
    pub(super) fn must_rise(&self) -> bool {
        self.foreign.lock().is_some()
    }

    /// Begins anew above all starts that the others know, durable on return. That the directory was restored must be
    /// durable before: afterwards nobody notices it any more.
    pub(super) async fn rise(&self) -> io::Result<()> {
        let Some(foreign) = *self.foreign.lock() else { return Ok(()) };
        let tag = self.rng.next_u64();
        self.change(|book| {
            book.own.rise(foreign, tag);
            true
        })
        .await?;
        let mut now = self.foreign.lock();
        *now = now.filter(|number| *number > foreign);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::vote::SLOT_BYTES;
    use super::*;

    #[test]
    fn a_start_of_another_history_is_told_from_ones_own() {
        let mut book = History::default();
        (1..=5).for_each(|tag| book.begin(tag * 10));
        let start = |number, tag| Start { number, tag };
        assert!((1..=5).all(|n| book.knows(start(n, n * 10))), "its own, also older ones");
        assert!(!book.knows(start(6, 60)), "a later one than it knows");
        assert!(!book.knows(start(5, 51)) && !book.knows(start(3, 31)), "another one in the same place");
        book.rise(9, 100);
        assert_eq!(book.number, 10);
        assert!(book.knows(start(9, 90)) && book.knows(start(3, 31)), "what it has risen above");
        assert!(!book.knows(start(10, 101)) && book.knows(start(10, 100)));
    }

    #[test]
    fn of_starts_as_many_as_the_bound_the_tags_are_kept() {
        let mut book = History::default();
        (0..TAGS_MAX as u64 + 1).for_each(|tag| book.begin(tag + 7));
        assert!(!book.knows(Start { number: 2, tag: 0 }), "the oldest that is kept");
        assert!(book.knows(Start { number: 1, tag: 0 }), "one older is believed");
    }

    #[test]
    fn the_newest_start_of_another_counts_and_hides_none_of_another_history() {
        let (mut book, mut theirs) = (Book::default(), History::default());
        (1..=4).for_each(|tag| theirs.begin(tag));
        assert!(book.meets(2, &theirs) && !book.meets(2, &theirs));
        // A copy of the third start, and two starts that nobody heard of.
        let mut copy = History::default();
        (1..=3).chain([9, 10]).for_each(|tag| copy.begin(tag));
        assert!(!book.meets(2, &copy), "it does not know of the fourth");
        assert_eq!(book.peers[&2], Start { number: 4, tag: 4 });
        theirs.begin(5);
        assert!(book.meets(2, &theirs));
        copy.rise(5, 11);
        assert!(book.meets(2, &copy), "it has heard of it");
    }

    #[test]
    fn the_longest_book_fits_a_slot() {
        let mut book = Book::default();
        (0..TAGS_MAX + 1).for_each(|_| book.own.begin(u64::MAX));
        book.own.number = u64::MAX;
        let theirs = book.own.clone();
        for peer in 0..PEERS_MAX as u64 + 1 {
            book.meets(u64::MAX - peer, &theirs);
        }
        assert_eq!((book.own.tags.len(), book.peers.len()), (TAGS_MAX, PEERS_MAX));
        let slot = super::super::vote::encode(u64::MAX, &postcard::to_allocvec(&book).unwrap());
        assert!(slot.len() as u64 <= SLOT_BYTES, "{}", slot.len());
    }
}
