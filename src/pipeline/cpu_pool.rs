//! The threads that tokenize and score: a fixed number of them, behind bounded queues.
//!
//! A request's context moves into its job, so what the request holds is freed when the job has
//! ended, not when its client stops waiting. A job whose client is gone is dropped before it
//! starts; a running one can see that it is cancelled.
//!
//! Scoring goes first, because the device has done its work already. Long tokenizing jobs occupy at
//! most half of the threads and wait in a queue of their own: requests with long texts do not hold up
//! requests with short ones.
//!
//! The pool is not `tokio::task::spawn_blocking`, which starts up to 512 threads and has no bound
//! on its queue.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::prompt::IsCancelled;
use crate::rerank::{Full, RerankError};

/// Jobs over more bytes of text are long: they take a thread roughly 100 ms or more.
const LONG_JOB_BYTES: usize = 256 * 1024;

/// The most threads of the process's pool.
const MAX_THREADS: usize = 16;

/// The most tokenizing jobs that wait in each of the two queues of the process's pool. Admission control
/// bounds the requests of all models; this bounds what they can bring to the threads at once.
const MAX_QUEUED_JOBS: usize = 256;

/// The shortest time after which a refused client should try again.
const MIN_RETRY_AFTER: Duration = Duration::from_secs(1);

/// The kind of a job, which decides the queue that it waits in.
#[derive(Debug, Clone, Copy)]
pub(super) enum Job {
    /// Tokenizes texts of this size in all, in bytes.
    Tokenize {
        /// Bytes of all texts.
        bytes: usize,
    },
    /// Turns outputs into scores and renders the next round. Never refused, because the passes of
    /// its request have run, and never behind a job that tokenizes.
    Score,
}

impl Job {
    const fn is_long(self) -> bool {
        match self {
            Self::Tokenize { bytes } => bytes > LONG_JOB_BYTES,
            Self::Score => false,
        }
    }
}

/// A pool of threads for tokenizing and scoring. They end when the pool is dropped and its jobs are done.
pub(super) struct CpuPool {
    shared: Arc<Shared>,
}

struct Shared {
    threads: usize,
    max_queued: usize,
    queues: Mutex<Queues>,
    /// Notified when a job is queued, a long job ends, or the pool is dropped.
    work_available: Condvar,
}

#[derive(Default)]
struct Queues {
    score: VecDeque<Queued>,
    short: VecDeque<Queued>,
    long: VecDeque<Queued>,
    running_long: usize,
    is_closed: bool,
    finished: u32,
    /// The time that the finished jobs took.
    busy: Duration,
}

struct Queued {
    run: Box<dyn FnOnce() + Send>,
    /// Alive as long as a client waits for the result.
    client: Weak<()>,
    job: Job,
}

