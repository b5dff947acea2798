//! The board of `mini`: a line for each thing that was shown, and on a terminal a bar for what is under
//! way. Where nobody watches, only the lines.

use indicatif::{ProgressBar, ProgressStyle};
use std::time::{Duration, Instant};

/// Between two turns of the spinner.
const TICK: Duration = Duration::from_millis(100);

pub(super) struct Board {
    begin: Instant,
    bar: ProgressBar,
}

impl Board {
    /// Time counts from here. The bar is drawn on stderr, and only where that is a terminal.
    pub fn new() -> Self {
        let bar = ProgressBar::new(0);
        let style = ProgressStyle::with_template("{spinner} {msg} {wide_bar} {pos}/{len}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self { begin: Instant::now(), bar }
    }

    /// Seconds since it began.
    pub fn seconds(&self) -> f64 {
        self.begin.elapsed().as_secs_f64()
    }

    /// Something of so many steps begins.
    pub fn begin(&self, what: &'static str, steps: u64) {
        self.bar.reset();
        self.bar.set_message(what);
        self.at(0, steps);
        self.bar.enable_steady_tick(TICK);
    }

    /// One step is done.
    pub fn step(&self) {
        self.bar.inc(1);
    }

    /// So many steps of so many are done.
    pub fn at(&self, done: u64, steps: u64) {
        self.bar.set_length(steps);
        self.bar.set_position(done);
    }

    /// Something was shown.
    pub fn shown(&self, text: &str) {
        let seconds = self.seconds();
        self.bar.suspend(|| println!("[{seconds:6.2} s] {text}"));
    }

    /// Nothing more is under way.
    pub fn end(&self) {
        self.bar.finish_and_clear();
    }
}
