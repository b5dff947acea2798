//! A state machine of registers: a command `name=value` answers the value before.

use crate::machine::{Committed, Machine, SnapshotReader, SnapshotWriter};
use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, io, sync::Arc};

#[derive(Clone, Default, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registers {
    pub values: BTreeMap<String, String>,
    pub commands: u64,
    mark: Option<Vec<u8>>,
}

#[derive(Default, Debug)]
struct Both {
    live: Registers,
    durable: Registers,
}

/// See the module. Clones share the state.
#[derive(Clone, Default, Debug)]
pub struct TestMachine(Arc<Mutex<Both>>);

impl TestMachine {
    pub fn registers(&self) -> Registers {
        self.0.lock().live.clone()
    }
    pub fn get(&self, name: &str) -> Option<String> {
        self.0.lock().live.values.get(name).cloned()
    }
    /// What is found after a crash.
    pub fn after_crash(&self) -> Self {
        let durable = self.0.lock().durable.clone();
        Self(Arc::new(Mutex::new(Both { live: durable.clone(), durable })))
    }
}

impl Machine for TestMachine {
    fn apply(&self, entries: &[Committed], mark: &[u8]) -> io::Result<Vec<Bytes>> {
        let live = &mut self.0.lock().live;
        live.mark = Some(mark.to_vec());
        let one = |entry: &Committed| -> Bytes {
            let Some(command) = entry else { return Bytes::new() };
            live.commands += 1;
            let text = String::from_utf8_lossy(command);
            let (name, value) = text.split_once('=').unwrap();
            live.values.insert(name.into(), value.into()).unwrap_or_default().into()
        };
        Ok(entries.iter().map(one).collect())
    }
    fn mark(&self) -> io::Result<Option<Bytes>> {
        Ok(self.0.lock().live.mark.clone().map(Bytes::from))
    }
    fn flush(&self) -> io::Result<Option<Bytes>> {
        let mut both = self.0.lock();
        both.durable = both.live.clone();
        Ok(both.durable.mark.clone().map(Bytes::from))
    }
    fn snapshot(&self) -> io::Result<Box<dyn SnapshotReader>> {
        let durable = self.0.lock().durable.clone();
        let bytes = Bytes::from(postcard::to_allocvec(&durable).unwrap());
        Ok(Box::new(Reader { mark: durable.mark.map(Bytes::from), rest: bytes }))
    }
    fn receive(&self) -> io::Result<Box<dyn SnapshotWriter>> {
        Ok(Box::new(Writer { machine: self.clone(), bytes: Vec::new() }))
    }
}

struct Reader {
    mark: Option<Bytes>,
    rest: Bytes,
}

impl SnapshotReader for Reader {
    fn mark(&self) -> Option<Bytes> {
        self.mark.clone()
    }
    fn next_piece(&mut self) -> io::Result<Option<Bytes>> {
        let take = self.rest.len().min(1000);
        Ok((take > 0).then(|| self.rest.split_to(take)))
    }
}

struct Writer {
    machine: TestMachine,
    bytes: Vec<u8>,
}

impl SnapshotWriter for Writer {
    fn piece(&mut self, piece: &[u8]) -> io::Result<()> {
        self.bytes.extend_from_slice(piece);
        Ok(())
    }
    fn install(self: Box<Self>) -> io::Result<()> {
        let state: Registers = postcard::from_bytes(&self.bytes).map_err(io::Error::other)?;
        let mut both = self.machine.0.lock();
        both.live = state.clone();
        both.durable = state;
        Ok(())
    }
}
