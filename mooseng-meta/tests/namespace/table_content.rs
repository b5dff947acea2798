//! Inline writes, allocate, commit, and the way of inline data to a chunk.

use crate::{
    rows::{Do::*, act},
    world::{OTHER, SESSION, User::*, World},
};
use bytes::Bytes;
use mooseng_core::{
    attr::SetAttr,
    error::{Errno::*, MetaError},
    ids::*,
    limits::{
        CHUNK_BYTES, FILE_BYTES_MAX, INLINE_BYTES_MAX, INLINE_MOVE_SECS, INLINE_PARTS_MAX, LAYOUT_CHUNKS_MAX,
    },
    meta::*,
};
use mooseng_meta::namespace::chunk_at;

const STALE: MetaError = MetaError::LayoutStale;

/// A file of Ann's and its inode.
fn with_file() -> (World, InodeId) {
    let mut w = World::new();
    act(&mut w, Root, &File("/f", 0o644)).unwrap();
    let inode = w.at("/f").unwrap();
    (w, inode)
}

fn truncates(w: &World, inode: InodeId) -> TruncateCounter {
    w.rec(inode).unwrap().truncates
}

fn write(w: &mut World, inode: InodeId, parts: &[(u64, &[u8])]) -> Result<(), MetaError> {
    let parts = parts.iter().map(|(at, data)| (Offset(*at), Bytes::copy_from_slice(data))).collect();
    let op = WriteInline { inode, truncates: truncates(w, inode), parts };
    w.ask(Root, op).map(drop)
}

fn allocate(w: &mut World, by: SessionStamp, inode: InodeId, from: u64, count: u32) -> Result<(), MetaError> {
    let op = Allocate { inode, truncates: truncates(w, inode), from: ChunkIndex(from), count };
    w.ask_under(by, Root, op).map(drop)
}

fn chunk(w: &World, inode: InodeId, index: u64) -> Option<ChunkRef> {
    chunk_at(&w.store, inode, ChunkIndex(index)).unwrap().map(|(c, _)| c)
}

fn commit(
    w: &mut World,
    by: SessionStamp,
    inode: InodeId,
    size: u64,
    chunks: &[(u64, ChunkRef)],
    drop_inline: bool,
) -> Result<(), MetaError> {
    let chunks = chunks.iter().map(|(i, c)| (ChunkIndex(*i), *c)).collect();
    let op = CommitWrite { inode, truncates: truncates(w, inode), size, chunks, drop_inline };
    w.ask_under(by, Root, op).map(drop)
}

fn inline(w: &World, inode: InodeId) -> Option<Vec<u8>> {
    w.rec(inode).unwrap().inline.map(|b| b.to_vec())
}

