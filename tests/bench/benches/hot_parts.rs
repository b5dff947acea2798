//! The hot pure parts: checksums, frame headers, heads of requests.
use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mooseng_core::{
    attr::Access,
    checksum::frame_crcs,
    ids::{ChunkId, InodeId, Offset},
    meta::{Create, MetaRequest},
    name::Name,
    wire::{FrameHeader, FrameKind, decode, encode},
};
use std::hint::black_box;

fn checksums(c: &mut Criterion) {
    let data = vec![7u8; 1 << 20];
    let mut group = c.benchmark_group("checksums");
    group.throughput(Throughput::Bytes(data.len() as u64));
    group.bench_function("frame of 1 MiB", |b| {
        b.iter(|| frame_crcs(ChunkId(1), Offset(0), black_box(&data)));
    });
    group.finish();
}

fn wire(c: &mut Criterion) {
    let header =
        FrameHeader { kind: FrameKind::Request, flags: 0, request: 9, method: 1, head_len: 80, body_len: 0 };
    c.bench_function("frame header, there and back", |b| {
        b.iter(|| FrameHeader::decode(&black_box(&header).encode()));
    });
    let Ok(name) = Name::new("some-file.txt") else { return };
    let create = MetaRequest::from(Create {
        parent: InodeId(9),
        name,
        mode: 0o644,
        exclusive: true,
        open: Access::WRITE,
        truncate: false,
        id: None,
    });
    let bytes: Bytes = encode(&create);
    c.bench_function("create request, encode", |b| b.iter(|| encode(black_box(&create))));
    c.bench_function("create request, decode", |b| b.iter(|| decode::<MetaRequest>(black_box(&bytes))));
}

criterion_group!(benches, checksums, wire);
criterion_main!(benches);
