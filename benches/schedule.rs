//! The scheduler's own time per request, over a fake runtime without a model.

#[expect(dead_code, reason = "each bench uses a part of it")]
mod support;

use std::time::{Duration, Instant};

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use podium::runtime::fake::FakeRuntime;
use podium::runtime::{
    ForwardPass, Head, ModelFacts, Output, OutputSpec, PreparedBatch, Runtime, RuntimeError, TokenPosition,
};
use podium::schedule::{AdmissionControl, AdmissionRequest, ScheduleSettings, Scheduler};

fn pass() -> ForwardPass {
    let output = OutputSpec::listed(vec![TokenPosition::prefix(99)], Head::Vocabulary(vec![1, 2]));
    ForwardPass::sequence(vec![1; 100], output)
}

fn schedule(criterion: &mut Criterion) {
    let tokio = tokio::runtime::Runtime::new().expect("a runtime starts");
    let _inside = tokio.enter();
    let scheduler = Scheduler::start(FakeRuntime::new(), &AdmissionControl::new(&support::settings().schedule));
    let mut group = criterion.benchmark_group("schedule");
    for passes in [1, 64] {
        let request = AdmissionRequest::anonymous(100 * passes);
        group.throughput(Throughput::Elements(passes as u64));
        group.bench_function(BenchmarkId::new("passes", passes), |bencher| {
            bencher.iter_batched(
                || vec![pass(); passes],
                |passes| {
                    tokio.block_on(async {
                        let permit = scheduler.try_admit(&request).expect("one request at a time is admitted");
                        scheduler.run(&permit, passes, |_| {}).await.expect("the fake runtime succeeds")
                    })
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

/// A device that takes `RUN` for each batch, after the CPU has laid it out in `LAYOUT`.
struct SlowRuntime(ModelFacts);

const RUN: Duration = Duration::from_millis(4);
const LAYOUT: Duration = Duration::from_millis(1);

fn lay_out() {
    let start = Instant::now();
    while start.elapsed() < LAYOUT {
        std::hint::spin_loop();
    }
}

impl Runtime for SlowRuntime {
    fn facts(&self) -> &ModelFacts {
        &self.0
    }

    fn run(&self, batch: &[ForwardPass]) -> Result<Vec<Output>, RuntimeError> {
        lay_out();
        std::thread::sleep(RUN);
        Ok(vec![vec![vec![0.0; 2]]; batch.len()])
    }

    fn prepare(&self, passes: Vec<ForwardPass>) -> PreparedBatch {
        lay_out();
        PreparedBatch::with_layout(passes, ())
    }

    fn run_prepared(&self, batch: PreparedBatch) -> Result<Vec<Output>, RuntimeError> {
        std::thread::sleep(RUN);
        Ok(vec![vec![vec![0.0; 2]]; batch.passes().len()])
    }
}

/// The time of a batch where batches queue: on a CPU, which prepares none, and on a GPU.
fn busy_device(criterion: &mut Criterion) {
    let tokio = tokio::runtime::Runtime::new().expect("a runtime starts");
    let _inside = tokio.enter();
    let mut group = criterion.benchmark_group("busy device");
    group.sample_size(10);
    for device in ["cpu", "cuda"] {
        let facts = ModelFacts { device: device.to_owned(), ..FakeRuntime::new().facts().clone() };
        // Each batch is one pass.
        let settings = ScheduleSettings { max_batch_tokens: 100, ..support::settings().schedule };
        let scheduler = Scheduler::start(SlowRuntime(facts), &AdmissionControl::new(&settings));
        group.throughput(Throughput::Elements(32));
        group.bench_function(BenchmarkId::new("batches", device), |bencher| {
            bencher.iter(|| {
                tokio.block_on(async {
                    let permit = scheduler.try_admit(&AdmissionRequest::anonymous(3200)).expect("it is admitted");
                    scheduler.run(&permit, vec![pass(); 32], |_| {}).await.expect("the device works")
                })
            });
        });
    }
    group.finish();
}

criterion_group!(benches, schedule, busy_device);
criterion_main!(benches);
