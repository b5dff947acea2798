//! A repeat whose inode is gone.

use crate::world::*;
use mooseng_core::{
    attr::Access,
    context::CallContext,
    error::{Errno, MetaError},
    ids::*,
    meta::*,
};

/// Its answer is lost with the leader, and another client removes the file before it is asked again.
#[tokio::test(start_paused = true)]
async fn a_create_whose_file_is_gone_when_it_is_asked_again_succeeded() {
    let mut w = World::of(1, quick()).await;
    let (a, b) = (w.session("a").await, w.session("b").await);
    let open = Access::READ.and(Access::WRITE);
    let create = |exclusive| {
        let (parent, name) = (InodeId::ROOT, name("f"));
        Create { parent, name, mode: 0o640, exclusive, open, truncate: false, id: None }
    };
    let asked = w.fresh(a);
    let first = w.service().create(&asked, create(true)).await.unwrap();
    let found = w.fresh(a);
    let found_cx = CallContext { slot: found.slot.map(|s| SlotStamp { slot: SlotId(1), ..s }), ..found };
    assert!(!w.service().create(&found_cx, create(false)).await.unwrap().created);
    w.restart_master().await;
    for s in [a, b] {
        w.service().reassert(&under(s), Reassert { opens: vec![] }).await.unwrap();
    }
    w.unlink(b, "f").await.unwrap();
    let again = w.service().create(&asked, create(true)).await.unwrap();
    assert!(again.created && again.attr.nlink == 0);
    assert_eq!((again.attr.inode, again.attr.mode), (first.attr.inode, first.attr.mode));
    let gone = w.service().create(&found_cx, create(false)).await;
    assert!(matches!(gone, Err(MetaError::Posix(Errno::ESTALE))), "{gone:?}");
}
