//! The durable log as openraft wants to see it.

use super::log::DurableLog;
use super::traced::UnderWay;
use super::types::{Entry, LogId, Types, Vote, entry_of, log_id, log_pos, record_of};
use futures::{Stream, StreamExt, TryStreamExt, stream};
use mooseng_core::planted::{self, Bug};
use mooseng_core::trace;
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};
use std::{fmt::Debug, io, ops::Bound, ops::RangeBounds, sync::Arc};

/// Bytes of commands in one message to a follower, about; one larger command goes alone.
const MESSAGE_BYTES: usize = 4 << 20;

/// The log under openraft, and which commands are of kept traces.
#[derive(Clone)]
pub(super) struct LogStore(pub DurableLog, pub Arc<UnderWay>);

fn bounds(range: &impl RangeBounds<u64>) -> std::ops::Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(i) => *i,
        Bound::Excluded(i) => i + 1,
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(i) => i + 1,
        Bound::Excluded(i) => *i,
        Bound::Unbounded => u64::MAX,
    };
    start..end
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let entries = self.0.read(bounds(&range), usize::MAX).await?;
        entries.into_iter().map(entry_of).collect()
    }

    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = io::Result<Entry>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        // Read in portions: after a restart the range is all that was not durable in the state.
        let (log, range) = (self.0.clone(), bounds(&range));
        let portions = stream::try_unfold(range.start, move |from| {
            let log = log.clone();
            async move {
                let entries = log.read(from..range.end, MESSAGE_BYTES).await?;
                let next = entries.last().map(|last| last.pos.index + 1);
                io::Result::Ok(next.map(|next| (stream::iter(entries.into_iter().map(entry_of)), next)))
            }
        });
        portions.try_flatten().boxed()
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        let entries = self.0.read(start..end, MESSAGE_BYTES).await?;
        entries.into_iter().map(entry_of).collect()
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        self.0.vote().map(|v| postcard::from_bytes(&v).map_err(io::Error::other)).transpose()
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        Ok(LogState {
            last_purged_log_id: self.0.purged().map(log_id),
            last_log_id: self.0.last().map(log_id),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let bytes = postcard::to_allocvec(vote).map_err(io::Error::other)?;
        DurableLog::wait(|done| self.0.save_vote(bytes.into(), done)).await
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let records = entries.into_iter().map(record_of).collect::<io::Result<Vec<_>>>()?;
        let span = trace::open(self.1.place(records.iter().map(|r| &r.data)), "the log's disk");
        let last = records.last().map(|r| r.pos);
        let log = self.0.clone();
        let done = Box::new(move |outcome: io::Result<()>| {
            drop(span);
            if let (Some(torn), Some(last), Ok(())) = (log.torn(), last, &outcome)
                && torn.healed_by(last)
            {
                log.heal_later(torn);
            }
            callback.io_completed(outcome);
        });
        self.0.append(records, done);
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        let from = last.map_or(0, |l| l.index + 1);
        DurableLog::wait(|done| self.0.truncate_from(from, done)).await
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        let last = self.0.last().filter(|_| planted::is(Bug::PurgePastDurable));
        let pos = last.unwrap_or_else(|| log_pos(&upto));
        DurableLog::wait(|done| self.0.purge(pos, done)).await?;
        // An installed snapshot makes up for a torn tail as entries do.
        if let Some(torn) = self.0.torn().filter(|torn| torn.healed_by(pos)) {
            self.0.heal_later(torn);
        }
        Ok(())
    }
}

/// The term of an encoded vote; 0 when it makes no sense.
pub(super) fn term_of_vote(bytes: &[u8]) -> u64 {
    postcard::from_bytes::<Vote>(bytes).map_or(0, |v| v.leader_id.term)
}
