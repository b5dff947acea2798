//! Lanes: a thread each in production, a task each in the simulator and when embedded.

use mooseng_core::seam::{Job, Lane, Lanes};
use parking_lot::Mutex;
use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Weak, mpsc},
    thread,
    time::Duration,
};
use tokio::sync::Notify;

/// Jobs that wait on one lane at most: enough to keep a disk busy, few enough to feel its slowness.
pub const LANE_QUEUE_MAX: usize = 1024;

/// Lanes that are threads.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsLanes;

impl Lanes for OsLanes {
    /// # Panics
    /// When the machine gives no further thread.
    fn lane(&self, name: &str) -> Arc<dyn Lane> {
        let (jobs, queue) = mpsc::sync_channel::<Job>(LANE_QUEUE_MAX);
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || queue.into_iter().for_each(|job| job()))
            .expect("the machine gives a thread for a lane");
        Arc::new(OsLane { name: name.to_owned(), jobs })
    }
}

/// A thread that runs jobs. When the lane is dropped the thread runs what is queued and ends; when
/// a job panics the lane is stopped.
struct OsLane {
    name: String,
    jobs: mpsc::SyncSender<Job>,
}

impl fmt::Debug for OsLane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OsLane({})", self.name)
    }
}

impl Lane for OsLane {
    fn run(&self, job: Job) {
        if self.jobs.send(job).is_err() {
            tracing::error!(lane = self.name, "a job was dropped: the lane stopped after a panic");
        }
    }
}

/// Lanes that are tasks of the tokio runtime they are made on.
///
/// Every job runs after `delay` of the runtime's time. A task cannot make its caller wait on a
/// single thread; where [`LANE_QUEUE_MAX`] jobs wait, the caller runs the oldest itself.
#[derive(Clone, Debug, Default)]
pub struct TaskLanes {
    delay: Duration,
    made: Arc<Mutex<Vec<Weak<Queue>>>>,
}

impl TaskLanes {
    /// Lanes whose jobs take `delay` each.
    pub fn with_delay(delay: Duration) -> Self {
        Self { delay, ..Self::default() }
    }

    /// Stops all lanes made here and drops what is queued on them, as the crash of a node does.
    pub fn stop(&self) {
        for queue in self.made.lock().drain(..).filter_map(|q| q.upgrade()) {
            queue.close(true);
        }
    }
}

impl Lanes for TaskLanes {
    fn lane(&self, name: &str) -> Arc<dyn Lane> {
        let queue = Arc::new(Queue::default());
        let mut made = self.made.lock();
        made.retain(|q| q.strong_count() > 0);
        made.push(Arc::downgrade(&queue));
        tokio::spawn(drain(queue.clone(), self.delay));
        Arc::new(TaskLane { name: name.to_owned(), queue })
    }
}

/// Lanes that are tasks, of which those whose name begins with a word can stand still, as those of a disk that hangs.
#[derive(Clone)]
pub struct HeldLanes {
    lanes: TaskLanes,
    word: &'static str,
    held: Held,
}

/// Jobs that wait, while they do.
type Held = Arc<Mutex<Option<Vec<(Arc<dyn Lane>, Job)>>>>;

impl HeldLanes {
    /// Lanes of which those of `word` can be held; they run until then.
    pub fn of(word: &'static str) -> Self {
        Self { lanes: TaskLanes::default(), word, held: Held::default() }
    }

    /// Jobs that are given from now on wait, without a bound.
    pub fn hold(&self) {
        *self.held.lock() = Some(vec![]);
    }

    /// Those that wait run, and those that come.
    pub fn go_on(&self) {
        let jobs = self.held.lock().take().unwrap_or_default();
        jobs.into_iter().for_each(|(lane, job)| lane.run(job));
    }
}

impl fmt::Debug for HeldLanes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HeldLanes({})", self.word)
    }
}

impl Lanes for HeldLanes {
    fn lane(&self, name: &str) -> Arc<dyn Lane> {
        let lane = self.lanes.lane(name);
        match name.starts_with(self.word) {
            true => Arc::new(HeldLane { lane, held: self.held.clone() }),
            false => lane,
        }
    }
}

struct HeldLane {
    lane: Arc<dyn Lane>,
    held: Held,
}

impl fmt::Debug for HeldLane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HeldLane({:?})", self.lane)
    }
}

impl Lane for HeldLane {
    fn run(&self, job: Job) {
        match &mut *self.held.lock() {
            Some(held) => held.push((self.lane.clone(), job)),
            None => self.lane.run(job),
        }
    }
}

#[derive(Default)]
struct Queue {
    state: Mutex<QueueState>,
    wake: Notify,
}

#[derive(Default)]
struct QueueState {
    jobs: VecDeque<Job>,
    running: bool,
    closed: bool,
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Queue({} jobs)", self.state.lock().jobs.len())
    }
}

impl Queue {
    fn close(&self, forget: bool) {
        let forgotten = {
            let mut state = self.state.lock();
            state.closed = true;
            if forget { std::mem::take(&mut state.jobs) } else { VecDeque::new() }
        };
        // Dropping a job may wake its waiter: not under the lock.
        drop(forgotten);
        self.wake.notify_one();
    }

