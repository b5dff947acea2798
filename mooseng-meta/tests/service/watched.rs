//! What operators watch: events, the chunk matrix and its cells, counts of calls, what chunkservers serve.

use crate::world::*;
use mooseng_core::{ids::*, meta::*};
use mooseng_meta::service::ServiceTimings;
use std::time::Duration;

fn quick_to_miss() -> ServiceTimings {
    let (server_dead, repair_after) = (Duration::from_secs(2), Duration::from_secs(3600));
    ServiceTimings { server_dead, repair_after, session_lifetime: Duration::from_secs(3600), ..quick() }
}

async fn events(w: &World, after: Option<EventMark>) -> EventPage {
    w.service().list_events(&cx(), ListEvents { after, count: u32::MAX }).await.unwrap()
}

async fn codes(w: &World) -> Vec<(EventCode, Option<String>)> {
    events(w, None).await.events.into_iter().map(|e| (e.code, e.problem)).collect()
}

#[tokio::test(start_paused = true)]
async fn a_leader_tells_who_came_went_and_came_back() {
    use EventCode::*;
    let w = World::of(2, quick_to_miss()).await;
    assert_eq!(
        codes(&w).await,
        [(MasterElected, None), (ChunkserverJoined, None), (ChunkserverJoined, None)]
    );
    let silent = Some("CHUNKSERVER_SILENT".to_owned());
    until("the second is missed", async || {
        w.beat(1).await;
        codes(&w).await.contains(&(ProblemRaised, silent.clone()))
    })
    .await;
    let seen = events(&w, None).await;
    until("it is heard again", async || {
        w.beat(1).await;
        w.beat(2).await;
        codes(&w).await.contains(&(ProblemCleared, silent.clone()))
    })
    .await;
    let since: Vec<_> = events(&w, Some(seen.next)).await.events.into_iter().map(|e| e.code).collect();
    assert_eq!(since, [ChunkserverBack, ProblemCleared], "only what came after that place");
    w.register(2, 9).await;
    let last = events(&w, None).await.events.pop().unwrap();
    assert_eq!((last.code, last.text.as_str()), (ChunkserverBack, "chunkserver 2 (cs-2) has started anew"));
}

