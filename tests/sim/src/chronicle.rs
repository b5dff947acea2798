//! What masters were seen to hold, and whether it goes together as Raft promises (Ongaro and Ousterhout,
//! 2014, figure 3): one leader a term, one entry at a place of a term with one history before it, nothing
//! committed that is lost or replaced, one state at an index. Pure.

use anyhow::{Result, ensure};
use mooseng_core::ids::{Revision, Term};
use mooseng_meta::server::Held;
use std::collections::BTreeMap;

/// All that was seen so far.
#[derive(Debug, Default)]
pub struct Chronicle {
    leaders: BTreeMap<Term, usize>,
    /// By place and term: checksum, and the term of the entry before.
    entries: BTreeMap<(Revision, Term), (u32, Option<Term>)>,
    committed: BTreeMap<Revision, (Term, u32)>,
    states: BTreeMap<Revision, (u64, usize)>,
}

impl Chronicle {
    /// A master says that it leads. Errors: another did, in this term.
    pub fn leads(&mut self, at: usize, term: Term) -> Result<()> {
        let first = *self.leaders.entry(term).or_insert(at);
        ensure!(first == at, "master-{} and master-{} both lead term {}", first + 1, at + 1, term.get());
        Ok(())
    }

    /// What a master holds. Errors: it does not go together with what any held before.
    pub fn holds(&mut self, at: usize, held: &Held) -> Result<()> {
        let who = at + 1;
        let mut before: Option<(Revision, Term)> = None;
        for e in &held.log {
            let term_before = before.filter(|(place, _)| place.get() + 1 == e.at.get()).map(|(_, t)| t);
            let seen = self.entries.entry((e.at, e.term)).or_insert((e.crc, term_before));
            ensure!(
                seen.0 == e.crc,
                "entry {} of term {} is another at master-{who}",
                e.at.get(),
                e.term.get()
            );
            ensure!(
                seen.1.is_none() || term_before.is_none() || seen.1 == term_before,
                "entry {} of term {} has another history at master-{who}",
                e.at.get(),
                e.term.get()
            );
            seen.1 = seen.1.or(term_before);
            if held.applied >= Some(e.at) {
                let first = *self.committed.entry(e.at).or_insert((e.term, e.crc));
                ensure!(
                    first == (e.term, e.crc),
                    "committed entry {} was replaced at master-{who}",
                    e.at.get()
                );
            }
            before = Some((e.at, e.term));
        }
        if let Some(applied) = held.applied {
            let (state, other) = *self.states.entry(applied).or_insert((held.state, at));
            ensure!(
                state == held.state,
                "the states of master-{} and master-{who} differ at entry {}",
                other + 1,
                applied.get()
            );
        }
        Ok(())
    }

    /// What all masters hold in the end. Errors: something that was committed is not in the state of all.
    pub fn all_have(&self, held: &[Held]) -> Result<()> {
        let last = self.committed.keys().chain(self.states.keys()).max().copied();
        for (at, h) in held.iter().enumerate() {
            ensure!(
                h.applied >= last,
                "master-{} has applied {:?}, committed was {last:?}",
                at + 1,
                h.applied
            );
        }
        Ok(())
    }

    /// Entries of which it is known that they were committed.
    pub fn committed(&self) -> usize {
        self.committed.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mooseng_meta::raft::HeldEntry;

    fn held(applied: u64, state: u64, log: &[(u64, u64, u32)]) -> Held {
        let entry =
            |(at, term, crc): &(u64, u64, u32)| HeldEntry { at: Revision(*at), term: Term(*term), crc: *crc };
        let chunks = Default::default();
        Held { applied: Some(Revision(applied)), state, chunks, log: log.iter().map(entry).collect() }
    }

    #[test]
    fn what_raft_promises_is_seen_when_it_is_broken() {
        let mut c = Chronicle::default();
        c.leads(0, Term(1)).unwrap();
        c.leads(0, Term(1)).unwrap();
        c.leads(1, Term(2)).unwrap();
        assert!(c.leads(2, Term(2)).is_err());
        c.holds(0, &held(2, 7, &[(1, 1, 10), (2, 1, 11), (3, 1, 12)])).unwrap();
        c.holds(1, &held(1, 6, &[(1, 1, 10), (2, 1, 11), (3, 2, 13)])).unwrap();
        assert!(c.holds(2, &held(0, 1, &[(1, 1, 10), (2, 1, 99)])).is_err(), "another entry");
        assert!(c.holds(2, &held(2, 8, &[(1, 1, 10), (2, 1, 11)])).is_err(), "another state");
        assert!(c.holds(2, &held(2, 7, &[(1, 1, 10), (2, 2, 14)])).is_err(), "a committed one was replaced");
        assert!(c.holds(2, &held(0, 1, &[(1, 1, 10), (2, 2, 15), (3, 2, 13)])).is_err(), "another history");
        let short = held(1, 6, &[]);
        assert!(c.all_have(std::slice::from_ref(&short)).is_err());
        assert!(c.all_have(&[held(2, 7, &[])]).is_ok());
    }
}
