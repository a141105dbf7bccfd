//! The cost of a request before the model: tokenizing, planning and rendering.

#[expect(dead_code, reason = "every bench uses a part of it")]
mod support;

use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

fn prompt(criterion: &mut Criterion) {
    let (prompter, limits) = (support::prompter(), support::settings().limits);
    let mut group = criterion.benchmark_group("prompt");
    for documents in [16, 64] {
        let request = support::request(documents);
        group.throughput(Throughput::Elements(documents as u64));
        group.bench_with_input(BenchmarkId::new("tokenize", documents), &request, |bencher, request| {
            bencher.iter(|| prompter.tokenize(request, &limits, &|| false).expect("the request is tokenized"));
        });
        let prepared = Arc::new(prompter.tokenize(&request, &limits, &|| false).expect("the request is tokenized"));
        let all: Vec<usize> = (0..documents).collect();
        group.bench_with_input(BenchmarkId::new("render", documents), &all, |bencher, all| {
            bencher.iter(|| prompter.render(&prepared, all).expect("it is rendered"));
        });
    }
    group.finish();
}

criterion_group!(benches, prompt);
criterion_main!(benches);
