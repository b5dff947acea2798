//! Random sequences of requests by several users, beside the model: each answer, and all that can be
//! seen afterwards, is the same.

use crate::{
    actions::{Action, Verb, action},
    model::{Body, Model, No, Stat},
    model_ops::Out,
    world::{SESSION, User, World},
};
use mooseng_core::{attr::Attr, error::MetaError, ids::*, meta::*};
use proptest::{prelude::*, strategy::ValueTree as _, test_runner::TestRunner};
use std::collections::BTreeMap;

/// Sequences, and steps of each. More with `PROPTEST_CASES`.
const CASES: u32 = 500;
const STEPS: usize = 250;

fn stat(a: &Attr) -> Out {
    let (id, kind, mode) = (a.inode.get(), a.kind, a.mode);
    Out::Stat(Stat { id, kind, mode, uid: a.uid, gid: a.gid, links: a.nlink, size: a.size })
}

fn removed(r: &Removed) -> (u64, u32) {
    (r.inode.get(), r.links_left)
}

/// An answer as the model gives it.
fn told(answer: Result<MetaReply, MetaError>) -> Result<Out, No> {
    let reply = answer.map_err(|e| match e {
        MetaError::Posix(e) => No::Posix(e),
        MetaError::LayoutStale => No::Stale,
        MetaError::Invalid(_) => No::Invalid,
        other => panic!("{other}"),
    })?;
    Ok(match reply {
        MetaReply::Lookup(a)
        | MetaReply::GetAttr(a)
        | MetaReply::SetAttrs(a)
        | MetaReply::MkDir(a)
        | MetaReply::MkNod(a)
        | MetaReply::SymLink(a)
        | MetaReply::Link(a)
        | MetaReply::Truncate(a)
        | MetaReply::WriteInline(a) => stat(&a),
        MetaReply::Create(c) => stat(&c.attr),
        MetaReply::Unlink(r) | MetaReply::RmDir(r) => Out::Removed(r.inode.get(), r.links_left),
        MetaReply::Rename(r) => Out::Renamed(r.inode.get(), r.other.as_ref().map(removed)),
        MetaReply::ReadLink(b) | MetaReply::GetXattr(b) => Out::Bytes(b.to_vec()),
        MetaReply::GetTotals(t) => Out::Totals(t.inodes, t.dirs, t.bytes),
        MetaReply::ReadDir(page) => {
            let with = page.entries.iter().any(|e| e.attr.is_some());
            let names = page.entries.into_iter().map(|e| (e.name.to_string(), e.inode.get())).collect();
            Out::Names(names, with)
        }
        MetaReply::CheckAccess(()) | MetaReply::SetXattr(()) | MetaReply::RemoveXattr(()) => Out::Nothing,
        MetaReply::SetClass(()) => Out::Nothing,
        other => panic!("{other:?}"),
    })
}

/// Opens an inode (`true`) or closes it for the last time, when that can be.
fn open_or_release(model: &mut Model, action: &Action) -> Option<bool> {
    let id = action.node(model).get();
    if action.verb == Verb::Open && model.nodes.contains_key(&id) {
        return model.opened.insert(id).then_some(true);
    }
    if action.verb == Verb::Release && model.opened.remove(&id) {
        model.sweep(id);
        return Some(false);
    }
    None
}

/// One step in both; what it was.
fn step(w: &mut World, model: &mut Model, action: &Action) -> Result<String, TestCaseError> {
    let Some(req) = action.request(model) else {
        let id = action.node(model);
        match open_or_release(model, action) {
            Some(true) => drop(w.opened.insert((id, SESSION.id))),
            Some(false) => w.release(id, SESSION.id),
            None => {}
        }
        return Ok(format!("{:?} {id}", action.verb));
    };
    let text = format!("{:?}: {req:?}", action.who);
    let got = told(w.ask(action.who, req.clone()));
    let mut expected = model.ask(&action.who.creds(), &req);
    if let Ok(Out::Names(names, with)) = &mut expected {
        *with &= !names.is_empty();
    }
    prop_assert_eq!(got, expected, "{}", text);
    Ok(text)
}

/// All that can be seen is the same.
fn compare(w: &World, model: &Model) -> Result<(), TestCaseError> {
    for id in 1..model.next {
        let inode = InodeId(id);
        let Some(node) = model.nodes.get(&id) else {
            prop_assert!(w.rec(inode).is_none(), "{} is gone", inode);
            continue;
        };
        let Some(rec) = w.rec(inode) else {
            return Err(TestCaseError::fail(format!("{inode} is there")));
        };
        prop_assert_eq!(stat(&rec.attr(inode)), Out::Stat(model.stat(id).unwrap()));
        prop_assert_eq!(rec.class.copies, node.copies);
        match &node.body {
            Body::Dir(entries) => {
                let names: Vec<_> = entries.iter().map(|(n, _)| n.clone()).collect();
                prop_assert_eq!(w.names(inode), names, "names of {}", inode);
                if model.is_live(id) {
                    let t = w.totals(inode);
                    prop_assert_eq!((t.inodes, t.dirs, t.bytes), model.totals(id), "totals of {}", inode);
                }
            }
            Body::File(content) => {
                // What is not inline is a hole.
                let mut got = rec.inline.unwrap_or_default().to_vec();
                got.resize(content.len(), 0);
                prop_assert!(got == *content, "content of {}", inode);
            }
            Body::Symlink(target) => prop_assert_eq!(rec.inline.as_deref(), Some(target.as_bytes())),
            Body::Other => {}
        }
    }
    Ok(())
}

/// Both, with a root that everybody may write to now and then.
fn run(actions: &[Action]) -> Result<(), TestCaseError> {
    let (mut w, mut model) = (World::new(), Model::new());
    let open = SetAttrs {
        inode: InodeId::ROOT,
        set: mooseng_core::attr::SetAttr { mode: Some(0o1777), ..Default::default() },
    };
    let opened = told(w.ask(User::Root, open.clone()));
    prop_assert_eq!(opened, model.ask(&User::Root.creds(), &open.into()));
    let mut done = Vec::new();
    for action in actions {
        let all = step(&mut w, &mut model, action).and_then(|text| {
            done.push(text);
            compare(&w, &model)
        });
        if let Err(e) = all {
            return Err(TestCaseError::fail(format!("{e}\nafter:\n{}", done.join("\n"))));
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(CASES),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_namespace_does_what_the_model_does(actions in prop::collection::vec(action(), 1..STEPS)) {
        run(&actions)?;
    }
}

/// The sequences are not in vain: everything is done now and then, and refused now and then.
#[test]
fn everything_happens() {
    let mut runner = TestRunner::deterministic();
    let mut done: BTreeMap<String, (u32, u32)> = BTreeMap::new();
    for _ in 0..40 {
        let actions = prop::collection::vec(action(), STEPS).new_tree(&mut runner).unwrap().current();
        let mut model = Model::new();
        model.nodes.entry(1).and_modify(|root| root.mode = 0o1777);
        for action in actions {
            let Some(req) = action.request(&model) else {
                open_or_release(&mut model, &action);
                continue;
            };
            let count = done.entry(format!("{:?}", action.verb)).or_default();
            match model.ask(&action.who.creds(), &req) {
                Ok(_) => count.0 += 1,
                Err(_) => count.1 += 1,
            }
        }
    }
    let rare: Vec<_> = done.iter().filter(|(_, (ok, no))| *ok < 5 || *no < 1).collect();
    assert!(rare.is_empty() && done.len() == 24, "{done:?}");
}
