//! openraft's own suite for stores.

use super::{disk::CrashDisk, machine::TestMachine};
use crate::raft::log::{DurableLog, LogOptions};
use crate::raft::log_store::{LogStore, term_of_vote};
use crate::raft::state::State;
use crate::raft::types::Types;
use mooseng_host::sim_seams;
use openraft::testing::log::{StoreBuilder, Suite};
use std::sync::Arc;

struct Builder;

impl StoreBuilder<Types, LogStore, State> for Builder {
    async fn build(&self) -> Result<((), LogStore, State), openraft::StorageError<Types>> {
        let disk = Arc::new(CrashDisk::default());
        let lanes = sim_seams(1).lanes;
        let options = LogOptions { segment_bytes: 1024, cache_bytes: 256 };
        let (writing, reading) = (lanes.lane("log"), lanes.lane("read"));
        let log = DurableLog::open(disk.clone(), writing, reading, options, term_of_vote).await.unwrap();
        let machine = Arc::new(TestMachine::default());
        let state = State::open(machine, disk, lanes.lane("apply"), lanes.lane("files")).await.unwrap();
        Ok(((), LogStore(log, Arc::default()), state))
    }
}

#[tokio::test(start_paused = true)]
async fn the_stores_pass_openrafts_suite() {
    Suite::test_all(Builder).await.unwrap();
}
