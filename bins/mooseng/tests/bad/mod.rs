//! Bad input and bad surroundings: each is told with cause and cure, and nothing is lost.

mod disks;
mod refusals;
mod wire;

use super::*;
use std::net::Shutdown;