impl CpuPool {
    /// The pool of this process, which all models share. It has one thread per core, at least 2 and
    /// at most 16.
    pub fn for_process() -> &'static Self {
        static POOL: LazyLock<CpuPool> = LazyLock::new(|| {
            let cores = thread::available_parallelism().map_or(1, std::num::NonZero::get);
            CpuPool::new(cores.clamp(2, MAX_THREADS), MAX_QUEUED_JOBS)
        });
        &POOL
    }

    /// Starts `threads` threads, at least 2. Each of the two queues for tokenizing holds up to
    /// `max_queued` jobs.
    ///
    /// # Panics
    /// If the system cannot start a thread.
    pub fn new(threads: usize, max_queued: usize) -> Self {
        let threads = threads.max(2);
        let shared = Arc::new(Shared { threads, max_queued, queues: Mutex::default(), work_available: Condvar::new() });
        for number in 0..threads {
            let shared = Arc::clone(&shared);
            let started = thread::Builder::new().name(format!("cpu-{number}")).spawn(move || shared.work());
            drop(started.expect("the system starts a thread"));
        }
        Self { shared }
    }

    /// Runs `work` on a thread of the pool and returns the context with its result. `work` should
    /// stop early when the function that it gets returns true: the caller has stopped waiting.
    ///
    /// # Errors
    /// [`RerankError::Overloaded`] when the queue is full, [`RerankError::Internal`] when `work`
    /// panics, and the errors of `work`.
    pub async fn run<C: Send + 'static, T: Send + 'static>(
        &self,
        context: C,
        job: Job,
        work: impl FnOnce(&C, IsCancelled) -> Result<T, RerankError> + Send + 'static,
    ) -> Result<(C, T), RerankError> {
        let client = Arc::new(());
        let waiting = Arc::downgrade(&client);
        let (reply, result) = oneshot::channel();
        let run = {
            let waiting = Weak::clone(&waiting);
            Box::new(move || {
                let is_cancelled = || waiting.strong_count() == 0;
                let worked = std::panic::catch_unwind(AssertUnwindSafe(|| work(&context, &is_cancelled)));
                let worked =
                    worked.unwrap_or_else(|_panic| Err(RerankError::internal("tokenizing or scoring panicked")));
                // A client that is gone needs no result; its context is dropped here.
                let _ = reply.send(worked.map(|value| (context, value)));
            })
        };
        self.shared.push(Queued { run, client: waiting, job })?;
        let result = result.await.unwrap_or_else(|_closed| Err(RerankError::internal("the CPU pool has ended")));
        drop(client);
        result
    }
}

#[cfg(test)]
impl CpuPool {
    /// Occupies all threads that long jobs may take, until the returned sender is dropped.
    pub fn hold_long_jobs(&'static self) -> std::sync::mpsc::Sender<()> {
        let (open, closed) = std::sync::mpsc::channel::<()>();
        let closed = Arc::new(Mutex::new(closed));
        for _ in 0..self.shared.threads / 2 {
            let (closed, client) = (Arc::clone(&closed), Arc::new(()));
            let waiting = Arc::downgrade(&client);
            let run = Box::new(move || {
                let _opened = closed.lock().unwrap_or_else(PoisonError::into_inner).recv();
                drop(client);
            });
            let job = Job::Tokenize { bytes: usize::MAX };
            assert!(self.shared.push(Queued { run, client: waiting, job }).is_ok());
        }
        open
    }
}

impl Drop for CpuPool {
    fn drop(&mut self) {
        self.shared.queues().is_closed = true;
        self.shared.work_available.notify_all();
    }
}

impl Shared {
    fn queues(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, new: Queued) -> Result<(), RerankError> {
        let mut queues = self.queues();
        if let Job::Score = new.job {
            queues.score.push_back(new);
            self.work_available.notify_one();
            return Ok(());
        }
        let mean_job_time = queues.busy / queues.finished.max(1);
        let queue = if new.job.is_long() { &mut queues.long } else { &mut queues.short };
        if queue.len() >= self.max_queued {
            // Drop abandoned jobs first.
            queue.retain(|queued| queued.client.strong_count() > 0);
        }
        let waiting = queue.len();
        if waiting >= self.max_queued {
            let retry_after = (mean_job_time * waiting as u32 / self.threads as u32).max(MIN_RETRY_AFTER);
            return Err(RerankError::Overloaded {
                full: Full::Requests { queued: waiting, limit: self.max_queued },
                retry_after,
            });
        }
        queue.push_back(new);
        self.work_available.notify_one();
        Ok(())
    }

    /// The loop of a thread: runs jobs until the pool is dropped.
    fn work(&self) {
        while let Some(Queued { run, client, job }) = self.next_job() {
            let started = Instant::now();
            let is_wanted = client.strong_count() > 0;
            if is_wanted {
                run();
            } else {
                drop(run);
            }
            let mut queues = self.queues();
            queues.running_long -= usize::from(job.is_long());
            if is_wanted {
                queues.finished += 1;
                queues.busy += started.elapsed();
            }
            if job.is_long() {
                self.work_available.notify_one();
            }
        }
    }

