//! Bad input and bad surroundings: each is told with cause and cure, and nothing is lost.

mod capabilities;
mod disks;
mod floods;
mod garbage;
mod members;
mod names;
mod raw;
mod refusals;
mod roles;
mod strangers;
mod wire;

use super::*;
use std::net::Shutdown;
