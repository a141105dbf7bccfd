//! The forward pass: one listwise pass of the embedded model over documents of arbitrary tokens.

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use podium::runtime::packed::{ComputeSettings, PackedRuntime};
use podium::runtime::{
    Checkpoint, CrossDocumentLayers, ForwardPass, Head, OutputSpec, Runtime, TokenPosition, TokenTypes,
};

/// Builds a pass in the embedded model's isolated layout. Speed does not depend on the tokens.
fn isolated(documents: usize, tokens: usize, vocabulary: u32) -> ForwardPass {
    let text =
        |start: usize, length: usize| (start..start + length).map(|n| (n as u32 * 7919) % (vocabulary - 64)).collect();
    let mut suffixes: Vec<Vec<u32>> = (0..documents).map(|document| text(document * tokens, tokens)).collect();
    suffixes.push(text(1, 12));
    let outputs: Vec<TokenPosition> =
        suffixes.iter().enumerate().map(|(n, suffix)| TokenPosition::suffix(n, suffix.len() - 1)).collect();
    ForwardPass {
        prefix: text(0, 12),
        suffixes,
        token_types: TokenTypes::Zero,
        cross_document: CrossDocumentLayers { count: 1, shared: outputs[..documents].to_vec() },
        output: OutputSpec::listed(outputs, Head::Projector),
    }
}

fn forward(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("forward");
    group.sample_size(10);
    for (dtype, quantize) in [("f32", "none"), ("bf16", "none"), ("f32", "int8")] {
        let settings =
            ComputeSettings { dtype: dtype.to_owned(), quantize: quantize.to_owned(), ..ComputeSettings::reference() };
        let runtime = PackedRuntime::load(&Checkpoint::podium_nano(), &settings).expect("the embedded model loads");
        let (vocabulary, dtype) = (runtime.facts().vocabulary as u32, runtime.facts().dtype.clone());
        for (documents, tokens) in [(16, 100), (64, 100), (64, 400)] {
            let pass = isolated(documents, tokens, vocabulary);
            group.throughput(Throughput::Elements(pass.tokens() as u64));
            group.bench_with_input(
                BenchmarkId::new(format!("podium-nano {dtype}"), format!("{documents}x{tokens}")),
                &pass,
                |bencher, pass| {
                    bencher.iter(|| runtime.run(std::slice::from_ref(pass)).expect("the pass runs"));
                },
            );
        }
    }
    group.finish();
}

/// Laying out a batch on the CPU, for which a GPU would wait if it were not done ahead.
fn prepare(criterion: &mut Criterion) {
    let runtime = PackedRuntime::load(&Checkpoint::podium_nano(), &ComputeSettings::reference())
        .expect("the embedded model loads")
        .with_prefix_cache(1 << 28);
    let vocabulary = runtime.facts().vocabulary as u32;
    let mut group = criterion.benchmark_group("prepare");
    for (passes, documents, tokens) in [(1, 64, 100), (1, 64, 400), (64, 1, 400), (256, 1, 100)] {
        let batch = vec![isolated(documents, tokens, vocabulary); passes];
        group.throughput(Throughput::Elements(batch.iter().map(|pass| pass.tokens() as u64).sum()));
        group.bench_function(BenchmarkId::new("podium-nano", format!("{passes}x{documents}x{tokens}")), |bencher| {
            bencher.iter_batched(|| batch.clone(), |batch| runtime.prepare(batch), BatchSize::LargeInput);
        });
    }
    group.finish();
}

criterion_group!(benches, forward, prepare);
criterion_main!(benches);
