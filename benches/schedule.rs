//! The scheduler's own time per request, over a fake runtime without a model.

#[expect(dead_code, reason = "each bench uses a part of it")]
mod support;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use podium::runtime::fake::FakeRuntime;
use podium::runtime::{ForwardPass, Head, OutputSpec, TokenPosition};
use podium::schedule::{AdmissionControl, AdmissionRequest, Scheduler};

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

criterion_group!(benches, schedule);
criterion_main!(benches);
