//! The dashboard over a whole cluster in memory, asked as a browser and as a program ask.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod api;
mod disks;
mod doors;
mod pages;
mod world;
