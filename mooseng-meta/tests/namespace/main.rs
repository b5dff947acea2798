//! The operations of the namespace, on the in-memory store through the apply path: a table for each
//! operation, and random sequences beside a plain model. After every step the tables are consistent
//! with each other, and an operation that was refused has changed nothing.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod actions;
mod content_model;
mod contents;
mod keys;
mod model;
mod model_ops;
mod props;
mod rows;
mod sound;
mod table_attrs;
mod table_batch;
mod table_content;
mod table_make;
mod table_read;
mod table_remove;
mod table_rename;
mod world;
