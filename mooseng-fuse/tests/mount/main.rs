//! Real mounts of whole clusters, used by the system's own tools.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests may panic and tell what they skip")]

mod basics;
mod coherence;
mod life;
mod posix;
mod tools;
mod world;