type Parts<'a> = &'a [(u64, &'a [u8])];

/// What it is about; what is there; what is written; what is there then.
type PatchRow<'a> = (&'a str, &'a [u8], Parts<'a>, Result<&'a [u8], MetaError>);

#[test]
fn an_inline_write_is_put_onto_what_is_there() {
    let max = INLINE_BYTES_MAX as u64;
    let rows: &[PatchRow<'_>] = &[
        ("the first", b"", &[(0, b"abc")], Ok(b"abc")),
        ("in the middle", b"abcdef", &[(2, b"XY")], Ok(b"abXYef")),
        ("over the end", b"abc", &[(2, b"XYZ")], Ok(b"abXYZ")),
        ("at the end", b"abc", &[(3, b"d")], Ok(b"abcd")),
        ("past the end", b"ab", &[(4, b"e")], Ok(b"ab\0\0e")),
        ("past the end of nothing", b"", &[(2, b"c")], Ok(b"\0\0c")),
        ("several", b"abcdefgh", &[(1, b"B"), (3, b"DE"), (9, b"J")], Ok(b"aBcDEfgh\0J")),
        ("what is shorter cuts nothing", b"abcdef", &[(0, b"X")], Ok(b"Xbcdef")),
        ("no part", b"ab", &[], Err(MetaError::Invalid(String::new()))),
        ("an empty part", b"ab", &[(0, b"")], Err(MetaError::Invalid(String::new()))),
        ("parts that touch", b"ab", &[(0, b"X"), (1, b"Y")], Err(MetaError::Invalid(String::new()))),
        ("out of order", b"ab", &[(5, b"X"), (1, b"Y")], Err(MetaError::Invalid(String::new()))),
        ("at the end of all", b"ab", &[(max, b"X")], Err(STALE)),
        ("far past it", b"ab", &[(u64::MAX, b"X")], Err(STALE)),
    ];
    for (about, old, parts, expected) in rows {
        let (mut w, inode) = with_file();
        if !old.is_empty() {
            write(&mut w, inode, &[(0, old)]).unwrap();
        }
        let before = w.rec(inode).unwrap();
        match (write(&mut w, inode, parts), expected) {
            (Ok(()), Ok(content)) => {
                let rec = w.rec(inode).unwrap();
                assert_eq!(rec.inline.as_deref(), Some(*content), "{about}");
                assert_eq!(rec.size, content.len() as u64, "{about}");
                assert!(rec.change == before.change + 1 && rec.mtime > before.mtime, "{about}");
            }
            (Err(MetaError::Invalid(_)), Err(MetaError::Invalid(_))) => {}
            (got, expected) => assert_eq!(got, expected.clone().map(drop), "{about}"),
        }
    }
    let (mut w, inode) = with_file();
    write(&mut w, inode, &[(max - 1, b"z")]).unwrap();
    assert_eq!(w.rec(inode).unwrap().size, max, "just as much as fits");
    let every_other: Vec<(u64, &[u8])> = (0..INLINE_PARTS_MAX as u64).map(|i| (2 * i, &b"x"[..])).collect();
    write(&mut w, inode, &every_other).unwrap();
    let more: Vec<(u64, &[u8])> = (0..=INLINE_PARTS_MAX as u64).map(|i| (2 * i, &b"x"[..])).collect();
    assert!(matches!(write(&mut w, inode, &more), Err(MetaError::Invalid(_))));
}

#[test]
fn an_inline_write_is_refused_where_there_is_more() {
    let (mut w, inode) = with_file();
    let old = truncates(&w, inode);
    write(&mut w, inode, &[(0, b"abcdef")]).unwrap();
    w.ask(Root, Truncate { inode, size: 3 }).unwrap();
    let parts = vec![(Offset(0), Bytes::from_static(b"X"))];
    let late = w.ask(Root, WriteInline { inode, truncates: old, parts });
    assert_eq!(late, Err(STALE), "by one who does not know of the cut");
    w.ask(Root, Truncate { inode, size: 9000 }).unwrap();
    assert_eq!(write(&mut w, inode, &[(0, b"X")]), Err(STALE), "the file is too large");
    w.ask(Root, Truncate { inode, size: 5 }).unwrap();
    write(&mut w, inode, &[(4, b"Y")]).unwrap();
    assert_eq!(inline(&w, inode).unwrap(), b"abc\0Y");
    // A hole that was cut to what fits.
    act(&mut w, Root, &File("/g", 0o644)).unwrap();
    let hole = w.at("/g").unwrap();
    w.ask(Root, Truncate { inode: hole, size: 20_000 }).unwrap();
    w.ask(Root, Truncate { inode: hole, size: 4 }).unwrap();
    write(&mut w, hole, &[(1, b"b")]).unwrap();
    assert_eq!(inline(&w, hole).unwrap(), b"\0b\0\0");
    for (path, errno) in [("/", EISDIR), ("/l", EINVAL)] {
        if path == "/l" {
            act(&mut w, Root, &Symlink("x", "/l")).unwrap();
        }
        let inode = w.at(path).unwrap();
        assert_eq!(write(&mut w, inode, &[(0, b"x")]), Err(MetaError::Posix(errno)));
        assert_eq!(allocate(&mut w, SESSION, inode, 0, 1), Err(MetaError::Posix(errno)));
        assert_eq!(commit(&mut w, SESSION, inode, 1, &[], false), Err(MetaError::Posix(errno)));
    }
}

#[test]
fn allocating() {
    let (mut w, inode) = with_file();
    allocate(&mut w, SESSION, inode, 0, 2).unwrap();
    let first = chunk(&w, inode, 0).unwrap();
    allocate(&mut w, OTHER, inode, 0, 4).unwrap();
    assert_eq!(chunk(&w, inode, 0), Some(first), "what is there stays");
    assert!(chunk(&w, inode, 3).is_some() && chunk(&w, inode, 4).is_none());
    assert_eq!(write(&mut w, inode, &[(0, b"X")]), Err(STALE), "a file with chunks has nothing inline");
    let last = FILE_BYTES_MAX / CHUNK_BYTES - 1;
    allocate(&mut w, SESSION, inode, last, 1).unwrap();
    assert_eq!(allocate(&mut w, SESSION, inode, last, 2), Err(MetaError::Posix(EFBIG)));
    assert_eq!(allocate(&mut w, SESSION, inode, u64::MAX, 1), Err(MetaError::Posix(EFBIG)));
    allocate(&mut w, SESSION, inode, 100, LAYOUT_CHUNKS_MAX - 48).unwrap();
    for count in [0, LAYOUT_CHUNKS_MAX + 1] {
        assert!(matches!(allocate(&mut w, SESSION, inode, 0, count), Err(MetaError::Invalid(_))));
    }
    w.chains = 1;
    assert!(matches!(allocate(&mut w, SESSION, inode, 200, 2), Err(MetaError::NoServers { .. })));
    let old = truncates(&w, inode);
    commit(&mut w, SESSION, inode, 10, &[(0, first)], false).unwrap();
    w.ask(Root, Truncate { inode, size: 0 }).unwrap();
    assert!(chunk(&w, inode, 0).is_none());
    let late = w.ask(Root, Allocate { inode, truncates: old, from: ChunkIndex(0), count: 1 });
    assert_eq!(late, Err(STALE));
}

#[test]
fn committing() {
    let (mut w, inode) = with_file();
    allocate(&mut w, SESSION, inode, 0, 2).unwrap();
    let (a, b) = (chunk(&w, inode, 0).unwrap(), chunk(&w, inode, 1).unwrap());
    commit(&mut w, SESSION, inode, 100, &[(0, a)], false).unwrap();
    commit(&mut w, OTHER, inode, 50, &[(0, a)], false).unwrap();
    assert_eq!(w.rec(inode).unwrap().size, 100, "a size is raised only");
    let other = ChunkRef { id: ChunkId(99), ..b };
    let later = ChunkRef { version: b.version.next(), ..b };
    for (index, named) in [(1, other), (1, later), (2, b), (0, b)] {
        assert_eq!(commit(&mut w, SESSION, inode, 1000, &[(index, named)], false), Err(STALE), "{named:?}");
    }
    assert_eq!(commit(&mut w, SESSION, inode, 1000, &[(0, a), (1, later)], false), Err(STALE));
    commit(&mut w, SESSION, inode, FILE_BYTES_MAX, &[(1, b)], false).unwrap();
    let past = commit(&mut w, SESSION, inode, FILE_BYTES_MAX + 1, &[], false);
    assert_eq!(past, Err(MetaError::Posix(EFBIG)));
    let old = truncates(&w, inode);
    w.ask(Root, Truncate { inode, size: CHUNK_BYTES }).unwrap();
    assert!(chunk(&w, inode, 0) == Some(a) && chunk(&w, inode, 1).is_none(), "whole chunks go");
    let op = CommitWrite { inode, truncates: old, size: 1 << 30, chunks: vec![], drop_inline: false };
    assert_eq!(w.ask(Root, op), Err(STALE));
}

#[test]
fn set_user_id_goes_with_content() {
    for by in [Root, Bob] {
        let (mut w, inode) = with_file();
        let mut all = Vec::new();
        let mut mode = |w: &mut World, done: Result<MetaReply, MetaError>| {
            done.unwrap();
            all.push(w.rec(inode).unwrap().mode);
            let set = SetAttr { mode: Some(0o6755), ..SetAttr::default() };
            w.ask(Root, SetAttrs { inode, set }).unwrap();
        };
        let nothing = Ok(MetaReply::Release(()));
        mode(&mut w, nothing);
        let truncates = truncates(&w, inode);
        let parts = vec![(Offset(0), Bytes::from_static(b"x"))];
        let done = w.ask(by, WriteInline { inode, truncates, parts });
        mode(&mut w, done);
        let done = w.ask(by, Truncate { inode, size: 100 });
        mode(&mut w, done);
        allocate(&mut w, SESSION, inode, 0, 1).unwrap();
        let chunks = vec![(ChunkIndex(0), chunk(&w, inode, 0).unwrap())];
        let done = w.ask(by, CommitWrite { inode, truncates, size: 0, chunks, drop_inline: true });
        mode(&mut w, done);
        let left = if by == Root { 0o6755 } else { 0o755 };
        assert_eq!(all, [0o644, left, left, left], "{by:?}");
    }
}

/// A file with 5,000 bytes inline, and a session that has begun to move them.
fn moving() -> (World, InodeId, ChunkRef) {
    let (mut w, inode) = with_file();
    write(&mut w, inode, &[(0, &[7; 5000])]).unwrap();
    allocate(&mut w, SESSION, inode, 0, 1).unwrap();
    let first = chunk(&w, inode, 0).unwrap();
    (w, inode, first)
}

#[test]
fn inline_data_stays_until_its_chunk_is_committed() {
    let (mut w, inode, first) = moving();
    assert_eq!(inline(&w, inode).unwrap().len(), 5000);
    assert_eq!(write(&mut w, inode, &[(0, b"X")]), Err(STALE), "it does not change any more");
    allocate(&mut w, SESSION, inode, 1, 1).unwrap();
    let second = chunk(&w, inode, 1).unwrap();
    assert_eq!(commit(&mut w, SESSION, inode, 9000, &[(1, second)], false), Err(STALE));
    assert_eq!(commit(&mut w, SESSION, inode, 9000, &[(1, second)], true), Err(STALE));
    assert_eq!(commit(&mut w, SESSION, inode, 9000, &[(0, first)], false), Err(STALE));
    assert_eq!(commit(&mut w, SESSION, inode, 9000, &[], true), Err(STALE));
    commit(&mut w, SESSION, inode, 0, &[(0, first)], true).unwrap();
    assert_eq!((inline(&w, inode), w.rec(inode).unwrap().size), (None, 5000));
    // Asked again, by whom it may be, nothing is different.
    commit(&mut w, SESSION, inode, 0, &[(0, first)], true).unwrap();
    allocate(&mut w, OTHER, inode, 0, 1).unwrap();
    assert_eq!(chunk(&w, inode, 0), Some(first));
    commit(&mut w, OTHER, inode, 9000, &[(0, first), (1, second)], false).unwrap();
}

#[test]
fn one_session_moves_inline_data_at_a_time() {
    let (mut w, inode, first) = moving();
    let begun = w.now;
    assert_eq!(commit(&mut w, OTHER, inode, 0, &[(0, first)], true), Err(STALE), "it is not its chunk");
    while w.now + 1 - begun < INLINE_MOVE_SECS as i64 {
        assert!(matches!(allocate(&mut w, OTHER, inode, 0, 1), Err(MetaError::Busy(_))));
    }
    allocate(&mut w, SESSION, inode, 0, 1).unwrap();
    assert_eq!(chunk(&w, inode, 0), Some(first), "the mover goes on with its chunk");
    allocate(&mut w, OTHER, inode, 0, 2).unwrap();
    let next = chunk(&w, inode, 0).unwrap();
    assert!(next.id != first.id, "what the first one writes late goes nowhere");
    assert_eq!(commit(&mut w, SESSION, inode, 0, &[(0, first)], true), Err(STALE));
    assert!(matches!(allocate(&mut w, SESSION, inode, 0, 1), Err(MetaError::Busy(_))));
    commit(&mut w, OTHER, inode, 0, &[(0, next)], true).unwrap();
    allocate(&mut w, SESSION, inode, 0, 1).unwrap();
    assert_eq!(chunk(&w, inode, 0), Some(next));
}

#[test]
fn a_cut_begins_the_move_anew() {
    for size in [4999, 0] {
        let (mut w, inode, first) = moving();
        allocate(&mut w, SESSION, inode, 1, 1).unwrap();
        w.ask(Root, Truncate { inode, size }).unwrap();
        assert_eq!((chunk(&w, inode, 0), chunk(&w, inode, 1)), (None, None));
        assert_eq!(commit(&mut w, SESSION, inode, 0, &[(0, first)], true), Err(STALE));
        write(&mut w, inode, &[(0, b"X")]).unwrap();
        assert_eq!(inline(&w, inode).unwrap().len(), (size as usize).max(1), "it is small again");
    }
    // Growing takes nothing away: what is past the end is zeros in the chunk as well.
    let (mut w, inode, first) = moving();
    w.ask(Root, Truncate { inode, size: 6000 }).unwrap();
    commit(&mut w, SESSION, inode, 0, &[(0, first)], true).unwrap();
    assert_eq!(w.rec(inode).unwrap().size, 6000);
}
