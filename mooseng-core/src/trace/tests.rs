use super::*;
use futures::{FutureExt as _, future::poll_fn};
use std::sync::{
    Mutex,
    atomic::{AtomicU64, Ordering::Relaxed},
};

/// What has ended: trace, span, parent, name, whether it was whole and asked for.
type Row = (TraceId, SpanId, SpanId, String, bool, bool);

static ROWS: Mutex<Vec<Row>> = Mutex::new(Vec::new());

struct Counts(AtomicU64);

impl Recorder for Counts {
    fn random(&self) -> u64 {
        self.0.fetch_add(2, Relaxed)
    }
    fn now(&self) -> Duration {
        Duration::ZERO
    }
    fn ended(&self, s: &Ended<'_>) {
        let row = (s.at.trace, s.at.span, s.parent, (s.name)(), s.whole, s.is_asked);
        ROWS.lock().unwrap().push(row);
    }
}

/// What `work` comes to, which waits for nothing.
fn done<T>(work: impl Future<Output = T>) -> T {
    work.now_or_never().unwrap()
}

fn rows_of(trace: TraceId) -> Vec<Row> {
    record_with(Box::new(Counts(AtomicU64::new(2))));
    ROWS.lock().unwrap().iter().filter(|r| r.0 == trace).cloned().collect()
}

#[test]
fn steps_are_below_what_asked_for_them_and_nothing_stays_behind() {
    rows_of(TraceId(0));
    let (trace, above) = (TraceId::kept(70), SpanId(71));
    let disk = async {
        // What waits gives the thread to others, which are not in this trace.
        let mut polled = false;
        poll_fn(|_| {
            let first = !std::mem::replace(&mut polled, true);
            if first { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
        here()
    };
    let mut work = Box::pin(asked(Here { trace, span: above }, || "asked".into(), step("disk", disk)));
    assert!(work.as_mut().now_or_never().is_none());
    assert_eq!(here(), Here::NOWHERE);
    let inside = work.as_mut().now_or_never().unwrap();
    assert_eq!((here(), inside.trace), (Here::NOWHERE, trace));
    let rows = rows_of(trace);
    let [disk, asked] = &rows[..] else { panic!("{rows:?}") };
    assert_eq!((disk.3.as_str(), disk.1, disk.2), ("disk", inside.span, asked.1));
    assert_eq!((asked.3.as_str(), asked.2), ("asked", above));
    assert!(disk.4 && asked.4 && !disk.5 && asked.5, "{rows:?}");
}

#[test]
fn what_is_given_up_says_so_and_what_is_in_no_trace_is_no_step() {
    rows_of(TraceId(0));
    let at = Here { trace: TraceId::passing(90), span: SpanId(0) };
    let mut work = Box::pin(within(at, step("a wait", std::future::pending::<()>())));
    assert!(work.as_mut().now_or_never().is_none());
    assert_eq!(rows_of(at.trace), []);
    drop(work);
    assert!(matches!(&rows_of(at.trace)[..], [(.., false, false)]));
    // Never polled: it never began.
    drop(within(at, step("nothing", async {})));
    assert_eq!(rows_of(at.trace).len(), 1);
    done(step("in no trace", async {}));
    assert!(open(Here::NOWHERE, "in no trace").is_none());
    assert_eq!(rows_of(TraceId(0)), []);
    // What is asked for in no trace begins one.
    let inside = done(asked(Here::NOWHERE, || "asked".into(), async { here() }));
    assert!(inside.is_known() && !inside.trace.is_kept());
    assert_eq!(rows_of(inside.trace).len(), 1);
}

#[test]
fn tasks_take_their_place_along() {
    let at = Here { trace: TraceId::passing(110), span: SpanId(5) };
    let carried = done(within(at, poll_fn(|_| Poll::Ready(carry(async { here() })))));
    assert_eq!((here(), done(carried)), (Here::NOWHERE, at));
    rows_of(TraceId(0));
    timed(at, "a job", || ());
    assert_eq!(rows_of(at.trace)[0].2, at.span);
}

#[test]
fn orders_have_each_span_once() {
    let order = |spans: &[(u64, u64, i64)]| {
        let rows = in_order(spans.to_vec(), |s| (SpanId(s.0), SpanId(s.1), s.2));
        rows.into_iter().map(|(depth, s)| (depth, s.0)).collect::<Vec<_>>()
    };
    assert_eq!(order(&[]), []);
    assert_eq!(
        order(&[(3, 1, 9), (2, 1, 5), (1, 0, 7), (4, 3, 0), (5, 77, 1)]),
        [(0, 5), (0, 1), (1, 2), (1, 3), (2, 4)]
    );
    assert_eq!(order(&[(1, 1, 0), (2, 3, 0), (3, 2, 0)]), [(0, 1), (0, 2), (1, 3)], "rings end");
}

#[test]
fn numbers_say_whether_a_trace_is_kept() {
    for n in [0, 1, u64::MAX] {
        assert!(TraceId::kept(n).is_kept() && !TraceId::passing(n).is_kept());
        assert_ne!(TraceId::passing(n).get(), 0, "0 is no trace");
    }
}
