//! What passes cost on their way through the queue, with no time spent in a model.

#[expect(dead_code, reason = "every bench uses a part of it")]
mod support;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use podium::runtime::fake::FakeRuntime;
use podium::runtime::{ForwardPass, JointLayers, Mark, Probe};
use podium::schedule::{AdmissionRequest, Client, Scheduler};

fn pass() -> ForwardPass {
    ForwardPass {
        trunk: vec![1; 100],
        branches: Vec::new(),
        joint_layers: JointLayers::default(),
        probe: Probe::NextTokenLogits { after: vec![Mark::trunk(99)], token_ids: vec![1, 2] },
    }
}

fn schedule(criterion: &mut Criterion) {
    let tokio = tokio::runtime::Runtime::new().expect("a runtime starts");
    let _inside = tokio.enter();
    let scheduler = Scheduler::start(FakeRuntime::new(), &support::settings().schedule);
    let mut group = criterion.benchmark_group("schedule");
    for passes in [1, 64] {
        let tokens = 100 * passes;
        let arrival = AdmissionRequest { client: Client::anonymous(), priority: 0, tokens, deadline: None };
        group.throughput(Throughput::Elements(passes as u64));
        group.bench_function(BenchmarkId::new("passes", passes), |bencher| {
            bencher.iter_batched(
                || vec![pass(); passes],
                |passes| {
                    tokio.block_on(async {
                        let admission = scheduler.try_admit(&arrival).expect("there is room");
                        scheduler.run(&admission, passes, |_| {}).await.expect("they run")
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
