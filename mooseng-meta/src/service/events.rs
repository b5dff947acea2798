//! What a leader has seen that operators want to know of: a ring in memory, and what makes an event of two looks
//! at the cluster. Pure: the caller tells the time.

use mooseng_core::{
    attr::Timestamp,
    health::HealthCode,
    ids::{DiskId, ServerId, Term},
    meta::{Care, ClusterEvent, ClusterStatus, EventCode, EventMark, EventPage, ServerInfo},
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Events that are kept: an hour of one each second, some megabytes at most.
const EVENTS_MAX: usize = 4096;
/// Events of one page.
const PAGE_MAX: usize = 1024;
/// Bytes of an event's text; what is longer, as the words of an error, is cut.
const TEXT_BYTES_MAX: usize = 512;

/// The newest events of one term.
#[derive(Debug)]
pub(super) struct Ring {
    term: Term,
    /// Events so far.
    count: u64,
    kept: VecDeque<ClusterEvent>,
}

impl Ring {
    pub fn new(term: Term) -> Self {
        Self { term, count: 0, kept: VecDeque::new() }
    }

    /// Something happened.
    pub fn tell(&mut self, at: Timestamp, code: EventCode, problem: Option<HealthCode>, mut text: String) {
        text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
        self.count += 1;
        let mark = EventMark { term: self.term, number: self.count };
        let problem = problem.map(|p| p.name().to_owned());
        self.kept.push_back(ClusterEvent { mark, at, code, problem, text });
        if self.kept.len() > EVENTS_MAX {
            self.kept.pop_front();
        }
    }

    /// Events after a place of this term, or from the oldest.
    pub fn page(&self, after: Option<EventMark>, count: u32) -> EventPage {
        let after = after.filter(|a| a.term == self.term).map_or(0, |a| a.number.min(self.count));
        let oldest = self.kept.front().map_or(self.count + 1, |e| e.mark.number);
        let max = (count as usize).clamp(1, PAGE_MAX);
        let events: Vec<_> = self.kept.iter().filter(|e| e.mark.number > after).take(max).cloned().collect();
        let number = events.last().map_or(after, |e| e.mark.number);
        let next = EventMark { term: self.term, number };
        EventPage { events, next, lost: oldest.saturating_sub(after + 1) }
    }
}

/// What was seen at the last look.
#[derive(Debug, Default)]
pub(super) struct Seen {
    lost: BTreeSet<ServerId>,
    aside: BTreeSet<(ServerId, DiskId)>,
    problems: BTreeMap<HealthCode, String>,
    /// Chunks that were mended when a repair began.
    repairing: Option<u64>,
}

/// An event that a look has found.
pub(super) type News = (EventCode, Option<HealthCode>, String);

impl Seen {
    /// What is new in problems and repairs since the last look at all chunks.
    pub fn whole(&mut self, s: &ClusterStatus, care: &Care) -> Vec<News> {
        let mut news = Vec::new();
        self.problems(s, care, &mut news);
        self.repairs(care, &mut news);
        news
    }

    /// A chunkserver is known to be back.
    pub fn is_back(&mut self, server: ServerId) {
        self.lost.remove(&server);
    }

    /// What is new of chunkservers and their disks since the last look at them.
    pub fn servers(&mut self, servers: &[ServerInfo]) -> Vec<News> {
        let (mut news, mut aside) = (Vec::new(), BTreeSet::new());
        for server in servers {
            let (id, addr) = (server.id.get(), &server.addr);
            if server.silent && self.lost.insert(server.id) {
                let secs = server.silent_ms / 1000;
                let text = format!("chunkserver {id} ({addr}) was not heard for {secs} s");
                news.push((EventCode::ChunkserverLost, None, text));
            } else if server.alive && self.lost.remove(&server.id) {
                let text = format!("chunkserver {id} ({addr}) is heard again");
                news.push((EventCode::ChunkserverBack, None, text));
            }
            for d in &server.disks {
                let Some(e) = &d.error else { continue };
                aside.insert((server.id, d.disk));
                if !self.aside.contains(&(server.id, d.disk)) {
                    let text = format!("disk {} of chunkserver {id} ({addr}): {e}", d.path);
                    news.push((EventCode::DiskSetAside, None, text));
                }
            }
        }
        self.aside = aside;
        news
    }

    fn problems(&mut self, s: &ClusterStatus, care: &Care, news: &mut Vec<News>) {
        let mut now = BTreeMap::new();
        for p in mooseng_core::health::problems(s, care) {
            now.entry(p.code).or_insert(p.cause);
        }
        for (code, cause) in now.iter().filter(|(code, _)| !self.problems.contains_key(code)) {
            news.push((EventCode::ProblemRaised, Some(*code), cause.clone()));
        }
        for (code, cause) in self.problems.iter().filter(|(code, _)| !now.contains_key(code)) {
            news.push((EventCode::ProblemCleared, Some(*code), format!("over: {cause}")));
        }
        self.problems = now;
    }

    fn repairs(&mut self, care: &Care, news: &mut Vec<News>) {
        let r = &care.repairs;
        match self.repairing {
            None if r.chunks > 0 && r.running > 0 => {
                let text = format!("{} chunks lack copies, {} MiB are to be copied", r.chunks, r.bytes >> 20);
                news.push((EventCode::RepairBegun, None, text));
                self.repairing = Some(r.done);
            }
            Some(before) if r.chunks == 0 => {
                let text = format!("chunks mended: {}", r.done.saturating_sub(before));
                news.push((EventCode::RepairEnded, None, text));
                self.repairing = None;
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mooseng_core::{ids::*, meta::*};

    fn ring(events: u64) -> Ring {
        let mut r = Ring::new(Term(7));
        (1..=events).for_each(|n| r.tell(Timestamp(n as i64), EventCode::RepairBegun, None, n.to_string()));
        r
    }

    fn mark(number: u64) -> EventMark {
        EventMark { term: Term(7), number }
    }

    fn numbers(p: &EventPage) -> (Vec<u64>, u64, u64) {
        (p.events.iter().map(|e| e.mark.number).collect(), p.next.number, p.lost)
    }

    #[test]
    fn pages_follow_each_other_and_tell_what_was_forgotten() {
        let r = ring(5);
        assert_eq!(numbers(&r.page(None, 3)), (vec![1, 2, 3], 3, 0));
        assert_eq!(numbers(&r.page(Some(mark(3)), 3)), (vec![4, 5], 5, 0));
        assert_eq!(numbers(&r.page(Some(mark(5)), 3)), (vec![], 5, 0));
        assert_eq!(
            numbers(&r.page(Some(mark(900)), 3)),
            (vec![], 5, 0),
            "what was not told yet is not known"
        );
        let other = EventMark { term: Term(6), number: 5 };
        assert_eq!(numbers(&r.page(Some(other), 1)), (vec![1], 1, 0), "another leader's place");
        let full = ring(EVENTS_MAX as u64 + 10);
        assert_eq!(full.kept.len(), EVENTS_MAX);
        assert_eq!(numbers(&full.page(Some(mark(4)), 2)), (vec![11, 12], 12, 6));
        assert_eq!(full.page(None, u32::MAX).events.len(), PAGE_MAX);
        assert_eq!(numbers(&Ring::new(Term(7)).page(None, 3)), (vec![], 0, 0));
    }

    #[test]
    fn a_long_text_is_cut_between_letters() {
        let mut r = Ring::new(Term(1));
        r.tell(Timestamp(0), EventCode::DiskSetAside, None, "ä".repeat(TEXT_BYTES_MAX));
        assert_eq!(r.kept[0].text, "ä".repeat(TEXT_BYTES_MAX / 2));
    }

    fn cluster(silent: bool) -> ClusterStatus {
        let disk = DiskReport {
            disk: DiskId(5),
            path: "/d".into(),
            total_bytes: 100,
            free_bytes: 50,
            chunks: 1,
            errors: 0,
            error: None,
            drains: false,
        };
        let server = ServerInfo {
            id: ServerId(1),
            addr: "c1:9420".into(),
            alive: !silent,
            silent_ms: if silent { 6000 } else { 10 },
            clock_ms: 0,
            disks: vec![disk],
            silent,
        };
        ClusterStatus {
            cluster: ClusterId(Default::default()),
            term: Term(7),
            revision: Revision(1),
            masters: vec![],
            servers: vec![server],
            chunks: ChunkHealth::default(),
            sessions: 0,
            fs: FsStat::default(),
        }
    }

    fn care(chunks: u64, running: u64, done: u64) -> Care {
        let repairs = Repairs { chunks, running, done, ..Repairs::default() };
        Care { quarantine_secs: 1, servers: vec![], drains: vec![], repairs, disks: vec![] }
    }

    fn codes(news: &[News]) -> Vec<(EventCode, Option<HealthCode>)> {
        news.iter().map(|(code, problem, _)| (*code, *problem)).collect()
    }

    #[test]
    fn what_changes_is_told_once() {
        use EventCode::*;
        let (mut seen, calm) = (Seen::default(), care(0, 0, 0));
        assert!(seen.servers(&cluster(false).servers).is_empty());
        assert!(seen.whole(&cluster(false), &calm).is_empty());
        let silent = Some(HealthCode::ChunkserverSilent);
        assert_eq!(codes(&seen.servers(&cluster(true).servers)), [(ChunkserverLost, None)]);
        assert!(seen.servers(&cluster(true).servers).is_empty());
        assert_eq!(codes(&seen.whole(&cluster(true), &calm)), [(ProblemRaised, silent)]);
        assert!(seen.whole(&cluster(true), &calm).is_empty());
        // It waits, copies, is done.
        assert!(seen.whole(&cluster(true), &care(3, 0, 2)).is_empty());
        assert_eq!(codes(&seen.whole(&cluster(true), &care(3, 1, 2))), [(RepairBegun, None)]);
        assert!(seen.whole(&cluster(true), &care(1, 0, 4)).is_empty());
        let ended = seen.whole(&cluster(true), &care(0, 0, 5));
        assert_eq!(ended, [(RepairEnded, None, "chunks mended: 3".to_owned())]);
        assert_eq!(codes(&seen.servers(&cluster(false).servers)), [(ChunkserverBack, None)]);
        assert_eq!(codes(&seen.whole(&cluster(false), &calm)), [(ProblemCleared, silent)]);
        let mut broken = cluster(false);
        broken.servers[0].disks[0].error = Some("EIO".into());
        assert_eq!(codes(&seen.servers(&broken.servers)), [(DiskSetAside, None)]);
        assert!(seen.servers(&broken.servers).is_empty());
        let error = codes(&seen.whole(&broken, &calm));
        assert_eq!(error, [(ProblemRaised, Some(HealthCode::DiskError))]);
    }
}
