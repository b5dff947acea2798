//! Whether what several clients saw of one name at the same time has an order that explains it
//! (linearizability: Herlihy and Wing, 1990). The search is Wing and Gong's (1993), with Lowe's memory of
//! what was tried (2017). Pure.

use std::{collections::HashSet, fmt};

/// Calls of one history at most: as many as the memory of a search has bits.
pub const CALLS_MAX: usize = 64;

/// What was asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ask {
    /// A file is made, of this mode, where none is.
    Make(u32),
    /// The name is removed.
    Remove,
    /// The file's mode is set.
    Mode(u32),
    /// A look: which inode, and of which mode.
    Look,
}

/// What was answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// It was done; of a file that was made the inode.
    Done(Option<u64>),
    /// The name is there already.
    There,
    /// There is no such name.
    Missing,
    /// What a look showed.
    Is(u64, u32),
    /// Nobody can tell whether and when it was carried out.
    Unknown,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Call {
    who: u32,
    ask: Ask,
    answer: Answer,
    /// Moments, counted over all calls.
    begun: u64,
    ended: u64,
}

/// A name: nothing, or a file. Of one that somebody may have made without an answer the inode is not known.
type Name = Option<(Option<u64>, u32)>;

impl Call {
    /// The state after it, when it can have had this answer in a state.
    fn after(&self, name: Name) -> Option<Name> {
        match (self.ask, self.answer, name) {
            (Ask::Make(mode), Answer::Done(inode), None) => Some(Some((inode, mode))),
            (Ask::Make(mode), Answer::Unknown, None) => Some(Some((None, mode))),
            (Ask::Make(_), Answer::There, Some(_)) => Some(name),
            (Ask::Remove, Answer::Done(_) | Answer::Unknown, Some(_)) => Some(None),
            (Ask::Mode(mode), Answer::Done(_) | Answer::Unknown, Some((inode, _))) => {
                Some(Some((inode, mode)))
            }
            (Ask::Remove | Ask::Mode(_) | Ask::Look, Answer::Missing, None) => Some(None),
            (Ask::Look, Answer::Is(inode, mode), Some((known, m))) if mode == m => {
                known.is_none_or(|k| k == inode).then_some(Some((Some(inode), mode)))
            }
            _ => None,
        }
    }

    fn is_known(&self) -> bool {
        self.answer != Answer::Unknown
    }
}

/// All calls on one name.
#[derive(Clone, Default)]
pub struct History(Vec<Call>);

/// A call that is under way.
#[derive(Clone, Copy, Debug)]
pub struct Pending(usize);

impl fmt::Debug for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in &self.0 {
            let until = if c.ended == u64::MAX { "..".to_owned() } else { c.ended.to_string() };
            writeln!(f, "  {} to {until}: client {} {:?} → {:?}", c.begun, c.who, c.ask, c.answer)?;
        }
        Ok(())
    }
}

impl History {
    /// A call begins. `None` when the history is full.
    pub fn begin(&mut self, who: u32, ask: Ask, now: u64) -> Option<Pending> {
        if self.0.len() == CALLS_MAX {
            return None;
        }
        self.0.push(Call { who, ask, answer: Answer::Unknown, begun: now, ended: u64::MAX });
        Some(Pending(self.0.len() - 1))
    }

    /// It was answered. What ended unknown may be carried out at any time from its beginning on.
    pub fn end(&mut self, Pending(at): Pending, answer: Answer, now: u64) {
        let call = &mut self.0[at];
        call.answer = answer;
        if call.is_known() {
            call.ended = now;
        }
    }

