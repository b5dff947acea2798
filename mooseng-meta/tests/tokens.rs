//! Join tokens as the state has them: one signing request each, whatever comes in which order.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

use mooseng_core::{
    attr::Timestamp,
    join::{Invite, JoinError, Promise, TokenId},
    limits::TOKENS_MAX,
    meta::*,
    net::Role,
};
use mooseng_meta::{
    namespace::TotalsDelta,
    state::apply,
    store::{MemoryStore, Table, TokenRec, View as _, encode_rec, load},
};

fn invite(node: u64) -> Invite {
    Invite { role: Role::Chunkserver, node, name: format!("c{node}") }
}

fn token(n: u64) -> TokenId {
    let mut id = [0; 32];
    id[..8].copy_from_slice(&n.to_be_bytes());
    TokenId(id)
}

#[derive(Default)]
struct Bench(MemoryStore);

impl Bench {
    fn at(&mut self, secs: i64, command: Command) -> Result<Promise, JoinError> {
        let entry = LogEntry { format: ENTRY_FORMAT, time: Timestamp::new(secs, 0), command };
        match apply(&mut self.0, &entry, &mut TotalsDelta::default()).unwrap() {
            Applied::Token(answer) => answer,
            other => panic!("{other:?}"),
        }
    }
    fn make(&mut self, secs: i64, n: u64, invite: Invite, replace: bool) -> Result<Promise, JoinError> {
        let (token, lifetime_secs, validity_secs) = (token(n), 60, 5);
        self.at(secs, Command::TokenMade { token, invite, lifetime_secs, validity_secs, replace })
    }
    fn spend(&mut self, secs: i64, n: u64, csr: u8) -> Result<Promise, JoinError> {
        self.at(secs, Command::TokenUsed { token: token(n), csr: [csr; 32] })
    }
    fn rec(&self, n: u64) -> Option<TokenRec> {
        load(&self.0, Table::Token, &token(n).0).unwrap()
    }
    fn rows(&self) -> usize {
        let mut rows = 0;
        self.0
            .scan(Table::Token, &[], &[], &mut |_, _| {
                rows += 1;
                true
            })
            .unwrap();
        rows
    }
}

#[test]
fn a_token_is_good_for_one_request_however_often_it_comes() {
    let mut b = Bench::default();
    let promise = b.make(100, 1, invite(4), false).unwrap();
    assert_eq!(promise.expires, Timestamp::new(160, 0));
    assert_eq!(b.spend(101, 1, 7), Ok(promise.clone()));
    for secs in 102..110 {
        assert_eq!(b.spend(secs, 1, 8), Err(JoinError::Used(token(1))), "another request");
        assert_eq!(b.spend(secs, 1, 7), Ok(promise.clone()), "the same again");
    }
    assert_eq!(b.spend(102, 2, 7), Err(JoinError::Unknown(token(2))));
}

#[test]
fn a_token_ends_at_its_time_to_the_nanosecond_and_never_comes_back() {
    let mut b = Bench::default();
    b.make(100, 2, invite(5), false).unwrap();
    b.make(101, 1, invite(4), false).unwrap();
    assert!(b.spend(159, 1, 7).is_ok());
    assert_eq!(b.spend(160, 2, 7), Err(JoinError::Expired(token(2))));
    assert_eq!(b.rec(2).unwrap().used, None, "nothing was changed");
    // A leader whose clock is behind does not make it good again.
    assert_eq!(b.spend(101, 2, 7), Err(JoinError::Expired(token(2))));
    assert!(b.spend(101, 1, 7).is_ok(), "the last nanoseconds");
    assert_eq!(b.spend(161, 1, 7), Err(JoinError::Expired(token(1))));
    assert_eq!(b.spend(101, 1, 7), Err(JoinError::Expired(token(1))), "nor for who has joined");
}

#[test]
fn expired_tokens_go_with_the_next_one_and_the_rest_is_bounded() {
    let mut b = Bench::default();
    for n in 1..=TOKENS_MAX as u64 {
        b.make(100, n, invite(n), false).unwrap();
    }
    let one_more = TOKENS_MAX as u64 + 1;
    let limit = TOKENS_MAX as u64;
    assert_eq!(b.make(100, one_more, invite(one_more), false), Err(JoinError::TooMany { limit }));
    assert_eq!(b.rows(), TOKENS_MAX);
    // One in another's place makes no more of them.
    b.make(102, one_more, invite(1), true).unwrap();
    assert_eq!(b.rows(), TOKENS_MAX);
    b.make(161, one_more + 1, invite(one_more), false).unwrap();
    assert_eq!(b.rows(), 1 + 1, "the one of second 102 lives for a moment yet");
    b.make(162, one_more + 2, invite(1), false).unwrap();
    assert_eq!(b.rows(), 2);
}

#[test]
fn names_and_numbers_clash_until_one_takes_the_place_of_the_other() {
    let mut b = Bench::default();
    let first = b.make(100, 1, invite(4), false).unwrap();
    assert_eq!(b.make(101, 1, invite(4), false), Ok(first), "a repeat is no clash");
    assert!(matches!(b.make(101, 1, invite(5), false), Err(JoinError::Clash(_))), "a key of another");
    let same_name = Invite { node: 5, ..invite(4) };
    for clash in [invite(4), same_name.clone()] {
        let said = b.make(102, 2, clash, false).unwrap_err().to_string();
        assert!(said.contains("open") && said.contains("--replace"), "{said}");
    }
    b.make(103, 3, Invite { role: Role::Master, ..invite(4) }, false).unwrap();
    b.make(103, 2, same_name, true).unwrap();
    assert_eq!(b.spend(104, 1, 7), Err(JoinError::Unknown(token(1))), "its place is taken");
    b.spend(104, 2, 7).unwrap();
    let said = b.make(105, 4, invite(4), false).unwrap_err().to_string();
    assert!(said.contains("joined by a token lately"), "{said}");
    b.make(164, 4, invite(4), false).unwrap();
}

#[test]
fn the_record_is_pinned() {
    let promise = Promise { invite: invite(4), expires: Timestamp(5), validity_secs: 300 };
    let rec = TokenRec { promise, used: Some([9; 32]) };
    let golden = [&[1, 1, 4, 2, b'c', b'4', 10, 0xac, 2, 1][..], &[9; 32]].concat();
    assert_eq!(encode_rec(&rec), golden);
}