    /// Waits for a job; `None` when the pool is dropped.
    fn next_job(&self) -> Option<Queued> {
        let mut queues = self.queues();
        loop {
            if let Some(job) = queues.score.pop_front() {
                return Some(job);
            }
            let may_run_long = queues.running_long < self.threads / 2;
            let long = if may_run_long { queues.long.pop_front() } else { None };
            if let Some(job) = long {
                queues.running_long += 1;
                return Some(job);
            }
            if let Some(job) = queues.short.pop_front() {
                return Some(job);
            }
            if queues.is_closed && queues.long.is_empty() {
                return None;
            }
            queues = self.work_available.wait(queues).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use super::*;

    const SHORT: Job = Job::Tokenize { bytes: 100 };
    const LONG: Job = Job::Tokenize { bytes: LONG_JOB_BYTES + 1 };

    /// Counts how many of them are alive.
    struct Counted(Arc<AtomicUsize>);

    impl Counted {
        fn new(alive: &Arc<AtomicUsize>) -> Self {
            alive.fetch_add(1, Ordering::SeqCst);
            Self(Arc::clone(alive))
        }
    }

    impl Drop for Counted {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }

    async fn until(condition: impl Fn() -> bool) {
        for _ in 0..2000 {
            if condition() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        panic!("it never happened");
    }

    /// Blocks jobs until it is dropped.
    fn gate() -> (mpsc::Sender<()>, impl Fn() + Clone + Send + 'static) {
        let (open, closed) = mpsc::channel::<()>();
        let closed = Arc::new(Mutex::new(closed));
        let wait = move || {
            let _opened = closed.lock().unwrap_or_else(PoisonError::into_inner).recv();
        };
        (open, wait)
    }

    #[tokio::test]
    async fn requests_that_gave_up_occupy_no_more_than_the_threads_and_the_queue() {
        let pool = Arc::new(CpuPool::new(2, 5));
        let (contexts, running, started) = <(Arc<AtomicUsize>, Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
        let (open, wait) = gate();
        let mut most_contexts = 0;
        for _ in 0..100 {
            let (wait, running, started) = (wait.clone(), Counted::new(&running), Arc::clone(&started));
            let job = pool.run(Counted::new(&contexts), SHORT, move |_, _| {
                started.fetch_add(1, Ordering::SeqCst);
                wait();
                drop(running);
                Ok(())
            });
            // The client gives up at once, again and again.
            let answer = tokio::time::timeout(Duration::from_millis(1), job).await;
            assert!(answer.is_err() || matches!(answer, Ok(Err(RerankError::Overloaded { .. }))));
            most_contexts = most_contexts.max(contexts.load(Ordering::SeqCst));
        }
        assert!(most_contexts <= 2 + 5, "{most_contexts} requests were held");
        assert!(started.load(Ordering::SeqCst) <= 2, "more jobs ran than there are threads");
        // A running job still counts, although its client is gone.
        assert!(contexts.load(Ordering::SeqCst) >= started.load(Ordering::SeqCst));
        drop(open);
        until(|| contexts.load(Ordering::SeqCst) == 0).await;
        assert!(started.load(Ordering::SeqCst) <= 2, "an abandoned job ran");
        let ((), value) = pool.run((), SHORT, |(), _| Ok(7)).await.unwrap();
        assert_eq!(value, 7);
    }

    #[tokio::test]
    async fn a_full_queue_rejects_with_a_retry_time() {
        let pool = Arc::new(CpuPool::new(2, 3));
        let (open, wait) = gate();
        let mut jobs = Vec::new();
        for number in 0..5 {
            // Two run, and then three wait.
            until(|| number < 2 || pool.shared.queues().short.len() == number - 2).await;
            let (pool, wait) = (Arc::clone(&pool), wait.clone());
            jobs.push(tokio::spawn(async move {
                pool.run((), SHORT, move |(), _| {
                    wait();
                    Ok(())
                })
                .await
            }));
        }
        until(|| pool.shared.queues().short.len() == 3).await;
        let refused = pool.run((), SHORT, |(), _| Ok(())).await.unwrap_err();
        let RerankError::Overloaded { full, retry_after } = refused else { panic!("{refused:?}") };
        assert_eq!(full, Full::Requests { queued: 3, limit: 3 });
        assert!(retry_after >= MIN_RETRY_AFTER);
        let scoring = {
            let pool = Arc::clone(&pool);
            tokio::spawn(async move { pool.run((), Job::Score, |(), _| Ok(())).await })
        };
        until(|| pool.shared.queues().score.len() == 1).await;
        drop(open);
        scoring.await.unwrap().unwrap();
        for job in jobs {
            job.await.unwrap().unwrap();
        }
    }

    #[test]
    fn scoring_goes_before_all_tokenizing_and_in_the_order_of_its_arrival() {
        let queues = Mutex::default();
        let shared = Shared { threads: 2, max_queued: 9, queues, work_available: Condvar::new() };
        let order = Arc::<Mutex<Vec<usize>>>::default();
        for (number, job) in [LONG, SHORT, Job::Score, Job::Score].into_iter().enumerate() {
            let order = Arc::clone(&order);
            let run = Box::new(move || order.lock().unwrap().push(number));
            assert!(shared.push(Queued { run, client: Weak::new(), job }).is_ok());
        }
        for _ in 0..4 {
            (shared.next_job().unwrap().run)();
        }
        assert_eq!(*order.lock().unwrap(), [2, 3, 0, 1]);
    }

    #[tokio::test]
    async fn long_jobs_leave_half_of_the_threads_to_short_ones() {
        let pool = Arc::new(CpuPool::new(2, 50));
        let (open, wait) = gate();
        let long: Vec<_> = (0..10)
            .map(|_| {
                let (pool, wait) = (Arc::clone(&pool), wait.clone());
                tokio::spawn(async move {
                    pool.run((), LONG, move |(), _| {
                        wait();
                        Ok(())
                    })
                    .await
                })
            })
            .collect();
        until(|| pool.shared.queues().running_long == 1 && pool.shared.queues().long.len() == 9).await;
        for number in 0..20 {
            let ((), answer) = pool.run((), SHORT, move |(), _| Ok(number)).await.unwrap();
            assert_eq!(answer, number);
        }
        drop(open);
        for job in long {
            job.await.unwrap().unwrap();
        }
    }

    #[tokio::test]
    async fn a_running_job_sees_that_its_client_is_gone() {
        let pool = Arc::new(CpuPool::new(2, 5));
        let contexts = Arc::default();
        let job = pool.run(Counted::new(&contexts), LONG, |_, is_cancelled| {
            while !is_cancelled() {
                thread::yield_now();
            }
            Err::<(), _>(RerankError::internal("cancelled"))
        });
        assert!(tokio::time::timeout(Duration::from_millis(20), job).await.is_err());
        until(|| contexts.load(Ordering::SeqCst) == 0).await;
    }

    #[tokio::test]
    async fn work_that_outlives_its_request_keeps_the_memory_of_the_request() {
        let pool = CpuPool::new(2, 5);
        let memory = Arc::new(tokio::sync::Semaphore::new(1));
        let mut context = crate::context::RequestContext::internal();
        context.hold_body_memory(crate::context::MemoryPermit::new(Arc::clone(&memory).try_acquire_owned().unwrap()));
        let (open, wait) = gate();
        let work = pool.run(context, SHORT, move |_, _| {
            wait();
            Ok(())
        });
        assert!(tokio::time::timeout(Duration::from_millis(100), work).await.is_err());
        assert_eq!(memory.available_permits(), 0, "the deadline passed, and the work goes on");
        drop(open);
        assert!(memory.acquire().await.is_ok());
    }

    #[tokio::test]
    async fn a_panic_is_the_error_of_its_request_only() {
        let pool = CpuPool::new(2, 5);
        for _ in 0..4 {
            let failed = pool.run((), SHORT, |(), _| -> Result<(), RerankError> { panic!("tokenizing") }).await;
            assert!(matches!(failed, Err(RerankError::Internal(_))));
        }
        assert!(pool.run((), SHORT, |(), _| Ok(1)).await.is_ok());
    }
}