    /// Calls so far.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Errors: no order of the calls explains their answers; the calls.
    pub fn explain(&self) -> Result<(), String> {
        // What an unanswered look saw is nobody's business.
        let calls: Vec<Call> =
            self.0.iter().filter(|c| c.is_known() || c.ask != Ask::Look).copied().collect();
        let all = calls.iter().enumerate().filter(|(_, c)| c.is_known()).fold(0u64, |m, (i, _)| m | 1 << i);
        let mut tried: HashSet<(u64, Name)> = HashSet::new();
        let mut open: Vec<(u64, Name)> = vec![(0, None)];
        while let Some((done, name)) = open.pop() {
            if done & all == all {
                return Ok(());
            }
            if !tried.insert((done, name)) {
                continue;
            }
            let left = || calls.iter().enumerate().filter(|(i, _)| done >> i & 1 == 0);
            let first_end = left().map(|(_, c)| c.ended).min().unwrap_or(u64::MAX);
            for (i, call) in left().filter(|(_, c)| c.begun <= first_end) {
                if let Some(after) = call.after(name) {
                    open.push((done | 1 << i, after));
                }
            }
        }
        Err(format!("no order of these calls explains their answers:\n{self:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(calls: &[(Ask, Answer, u64, u64)]) -> History {
        let mut h = History::default();
        for (ask, answer, begun, ended) in calls {
            let p = h.begin(1, *ask, *begun).unwrap();
            h.end(p, *answer, *ended);
        }
        h
    }

    fn is_explained(calls: &[(Ask, Answer, u64, u64)]) -> bool {
        history(calls).explain().is_ok()
    }

    const MADE: (Ask, Answer, u64, u64) = (Ask::Make(6), Answer::Done(Some(9)), 1, 2);
    const SEEN: Answer = Answer::Is(9, 6);

    #[test]
    fn what_was_made_is_there_afterwards() {
        assert!(is_explained(&[MADE, (Ask::Look, SEEN, 3, 4)]));
        assert!(!is_explained(&[MADE, (Ask::Look, Answer::Missing, 3, 4)]), "a stale look");
        assert!(!is_explained(&[MADE, (Ask::Look, Answer::Is(9, 7), 3, 4)]), "another mode");
        assert!(!is_explained(&[MADE, (Ask::Look, Answer::Is(8, 6), 3, 4)]), "another inode");
        let overlaps = (Ask::Look, Answer::Missing, 1, 4);
        assert!(is_explained(&[MADE, overlaps]), "one that overlaps may come first");
        assert!(!is_explained(&[MADE, MADE]), "made twice");
        assert!(is_explained(&[MADE, (Ask::Make(1), Answer::There, 3, 4)]));
        assert!(!is_explained(&[(Ask::Make(1), Answer::There, 3, 4)]));
    }

    #[test]
    fn two_looks_may_not_go_back() {
        let removed = (Ask::Remove, Answer::Done(None), 3, 10);
        let (gone, there) = ((Ask::Look, Answer::Missing, 4, 5), (Ask::Look, SEEN, 6, 7));
        assert!(!is_explained(&[MADE, removed, gone, there]));
        let there = (Ask::Look, SEEN, 4, 5);
        let gone = (Ask::Look, Answer::Missing, 6, 7);
        assert!(is_explained(&[MADE, removed, there, gone]));
    }

    #[test]
    fn what_nobody_knows_may_come_late_or_never_and_once() {
        let unknown = (Ask::Remove, Answer::Unknown, 3, 4);
        let look = |answer, at| (Ask::Look, answer, at, at + 1);
        assert!(is_explained(&[MADE, unknown, look(SEEN, 8), look(Answer::Missing, 10)]));
        assert!(is_explained(&[MADE, unknown, look(SEEN, 8), look(SEEN, 10)]));
        assert!(!is_explained(&[MADE, unknown, look(Answer::Missing, 8), look(SEEN, 10)]));
        let again = (Ask::Make(6), Answer::Unknown, 12, 13);
        assert!(is_explained(&[MADE, unknown, look(Answer::Missing, 8), again, look(Answer::Is(3, 6), 14)]));
        let mode = (Ask::Mode(7), Answer::Done(None), 3, 4);
        assert!(is_explained(&[MADE, mode, look(Answer::Is(9, 7), 8)]));
        assert!(!is_explained(&[MADE, mode, look(SEEN, 8)]), "a lost change");
    }
}
