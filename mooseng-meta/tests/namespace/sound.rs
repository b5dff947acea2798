//! What holds of the tables at all times, whatever was done.

use mooseng_core::{attr::FileKind, ids::*, meta::Totals};
use mooseng_meta::store::*;
use std::collections::BTreeMap;

fn all<T: serde::de::DeserializeOwned>(store: &MemoryStore, table: Table) -> Vec<(Vec<u8>, T)> {
    let mut rows = Vec::new();
    scan_recs(store, table, &[], &[], |k, rec: T| {
        rows.push((k.to_vec(), rec));
        true
    })
    .unwrap();
    rows
}

fn raw(store: &MemoryStore, table: Table) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut rows = Vec::new();
    store
        .scan(table, &[], &[], &mut |k, v| {
            rows.push((k.to_vec(), v.to_vec()));
            true
        })
        .unwrap();
    rows
}

/// Links, sizes, cookies, totals and counters are what a recount finds.
pub fn check(store: &MemoryStore) {
    let inodes: BTreeMap<InodeId, InodeRec> =
        all(store, Table::Inode).into_iter().map(|(k, rec)| (InodeId(number(&k)), rec)).collect();
    links_and_sizes(store, &inodes);
    chunks(store, &inodes);
    totals(store, &inodes);
    let counted = store.get(Table::Meta, b"inodes").unwrap().map_or(0, |v| number(&v));
    assert_eq!(counted, inodes.len() as u64, "the counter of inodes");
    for (k, _) in raw(store, Table::Xattr) {
        assert!(inodes.contains_key(&InodeId(number(&k))), "an extended attribute has an inode");
    }
}

fn links_and_sizes(store: &MemoryStore, inodes: &BTreeMap<InodeId, InodeRec>) {
    let entries: Vec<(Vec<u8>, EntryRec)> = all(store, Table::Entry);
    let order = raw(store, Table::Order);
    assert_eq!(entries.len(), order.len(), "each entry has one cookie");
    let (mut links, mut size): (BTreeMap<InodeId, u32>, BTreeMap<InodeId, u64>) = Default::default();
    for (k, e) in &entries {
        let dir = InodeId(number(k));
        let rec = inodes.get(&e.inode).unwrap_or_else(|| panic!("an entry of {dir} names nothing"));
        assert_eq!(rec.kind, e.kind, "an entry knows the kind of what it names");
        assert!(order.contains(&(order_key(dir, e.cookie).to_vec(), k[8..].to_vec())));
        assert!(e.cookie <= inodes[&dir].next_cookie);
        *size.entry(dir).or_default() += 1;
        *links.entry(e.inode).or_default() += 1;
        if rec.kind == FileKind::Dir {
            assert_eq!(rec.parent, dir, "a directory knows where it is");
            *links.entry(dir).or_default() += 1;
        }
    }
    for (id, rec) in inodes {
        let named = links.get(id).copied().unwrap_or(0);
        let is_dir = rec.kind == FileKind::Dir;
        let own = if !is_dir || rec.nlink == 0 { 0 } else { 1 + u32::from(*id == InodeId::ROOT) };
        assert_eq!(rec.nlink, named + own, "links of {id}");
        if is_dir {
            assert_eq!(rec.size, size.get(id).copied().unwrap_or(0), "entries of {id}");
        }
        let held = store.get(Table::Orphan, &key(id.get())).unwrap().is_some();
        assert_eq!(rec.nlink == 0, held, "{id} is an orphan or has links");
    }
}

fn chunks(store: &MemoryStore, inodes: &BTreeMap<InodeId, InodeRec>) {
    let chunks: Vec<(Vec<u8>, ChunkRec)> = all(store, Table::Chunk);
    let counted = store.get(Table::Meta, b"chunks").unwrap().map_or(0, |v| number(&v));
    assert_eq!(counted, chunks.len() as u64, "the counter of chunks");
    let mut of: BTreeMap<InodeId, u64> = BTreeMap::new();
    for (k, chunk) in &chunks {
        let at = store.get(Table::Map, &map_key(chunk.inode, chunk.index)).unwrap();
        assert_eq!(at.as_deref(), Some(&k[..]), "a chunk is where it says");
        let rec = &inodes[&chunk.inode];
        assert!(rec.inline.is_none() || !chunk.committed, "beside inline data nothing is committed");
        let moves = rec.inline.is_some() && chunk.index == ChunkIndex(0);
        assert_eq!(chunk.mover.is_some(), moves, "chunk 0 beside inline data has a mover");
        *of.entry(chunk.inode).or_default() += 1;
    }
    for (id, rec) in inodes {
        assert_eq!(rec.chunks, of.get(id).copied().unwrap_or(0), "chunks of {id}");
        if rec.kind == FileKind::File {
            assert!(rec.inline.as_ref().is_none_or(|d| d.len() as u64 <= rec.size && !d.is_empty()));
        }
    }
}

fn totals(store: &MemoryStore, inodes: &BTreeMap<InodeId, InodeRec>) {
    let mut counted: BTreeMap<InodeId, Totals> = BTreeMap::new();
    for (id, rec) in inodes.iter().filter(|(id, rec)| **id != InodeId::ROOT && rec.nlink > 0) {
        let mut at = rec.parent;
        loop {
            let t = counted.entry(at).or_default();
            t.inodes += 1;
            t.dirs += u64::from(rec.kind == FileKind::Dir);
            t.bytes += rec.counted_bytes();
            if at == InodeId::ROOT {
                break;
            }
            at = inodes.get(&at).unwrap_or_else(|| panic!("{id} counts in {at}, which is gone")).parent;
        }
    }
    for (id, _) in inodes.iter().filter(|(_, rec)| rec.kind == FileKind::Dir && rec.nlink > 0) {
        let stored: Option<Totals> = load(store, Table::Totals, &key(id.get())).unwrap();
        assert_eq!(stored.unwrap_or_default(), counted.remove(id).unwrap_or_default(), "totals of {id}");
    }
    assert!(counted.is_empty(), "something counts in {counted:?}");
}
