//! Batches: in order, up to the first failure, one level.

use crate::world::{User::*, World};
use mooseng_core::{
    attr::SetAttr,
    error::{Errno::*, MetaError},
    ids::*,
    limits::BATCH_MAX,
    meta::*,
    name::Name,
    wire,
};

fn name(n: usize) -> Name {
    Name::new(format!("n{n}")).unwrap()
}

fn dir(n: usize) -> MetaRequest {
    MkDir { parent: InodeId::ROOT, name: name(n), mode: 0o755, id: None }.into()
}

fn batch(ops: &[MetaRequest]) -> Batch {
    Batch { after: None, ops: ops.iter().map(wire::encode).collect() }
}

fn answers(done: Result<MetaReply, MetaError>) -> Vec<Result<MetaReply, MetaError>> {
    let Ok(MetaReply::Batch(answers)) = done else { panic!("{done:?}") };
    answers.iter().map(|a| wire::decode(a).unwrap()).collect()
}

#[test]
fn all_in_order() {
    let mut w = World::new();
    let rename = Rename {
        parent: InodeId::ROOT,
        name: name(1),
        new_parent: InodeId::ROOT,
        new_name: name(2),
        mode: RenameMode::Replace,
    };
    let rmdir = RmDir { parent: InodeId::ROOT, name: name(2) };
    let got = answers(w.ask(Root, batch(&[dir(1), rename.into(), dir(1), rmdir.into()])));
    assert!(got.len() == 4 && got.iter().all(Result::is_ok), "{got:?}");
    assert_eq!(w.names(InodeId::ROOT), ["n1"]);
    assert_eq!(answers(w.ask(Root, batch(&[]))), []);
}

#[test]
fn it_stops_at_the_first_failure() {
    let mut w = World::new();
    let got = answers(w.ask(Root, batch(&[dir(1), dir(2), dir(1), dir(3)])));
    assert_eq!(got.len(), 3, "what comes after is not answered");
    assert_eq!(got[2], Err(MetaError::Posix(EEXIST)));
    assert_eq!(w.names(InodeId::ROOT), ["n1", "n2"], "what came before stays");
    let own = SetAttr { mode: Some(0o777), ..SetAttr::default() };
    let got = answers(w.ask(Bob, batch(&[SetAttrs { inode: InodeId::ROOT, set: own }.into(), dir(4)])));
    assert_eq!(got, [Err(MetaError::Posix(EPERM))], "each is judged as its caller's");
}

#[test]
fn what_is_no_mutation_makes_it_no_batch() {
    let mut w = World::new();
    let inner = batch(&[dir(5)]);
    let mut garbled = batch(&[dir(1)]);
    garbled.ops.push(bytes::Bytes::from_static(&[0xff; 3]));
    for bad in
        [batch(&[dir(1), inner.into()]), batch(&[dir(1), GetAttr { inode: InodeId::ROOT }.into()]), garbled]
    {
        assert!(w.ask(Root, bad).is_err());
        assert_eq!(w.names(InodeId::ROOT), [""; 0], "nothing of it is carried out");
    }
    let touch = MetaRequest::from(SetAttrs { inode: InodeId::ROOT, set: SetAttr::default() });
    let most = vec![touch; BATCH_MAX];
    assert_eq!(answers(w.ask(Root, batch(&most))).len(), BATCH_MAX);
    let more = [&most[..], &[dir(1)]].concat();
    assert!(matches!(w.ask(Root, batch(&more)), Err(MetaError::Invalid(_))));
}
