//! A session has an inode open or has not, whatever is lost, repeated, or changes hands.

use crate::world::*;
use mooseng_core::{
    attr::Access,
    context::Credentials,
    error::{Errno, MetaError},
    ids::*,
    meta::*,
};

async fn there(w: &World, s: SessionStamp, inode: InodeId) -> bool {
    match w.service().get_attr_of(s, inode).await {
        Ok(_) => true,
        Err(MetaError::Posix(Errno::ESTALE)) => false,
        Err(e) => panic!("{e}"),
    }
}

trait Ask {
    async fn get_attr_of(
        &self,
        s: SessionStamp,
        inode: InodeId,
    ) -> Result<mooseng_core::attr::Attr, MetaError>;
    async fn open_for(&self, s: SessionStamp, inode: InodeId, access: Access) -> Result<Opened, MetaError>;
    async fn close(&self, s: SessionStamp, inode: InodeId);
}

impl Ask for std::sync::Arc<dyn MetadataService> {
    async fn get_attr_of(
        &self,
        s: SessionStamp,
        inode: InodeId,
    ) -> Result<mooseng_core::attr::Attr, MetaError> {
        self.getattr(&under(s), GetAttr { inode }).await
    }
    async fn open_for(&self, s: SessionStamp, inode: InodeId, access: Access) -> Result<Opened, MetaError> {
        self.open(&under(s), Open { inode, access, layout_chunks: 0 }).await
    }
    async fn close(&self, s: SessionStamp, inode: InodeId) {
        self.release(&under(s), Release { inode }).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn an_open_that_was_repeated_ends_with_one_release() {
    let w = World::of(1, quick()).await;
    let (a, b) = (w.session("a").await, w.session("b").await);
    let inode = w.create(a, "f").await.attr.inode;
    for _ in 0..3 {
        w.service().open_for(a, inode, Access::READ).await.unwrap();
    }
    w.unlink(b, "f").await.unwrap();
    assert!(there(&w, b, inode).await, "it is open");
    w.service().close(a, inode).await;
    assert!(!there(&w, b, inode).await, "it was closed for the last time");
    w.service().close(a, inode).await;
}

#[tokio::test(start_paused = true)]
async fn an_open_that_is_refused_takes_none_away() {
    let w = World::of(1, quick()).await;
    let (a, b) = (w.session("a").await, w.session("b").await);
    let inode = w.create(a, "f").await.attr.inode;
    let mut user = under(a);
    user.creds = Credentials::user(5, 5);
    let refused = w.service().open(&user, Open { inode, access: Access::WRITE, layout_chunks: 0 }).await;
    assert!(matches!(refused, Err(MetaError::Posix(Errno::EACCES))), "{refused:?}");
    w.unlink(b, "f").await.unwrap();
    assert!(there(&w, b, inode).await);
}

#[tokio::test(start_paused = true)]
async fn a_new_leader_purges_nothing_before_everybody_has_spoken() {
    let mut w = World::of(1, quick()).await;
    let (a, b) = (w.session("a").await, w.session("b").await);
    let (before, after) = (w.create(a, "f").await.attr.inode, w.create(a, "g").await.attr.inode);
    // Two handles of one file.
    w.service().open_for(a, before, Access::READ).await.unwrap();
    w.unlink(b, "f").await.unwrap();
    w.restart_master().await;
    w.service().reassert(&under(b), Reassert { opens: vec![] }).await.unwrap();
    w.unlink(b, "g").await.unwrap();
    assert!(there(&w, b, before).await && there(&w, b, after).await, "one session has said nothing");
    let opens = vec![(before, Access::READ), (after, Access::READ)];
    for _ in 0..2 {
        w.service().reassert(&under(a), Reassert { opens: opens.clone() }).await.unwrap();
    }
    assert!(there(&w, b, before).await && there(&w, b, after).await);
    w.service().close(a, before).await;
    assert!(!there(&w, b, before).await && there(&w, b, after).await);
    // The last one that holds it says nothing any more.
    until("it went with its session", async || {
        w.service().keep_alive(&under(b), KeepAlive {}).await.unwrap();
        !there(&w, b, after).await
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_right_to_write_outlives_the_leader() {
    let mut w = World::of(2, quick()).await;
    let a = w.session("a").await;
    let parent = InodeId::ROOT;
    let open = Access::READ.and(Access::WRITE);
    let op =
        Create { parent, name: name("f"), mode: 0o444, exclusive: true, open, truncate: false, id: None };
    let inode = w.service().create(&w.fresh(a), op).await.unwrap().attr.inode;
    let allocate = async |w: &World| {
        let mut user = w.fresh(a);
        user.creds = Credentials::user(5, 5);
        let op = Allocate { inode, truncates: TruncateCounter(0), from: ChunkIndex(0), count: 1 };
        w.service().allocate(&user, op).await
    };
    allocate(&w).await.unwrap();
    w.restart_master().await;
    let early = allocate(&w).await;
    assert!(matches!(early, Err(MetaError::Posix(Errno::EACCES))), "{early:?}");
    w.service().reassert(&under(a), Reassert { opens: vec![(inode, open)] }).await.unwrap();
    allocate(&w).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn content_in_a_batch_wants_the_same_right() {
    let w = World::of(1, quick()).await;
    let (a, b) = (w.session("a").await, w.session("b").await);
    let inode = w.create(a, "f").await.attr.inode;
    let write = |inode| {
        let parts = vec![(Offset(0), bytes::Bytes::from_static(b"x"))];
        MetaRequest::from(WriteInline { inode, truncates: TruncateCounter(0), parts })
    };
    let ask = async |session, ops: &[MetaRequest]| {
        let mut user = w.fresh(session);
        user.creds = Credentials::user(5, 5);
        let ops = ops.iter().map(mooseng_core::wire::encode).collect();
        w.service().batch(&user, Batch { after: None, ops }).await
    };
    for op in [write(inode), Truncate { inode, size: 1 }.into()] {
        let refused = ask(b, std::slice::from_ref(&op)).await;
        assert!(matches!(refused, Err(MetaError::Posix(Errno::EACCES))), "{refused:?}");
        assert_eq!(ask(a, &[op]).await.unwrap().len(), 1, "who has it open may");
    }
    // What the batch itself makes is there only when it is applied.
    let open = SetAttrs {
        inode: InodeId::ROOT,
        set: mooseng_core::attr::SetAttr { mode: Some(0o777), ..Default::default() },
    };
    w.service().set_attrs(&w.fresh(a), open).await.unwrap();
    let grant = GrantIds { kind: IdKind::Inode, count: 1 };
    let id = InodeId(w.service().grant_ids(&under(b), grant).await.unwrap().first);
    let (parent, kind) = (InodeId::ROOT, mooseng_core::attr::FileKind::File);
    let make = MkNod { parent, name: name("g"), mode: 0o444, kind, rdev: 0, id: Some(id) };
    let done = ask(b, &[make.into(), write(id)]).await.unwrap();
    let answer = mooseng_core::wire::decode::<Result<MetaReply, MetaError>>(&done[1]).unwrap();
    assert!(matches!(answer, Ok(MetaReply::WriteInline(_))), "{answer:?}");
}
