//! The walls between the crates, held as tests (`tests/walls.rs`).
