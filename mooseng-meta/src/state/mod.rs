//! The masters' state: one deterministic [`apply`] for every command, and the [`StateMachine`] that
//! Raft drives. Apply is a function of state and entry only; it checks what the leader checked
//! again, because the state may have moved in between.

mod apply;
mod keys;
mod machine;
mod session;
mod token;

pub use apply::{apply, fold_totals};
pub use machine::StateMachine;
pub use session::{SlotCheck, check_session, check_slot};
pub use token::check_token;