    /// Runs the oldest job unless one is running already, which keeps the order.
    fn run_one(&self) -> bool {
        let job = {
            let mut state = self.state.lock();
            if state.running {
                return false;
            }
            let Some(job) = state.jobs.pop_front() else { return false };
            state.running = true;
            job
        };
        let _done = Done(self);
        job();
        true
    }
}

/// Lets the next job run, also after a panic.
struct Done<'a>(&'a Queue);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.state.lock().running = false;
        self.0.wake.notify_one();
    }
}

async fn drain(queue: Arc<Queue>, delay: Duration) {
    loop {
        let (waiting, finished) = {
            let state = queue.state.lock();
            (!state.jobs.is_empty() && !state.running, state.closed && state.jobs.is_empty())
        };
        if waiting {
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            queue.run_one();
            tokio::task::yield_now().await;
        } else if finished {
            return;
        } else {
            queue.wake.notified().await;
        }
    }
}

struct TaskLane {
    name: String,
    queue: Arc<Queue>,
}

impl fmt::Debug for TaskLane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TaskLane({})", self.name)
    }
}

impl Drop for TaskLane {
    fn drop(&mut self) {
        self.queue.close(false);
    }
}

impl Lane for TaskLane {
    fn run(&self, job: Job) {
        let full = {
            let mut state = self.queue.state.lock();
            if state.closed {
                return;
            }
            state.jobs.push_back(job);
            state.jobs.len() > LANE_QUEUE_MAX
        };
        if full {
            self.queue.run_one();
        }
        self.queue.wake.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mooseng_core::seam::on_lane;

    /// Puts `count` jobs on a lane and returns the order in which they ran.
    async fn order_of(lane: &Arc<dyn Lane>, count: usize) -> Vec<usize> {
        let seen = Arc::new(Mutex::new(Vec::new()));
        for n in 0..count {
            let seen = seen.clone();
            lane.run(Box::new(move || seen.lock().push(n)));
        }
        on_lane(lane, || ()).await.unwrap();
        seen.lock().clone()
    }

    #[tokio::test]
    async fn jobs_run_in_order_past_the_queues_limit() {
        let want: Vec<usize> = (0..LANE_QUEUE_MAX + 7).collect();
        assert_eq!(order_of(&OsLanes.lane("test"), want.len()).await, want);
        assert_eq!(order_of(&TaskLanes::default().lane("test"), want.len()).await, want);
    }

    #[test]
    fn a_full_lane_makes_its_caller_wait() {
        let lane = OsLanes.lane("test");
        let (release, hold) = mpsc::channel::<()>();
        let (started, begun) = mpsc::channel::<()>();
        lane.run(Box::new(move || {
            started.send(()).unwrap();
            hold.recv().unwrap();
        }));
        begun.recv().unwrap();
        for _ in 0..LANE_QUEUE_MAX {
            lane.run(Box::new(|| ()));
        }
        let (passed, through) = mpsc::channel::<()>();
        thread::spawn(move || {
            lane.run(Box::new(|| ()));
            passed.send(()).unwrap();
        });
        assert!(through.recv_timeout(Duration::from_millis(50)).is_err(), "one past the limit waits");
        release.send(()).unwrap();
        through.recv_timeout(Duration::from_secs(10)).unwrap();
    }

    #[test]
    fn a_lane_thread_has_its_name() {
        let lane = OsLanes.lane("disk-7");
        let (tx, rx) = mpsc::channel();
        lane.run(Box::new(move || tx.send(thread::current().name().map(str::to_owned)).unwrap()));
        assert_eq!(rx.recv().unwrap().as_deref(), Some("disk-7"));
    }

    #[tokio::test]
    async fn a_lane_stopped_by_a_panic_answers_nothing_and_hangs_nobody() {
        let lane = OsLanes.lane("test");
        assert_eq!(on_lane(&lane, || panic!("planted")).await, None::<()>);
        assert_eq!(on_lane(&lane, || 1).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_lane_takes_virtual_time() {
        let lane = TaskLanes::with_delay(Duration::from_secs(3)).lane("slow");
        let start = tokio::time::Instant::now();
        on_lane(&lane, || ()).await.unwrap();
        on_lane(&lane, || ()).await.unwrap();
        assert_eq!(start.elapsed(), Duration::from_secs(6));
    }

    #[tokio::test]
    async fn dropping_a_lane_runs_what_is_queued_and_stopping_it_does_not() {
        let lanes = TaskLanes::default();
        let (tx, rx) = futures_channel();
        let lane = lanes.lane("kept");
        lane.run(Box::new(move || tx.send(1).unwrap()));
        drop(lane);
        assert_eq!(rx.await, Ok(1));

        let (tx, rx) = futures_channel::<i32>();
        let lane = lanes.lane("crashed");
        lane.run(Box::new(move || tx.send(1).unwrap()));
        lanes.stop();
        assert!(rx.await.is_err());
        assert_eq!(on_lane(&lane, || 1).await, None);
    }

    fn futures_channel<T>() -> (tokio::sync::oneshot::Sender<T>, tokio::sync::oneshot::Receiver<T>) {
        tokio::sync::oneshot::channel()
    }
}
