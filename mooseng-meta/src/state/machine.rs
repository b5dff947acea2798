//! The state machine that Raft drives: log entries on a redb store.

use super::{apply, fold_totals};
use crate::{
    machine::{Committed, Machine, SnapshotReader, SnapshotWriter},
    namespace::{TotalsDelta, meta_key},
    store::{RedbStore, Table, View as _},
};
use bytes::Bytes;
use mooseng_core::{
    meta::{ENTRY_FORMAT, LogEntry},
    wire,
};
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

/// An entry of a format that this program knows: another one must not be guessed at.
fn decode(bytes: &[u8]) -> io::Result<LogEntry> {
    let bad = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
    match bytes.first() {
        Some(&ENTRY_FORMAT) => {
            wire::decode(bytes).map_err(|e| bad(format!("a log entry does not decode: {e}")))
        }
        Some(other) => Err(bad(format!(
            "a log entry has format {other}, this program knows {ENTRY_FORMAT}: start the version that wrote it"
        ))),
        None => Err(bad("a log entry is empty".into())),
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
                let entry = decode(bytes)?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use mooseng_core::{attr::Timestamp, ids::MasterId, meta::Command};

    #[test]
    fn an_entry_of_a_later_format_is_not_guessed_at() {
        let entry = LogEntry {
            format: ENTRY_FORMAT,
            time: Timestamp(1),
            command: Command::Lead { master: MasterId(1) },
        };
        assert_eq!(decode(&wire::encode(&entry)).unwrap(), entry);
        let later = wire::encode(&LogEntry { format: ENTRY_FORMAT + 1, ..entry });
        assert!(decode(&later).unwrap_err().to_string().contains("format 2"));
        assert!(decode(&[]).is_err());
    }
}
