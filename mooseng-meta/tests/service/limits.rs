//! What one client may have at the masters.

use crate::world::*;
use futures::future::join_all;
use mooseng_core::{
    attr::Access,
    context::CallContext,
    error::MetaError,
    ids::*,
    limits::{OPEN_FILES_MAX, PEER_SESSIONS_MAX},
    meta::*,
    net::Role,
};
use std::sync::Arc;

#[tokio::test(start_paused = true)]
async fn a_certificate_has_so_many_sessions_and_others_theirs() {
    let session_lifetime = std::time::Duration::from_secs(3600);
    let timings = mooseng_meta::service::ServiceTimings { session_lifetime, ..quick() };
    let w = World::of(1, timings).await;
    let service = w.service();
    let open = async |client: u64, n: u64| {
        let text = String::new;
        let peer = Some(Arc::new(identity(Role::Client, client)));
        let cx = CallContext { trace: TraceId(n), peer, ..cx() };
        service.open_session(&cx, OpenSession { client: text(), host: text(), version: text() }).await
    };
    for n in 1..PEER_SESSIONS_MAX as u64 {
        open(1, n).await.unwrap();
    }
    // All at once: not one more than there may be.
    let all = join_all((0..50).map(|n| open(1, 10_000 + n))).await;
    assert!(all.iter().filter(|s| s.is_ok()).count() <= 1);
    let last = match all.into_iter().flatten().next() {
        Some(last) => last,
        None => open(1, 20_000).await.unwrap(),
    };
    let e = open(1, 30_000).await.unwrap_err();
    assert!(matches!(&e, MetaError::Limit { limit, .. } if *limit == PEER_SESSIONS_MAX as u64), "{e}");
    let first = open(1, 1).await.expect("a repeat finds the session that there is");
    open(2, 1).await.expect("another's");
    for stamp in [first.stamp, last.stamp] {
        let cx = CallContext { peer: Some(Arc::new(identity(Role::Client, 1))), ..under(stamp) };
        service.close_session(&cx, CloseSession {}).await.unwrap();
        open(1, 40_000 + stamp.id.get()).await.expect("one that ended makes room");
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_opens_and_asserts_no_more_files_than_it_may() {
    let w = World::of(1, quick()).await;
    let (a, b) = (w.session("a").await, w.session("b").await);
    let opens = |n: usize| (0..n as u64).map(|n| (InodeId(1_000_000 + n), Access::READ)).collect();
    let is_limit =
        |e: &MetaError| matches!(e, MetaError::Limit { limit, .. } if *limit == OPEN_FILES_MAX as u64);
    let many = w.service().reassert(&under(a), Reassert { opens: opens(OPEN_FILES_MAX + 1) }).await;
    assert!(many.as_ref().is_err_and(is_limit), "{many:?}");
    let made = w.create(b, "f").await;
    w.service().reassert(&under(a), Reassert { opens: opens(OPEN_FILES_MAX) }).await.unwrap();
    let open = Open { inode: made.attr.inode, access: Access::READ, layout_chunks: 0 };
    let refused = w.service().open(&under(a), open.clone()).await;
    assert!(refused.as_ref().is_err_and(is_limit), "{refused:?}");
    let (parent, new) = (InodeId::ROOT, name("g"));
    let create = Create {
        parent,
        name: new.clone(),
        mode: 0o644,
        exclusive: true,
        open: Access::READ,
        truncate: false,
        id: None,
    };
    let refused = w.service().create(&w.fresh(a), create).await;
    assert!(refused.as_ref().is_err_and(is_limit), "{refused:?}");
    let gone = w.service().lookup(&under(a), Lookup { parent, name: new }).await;
    assert!(gone.is_err(), "nothing was made: {gone:?}");
    w.service().open(&under(b), open.clone()).await.unwrap();
    w.service().release(&under(a), Release { inode: InodeId(1_000_000) }).await.unwrap();
    w.service().open(&under(a), open).await.unwrap();
}
