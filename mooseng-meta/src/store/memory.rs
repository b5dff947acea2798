//! Tables in sorted maps: tests, models, and the comparison of two stores.

use super::{Table, Tx, View, Visit};
use std::{collections::BTreeMap, io, ops::Bound};

/// All tables in memory. Cloning copies them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryStore(BTreeMap<Table, BTreeMap<Vec<u8>, Vec<u8>>>);

impl View for MemoryStore {
    fn get(&self, table: Table, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        Ok(self.0.get(&table).and_then(|t| t.get(key)).cloned())
    }
    fn scan(&self, table: Table, from: &[u8], to: &[u8], visit: Visit<'_>) -> io::Result<()> {
        if !to.is_empty() && from >= to {
            return Ok(());
        }
        let end = if to.is_empty() { Bound::Unbounded } else { Bound::Excluded(to) };
        for (k, v) in
            self.0.get(&table).into_iter().flat_map(|t| t.range::<[u8], _>((Bound::Included(from), end)))
        {
            if !visit(k, v) {
                break;
            }
        }
        Ok(())
    }
}

impl Tx for MemoryStore {
    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> io::Result<()> {
        self.0.entry(table).or_default().insert(key.to_vec(), value.to_vec());
        Ok(())
    }
    fn delete(&mut self, table: Table, key: &[u8]) -> io::Result<()> {
        if let Some(t) = self.0.get_mut(&table) {
            t.remove(key);
        }
        Ok(())
    }
}