/// Lets time pass; those chunkservers are heard meanwhile.
async fn pass(w: &World, secs: u64, heard: &[u64]) {
    for _ in 0..2 * secs {
        tokio::time::sleep(Duration::from_millis(500)).await;
        for id in heard {
            w.beat(*id).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_chunkserver_does_not_wait_for_the_look_at_all_chunks_and_is_back_once() {
    use EventCode::*;
    let w = World::of(2, ServiceTimings { look: Duration::from_secs(3600), ..quick_to_miss() }).await;
    pass(&w, 5, &[1, 2]).await;
    let calm = events(&w, None).await.next;
    pass(&w, 5, &[1]).await;
    for _ in 0..10 {
        w.register(2, 9).await;
        pass(&w, 1, &[1]).await;
    }
    let since: Vec<_> = events(&w, Some(calm)).await.events.into_iter().map(|e| e.code).collect();
    assert_eq!(since, [ChunkserverLost, ChunkserverBack]);
}

#[tokio::test(start_paused = true)]
async fn a_new_leader_begins_anew_and_does_not_miss_whom_it_has_not_heard_yet() {
    let mut w = World::of(2, quick_to_miss()).await;
    let before = events(&w, None).await;
    w.restart_master().await;
    pass(&w, 10, &[1, 2]).await;
    let after = events(&w, Some(before.next)).await;
    assert!(after.next.term > before.next.term);
    let codes: Vec<_> = after.events.iter().map(|e| e.code).collect();
    assert_eq!((codes, after.lost), (vec![EventCode::MasterElected], 0));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_silent_is_told_to_be_fenced() {
    let timings = ServiceTimings { session_lifetime: Duration::from_secs(5), ..quick() };
    let w = World::of(1, timings).await;
    let s = w.session("photos").await;
    until("it is fenced", async || codes(&w).await.contains(&(EventCode::SessionFenced, None))).await;
    let told = events(&w, None).await.events.pop().unwrap();
    assert!(told.text.contains(&format!("session {} (photos at h)", s.id.get())), "{}", told.text);
}

#[tokio::test(start_paused = true)]
async fn the_matrix_counts_copies_and_its_cells_name_files() {
    let w = World::of(3, quick_to_miss()).await;
    let s = w.session("s").await;
    for n in 0..70 {
        w.file(s, &format!("two-{n:02}")).await;
    }
    w.one_copy(s, "one").await;
    for id in 1..=3 {
        w.beat(id).await;
    }
    let matrix = async || w.service().get_chunk_matrix(&cx(), GetChunkMatrix {}).await.unwrap().cells;
    let cell = |wanted, copies, chunks| MatrixCell { wanted, copies, chunks };
    assert_eq!(matrix().await, [cell(1, 1, 1), cell(2, 2, 70)]);

    let page = async |wanted, copies, from| {
        let op = ListCell { wanted, copies, from, count: u32::MAX };
        w.service().list_cell(&cx(), op).await.unwrap()
    };
    let (mut paths, mut from) = (Vec::new(), Some(ChunkId(0)));
    let mut pages = 0;
    while let Some(at) = from {
        let found = page(2, 2, at).await;
        paths.extend(found.chunks.iter().map(|c| c.path.clone().unwrap()));
        assert!(found.chunks.len() <= 64 && found.chunks.iter().all(|c| c.servers.len() == 2));
        (from, pages) = (found.next, pages + 1);
    }
    paths.sort();
    let wanted: Vec<_> = (0..70).map(|n| format!("/two-{n:02}")).collect();
    assert_eq!((paths, pages), (wanted.into_iter().map(Into::into).collect(), 2));
    assert!(page(2, 1, ChunkId(0)).await.chunks.is_empty());

    // A server goes: its copies do not count any more.
    tokio::time::sleep(Duration::from_secs(3)).await;
    w.beat(2).await;
    w.beat(3).await;
    let now = matrix().await;
    let chunks =
        |copies| now.iter().filter(|c| (c.wanted, c.copies) == (2, copies)).map(|c| c.chunks).sum::<u64>();
    assert!(chunks(1) > 10 && chunks(1) + chunks(2) == 70, "{now:?}");
    assert_eq!(page(2, 1, ChunkId(0)).await.chunks.len() as u64, chunks(1).min(64));
}

#[tokio::test(start_paused = true)]
async fn calls_are_counted_by_operation_and_session() {
    let w = World::of(1, quick()).await;
    let s = w.session("s").await;
    for _ in 0..5 {
        w.service().getattr(&under(s), GetAttr { inode: InodeId::ROOT }).await.unwrap();
    }
    let missing = Lookup { parent: InodeId::ROOT, name: name("nothing") };
    assert!(w.service().lookup(&under(s), missing).await.is_err());
    let told = w.service().get_op_counts(&cx(), GetOpCounts {}).await.unwrap();
    let of =
        |op: &str| told.ops.iter().find(|o| o.op == op).map(|o| (o.calls, o.failed, o.latencies.count()));
    assert_eq!(
        (of("GetAttr"), of("Lookup"), of("Register")),
        (Some((5, 0, 5)), Some((1, 0, 1)), Some((1, 0, 1)))
    );
    assert_eq!(of("RmDir"), None);
    let sessions = w.service().list_sessions(&cx(), ListSessions {}).await.unwrap();
    assert_eq!(sessions.iter().map(|i| (i.stamp, i.calls)).collect::<Vec<_>>(), [(s, 6)]);
}

#[tokio::test(start_paused = true)]
async fn what_chunkservers_serve_is_kept_as_they_told_it() {
    let w = World::of(2, quick()).await;
    let load = async || w.service().get_load(&cx(), GetLoad {}).await.unwrap();
    assert!(load().await.is_empty());
    let served = Served { read_bytes: 5, written_bytes: 7, ..Served::default() };
    let tell = TellScrub { server: ServerId(2), incarnation: Incarnation(1), disks: vec![], served };
    w.service().tell_scrub(&cx(), tell).await.unwrap();
    let told = load().await;
    assert_eq!(
        told.iter().map(|l| (l.server, l.incarnation, l.served)).collect::<Vec<_>>(),
        [(ServerId(2), Incarnation(1), served)]
    );
}
