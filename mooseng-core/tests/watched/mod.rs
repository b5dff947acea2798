//! A decoder on one input, watched: whatever the input is, it ends, and does not panic or take more memory than
//! it may. For the fuzz loops of all crates.

#![allow(dead_code, reason = "each test file uses some of it")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    io::Write as _,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, Once},
    time::Duration,
};

/// Between two looks at what runs. An input that is met twice hangs: no input takes a thousandth of it, and a
/// machine that stands still for so long has other troubles.
const LOOK: Duration = Duration::from_secs(10);

/// The system's allocator, counting the bytes that each thread has.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

thread_local! {
    // Below zero when this thread frees what another one took.
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static MOST: Cell<isize> = const { Cell::new(0) };
}

fn took(there: *mut u8, bytes: usize) -> *mut u8 {
    if !there.is_null() {
        LIVE.set(LIVE.get() + bytes as isize);
        MOST.set(MOST.get().max(LIVE.get()));
    }
    there
}

fn freed(bytes: usize) {
    LIVE.set(LIVE.get() - bytes as isize);
}

// SAFETY: all is the system's allocator's; counting takes no memory.
#[allow(unsafe_code, reason = "an allocator cannot be written otherwise; tests only")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        took(unsafe { System.alloc(layout) }, layout.size())
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        took(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }
    unsafe fn dealloc(&self, there: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(there, layout) };
        freed(layout.size());
    }
    unsafe fn realloc(&self, there: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        // SAFETY: the caller's promise.
        let moved = took(unsafe { System.realloc(there, layout, bytes) }, bytes);
        // Counted until now: both are there while the content moves.
        if !moved.is_null() {
            freed(layout.size());
        }
        moved
    }
}

/// What a thread has under way.
#[derive(Default)]
struct Watch {
    name: String,
    input: Vec<u8>,
    /// Rises with each input.
    number: u64,
    running: bool,
    /// The number at the last look.
    seen: u64,
}

static WATCHES: Mutex<Vec<Arc<Mutex<Watch>>>> = Mutex::new(Vec::new());

thread_local! {
    static WATCH: Arc<Mutex<Watch>> = begin();
}

fn begin() -> Arc<Mutex<Watch>> {
    static WATCHMAN: Once = Once::new();
    WATCHMAN.call_once(|| {
        std::thread::spawn(|| {
            loop {
                std::thread::sleep(LOOK);
                WATCHES.lock().unwrap().iter().for_each(|w| look(&mut w.lock().unwrap()));
            }
        });
    });
    let watch = Arc::<Mutex<Watch>>::default();
    WATCHES.lock().unwrap().push(watch.clone());
    watch
}

fn look(w: &mut Watch) {
    if w.running && w.seen == w.number {
        // Not by a macro: what those print of a test is kept until its end, and this has none.
        let _ = writeln!(std::io::stderr(), "{} does not end on {:02x?}", w.name, w.input);
        std::process::abort();
    }
    w.seen = w.number;
}

/// Runs `run` on `input`.
///
/// # Panics
/// When it panics, or has more than `bytes_max` of memory more at any time than before. One that does not end
/// ends the process, and says on what.
pub fn watched(name: &str, input: &[u8], bytes_max: usize, run: impl FnOnce(&[u8])) {
    let watch = WATCH.with(Arc::clone);
    {
        let mut w = watch.lock().unwrap();
        w.name.clear();
        w.name.push_str(name);
        w.input.clear();
        w.input.extend_from_slice(input);
        w.number += 1;
        w.running = true;
    }
    let before = LIVE.get();
    MOST.set(before);
    let ended = catch_unwind(AssertUnwindSafe(|| run(input)));
    let most = usize::try_from(MOST.get() - before).unwrap_or_default();
    watch.lock().unwrap().running = false;
    assert!(ended.is_ok(), "{name} panicked on {input:02x?}");
    assert!(most <= bytes_max, "{name} took {most} bytes of memory on {} bytes: {input:02x?}", input.len());
}

/// A database file with one change, and where: each byte of what it has of itself at its beginning in turns, then
/// places that are in use. `r` chooses.
pub fn with_a_change(valid: &[u8], round: u64, r: u64) -> (usize, Vec<u8>) {
    let mut input = valid.to_vec();
    let from = if round < 512 { round as usize } else { (r >> 16) as usize % valid.len() };
    let used = valid.iter().skip(from).position(|b| *b != 0 || round < 512);
    let at = used.map_or(0, |n| from + n);
    match r % 4 {
        0 => input[at..].iter_mut().take(8).for_each(|b| *b = 0xff),
        1 if round >= 512 => input.truncate(at),
        _ => input[at] ^= 1 << ((r >> 8) % 8),
    }
    (at, input)
}
