//! What a scenario measured, and its verdict.

use std::time::{Duration, Instant};

/// One scenario's findings. Lines are printed as they come.
pub struct Report {
    /// The scenario.
    pub name: String,
    /// Promises that were broken: wrong data, errors, something that did not come back.
    pub wrong: Vec<String>,
    /// Aims in time that were missed.
    pub missed: Vec<String>,
    /// Parts that this machine cannot do.
    pub skipped: Vec<String>,
    begin: Instant,
}

/// Findings of one kind that are told in full.
const TOLD: usize = 8;

#[allow(clippy::print_stdout, reason = "it is what the command is for")]
fn print(line: &str) {
    println!("{line}");
}

impl Report {
    /// A scenario begins.
    pub fn new(name: &str) -> Self {
        print(&format!("\n== {name}"));
        Self { name: name.into(), wrong: vec![], missed: vec![], skipped: vec![], begin: Instant::now() }
    }

    /// Tells something.
    pub fn say(&self, text: impl AsRef<str>) {
        print(&format!("[{:6.1} s] {}", self.begin.elapsed().as_secs_f64(), text.as_ref()));
    }

    /// A broken promise.
    pub fn fail(&mut self, what: impl Into<String>) {
        let what = what.into();
        self.say(format!("WRONG: {what}"));
        self.wrong.push(what);
    }

    /// Broken promises of one kind.
    pub fn fail_all(&mut self, kind: &str, found: Vec<String>) {
        let n = found.len();
        for (i, what) in found.into_iter().enumerate() {
            match i {
                0..TOLD => self.fail(format!("{kind}: {what}")),
                TOLD => self.fail(format!("{kind}: and {} more", n - TOLD)),
                _ => {}
            }
        }
    }

    /// An aim in time.
    pub fn aim(&mut self, what: &str, got: Duration, below: Duration) {
        if got >= below {
            let text = format!("{what}: {}, the aim is below {}", secs(got), secs(below));
            self.say(format!("MISSED: {text}"));
            self.missed.push(text);
        }
    }

    /// Something this machine cannot do.
    pub fn skip(&mut self, why: impl Into<String>) {
        let why = why.into();
        print(&format!("skipped: {why}"));
        self.skipped.push(why);
    }

    /// Whether nothing is to be complained of.
    pub fn good(&self) -> bool {
        self.wrong.is_empty() && self.missed.is_empty()
    }

    /// One line.
    pub fn verdict(&self) -> String {
        let word = match (self.wrong.len(), self.missed.len(), self.skipped.len()) {
            (0, 0, 0) => "ok".to_owned(),
            (0, 0, n) => format!("ok, {n} skipped"),
            (0, n, _) => format!("SLOW: {n} aims missed"),
            (n, ..) => format!("WRONG: {n} promises broken"),
        };
        format!("{:<12} {word} ({:.0} s)", self.name, self.begin.elapsed().as_secs_f64())
    }
}

/// Seconds for people.
pub fn secs(d: Duration) -> String {
    format!("{:.2} s", d.as_secs_f64())
}

/// A distribution for people, and its median and worst.
pub fn distribution(times: &[Duration]) -> (String, Duration, Duration) {
    let mut all = times.to_vec();
    all.sort_unstable();
    let at = |percent: usize| {
        let place = (all.len() * percent).div_ceil(100).saturating_sub(1);
        all.get(place).copied().unwrap_or_default()
    };
    let (min, median, p90, worst) = (at(0), at(50), at(90), at(100));
    let text = format!(
        "{} times: min {}, median {}, p90 {}, worst {}",
        all.len(),
        secs(min),
        secs(median),
        secs(p90),
        secs(worst)
    );
    (text, median, worst)
}
