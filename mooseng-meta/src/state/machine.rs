//! The state machine that Raft drives: log entries on a redb store.

use super::{apply, fold_totals};
use crate::{
    machine::{Committed, Machine, SnapshotReader, SnapshotWriter},
    namespace::{TotalsDelta, meta_key},
    store::{RedbStore, Table, View as _},
};
use bytes::Bytes;
use mooseng_core::{meta::LogEntry, wire};
use std::{io, sync::Arc};

/// Masters' state on disk.
#[derive(Clone, Debug)]
pub struct StateMachine(Arc<RedbStore>);

impl StateMachine {
    /// On a store.
    pub fn new(store: Arc<RedbStore>) -> Self {
        Self(store)
    }
}

impl Machine for StateMachine {
    fn apply(&self, entries: &[Committed], mark: &[u8]) -> io::Result<Vec<Bytes>> {
        self.0.write(|tx| {
            let mut totals = TotalsDelta::default();
            let mut replies = Vec::with_capacity(entries.len());
            for entry in entries {
                let Some(bytes) = entry else {
                    replies.push(Bytes::new());
                    continue;
                };
                let entry: LogEntry = wire::decode(bytes).map_err(|e| {
                    io::Error::new(io::ErrorKind::InvalidData, format!("a log entry does not decode: {e}"))
                })?;
                replies.push(wire::encode(&apply(tx, &entry, &mut totals)?));
            }
            fold_totals(tx, totals)?;
            tx.put(Table::Meta, meta_key::MARK, mark)?;
            Ok(replies)
        })
    }

    fn mark(&self) -> io::Result<Option<Bytes>> {
        Ok(self.0.view()?.get(Table::Meta, meta_key::MARK)?.map(Bytes::from))
    }

    fn flush(&self) -> io::Result<Option<Bytes>> {
        let mark = self.mark()?;
        self.0.flush()?;
        Ok(mark)
    }

    fn snapshot(&self) -> io::Result<Box<dyn SnapshotReader>> {
        self.0.snapshot()
    }

    fn receive(&self) -> io::Result<Box<dyn SnapshotWriter>> {
        self.0.receive()
    }
}
