//! Benchmarks of scoring: model outputs to relevance scores.

#[expect(dead_code, reason = "every bench uses a part of it")]
mod support;

use std::sync::Arc;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use podium::runtime::fake::FakeRuntime;
use podium::runtime::{ForwardPass, Runtime};
use podium::scoring::Rounds;

fn scoring(criterion: &mut Criterion) {
    let (prompter, limits) = (Arc::new(support::prompter()), support::settings().limits);
    let mut group = criterion.benchmark_group("scoring");
    for documents in [16, 64] {
        let prepared =
            Arc::new(prompter.tokenize(&support::request(documents), &limits, &|| false).expect("it is read"));
        let begun = || {
            let mut rounds = Rounds::begin(Arc::clone(&prompter), Arc::clone(&prepared)).expect("rounds begin");
            let passes = rounds.next_round().expect("a round is made").expect("there is one");
            (rounds, passes.into_iter().map(|planned| planned.pass).collect::<Vec<ForwardPass>>())
        };
        let outputs = FakeRuntime::new().run(&begun().1).expect("it runs");
        group.throughput(Throughput::Elements(documents as u64));
        group.bench_function(BenchmarkId::new("late-interaction", documents), |bencher| {
            bencher.iter_batched(
                || (begun().0, outputs.clone()),
                |(mut rounds, outputs)| {
                    rounds.add_outputs(outputs).expect("they are taken");
                    rounds.finish().expect("there are scores")
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, scoring);
criterion_main!(benches);
