//! The prefix cache changes no number: on every shape, in every family and mode, cold and warm, and while it evicts.

use std::sync::Arc;

use podium::rerank::{Mode, RerankRequest};
use podium::runtime::packed::{ComputeSettings, PackedRuntime};
use podium::runtime::{
    Checkpoint, CrossDocumentLayers, ForwardPass, Output, PrefixCacheStatistics, Runtime, TokenPosition, TokenTypes,
};

use crate::deviation::{Table, largest_relative, largest_relative_of_row};
use crate::fixtures::{GoldenPass, RUNTIME_CASES, RuntimeGolden, folder, golden, load, load_as, run_alone};
use crate::requests::{Loaded, usual_limits};

const TOLERANCE: f32 = 1e-5;

/// Tokens of a block, as the cache counts them.
const BLOCK: u64 = 16;

/// Room for everything these tests run.
const PLENTY: u64 = 1 << 30;

/// Passes that share a prefix for a while, read behind it and in it, and one with a cross-document layer.
fn passes(golden: &RuntimeGolden) -> Vec<ForwardPass> {
    let named = |name: &str| {
        let found = golden.passes.iter().find(|pass| pass.name == name);
        found.unwrap_or_else(|| panic!("there is no pass `{name}`"))
    };
    let long = named("prefix and suffixes, long");
    let mut parts_at_70 = long.reading_states(false);
    for token in &mut parts_at_70.prefix[70..] {
        *token = (*token + 1) % 40;
    }
    let read_at_40 = GoldenPass { marks: [&long.marks[..], &[(0, 40), (0, 128)]].concat(), ..long.clone() };
    let crossing = ForwardPass {
        token_types: TokenTypes::Zero,
        cross_document: CrossDocumentLayers {
            count: 1,
            shared: long
                .marks
                .iter()
                .map(|&(segment, offset)| TokenPosition { segment, offset })
                .chain([TokenPosition::prefix(50)])
                .collect(),
        },
        ..long.reading_states(false)
    };
    let causal = named("causal, long");
    vec![
        long.reading_states(false),
        parts_at_70,
        read_at_40.reading_logits(),
        crossing,
        causal.reading_logits(),
        named("causal").reading_states(false),
        named("one suffix").reading_states(false),
    ]
}

/// The blocks that [`passes`] may share: eight of the first two prefixes, two before a mark at 40, three before a shared one at
/// 50, three of the causal pass, which is read at 63, and none of the others.
const SHAREABLE: [u64; 7] = [8, 8, 2, 3, 3, 0, 0];

#[test]
fn a_pass_reads_the_same_cold_and_warm() {
    let mut table = Table::default();
    for case in RUNTIME_CASES {
        let golden = golden::<RuntimeGolden>(case);
        let (plain, cached) = (load(case), load(case).with_prefix_cache(PLENTY));
        let passes = passes(&golden);
        let expected: Vec<_> = passes.iter().map(|pass| run_alone(&plain, pass.clone())).collect();
        for round in ["first time", "second time", "third time"] {
            let before = cached.prefix_cache();
            for (pass, expected) in passes.iter().zip(&expected) {
                let found = run_alone(&cached, pass.clone());
                table.note(case, &golden.shape, round, largest_relative(&found, expected));
            }
            let after = cached.prefix_cache();
            assert_eq!(after.looked_up_tokens - before.looked_up_tokens, BLOCK * SHAREABLE.iter().sum::<u64>());
            if round == "third time" {
                let found = after.hit_tokens - before.hit_tokens;
                assert_eq!(found, BLOCK * SHAREABLE.iter().sum::<u64>(), "{case}: all is found");
            }
        }
        assert_eq!(plain.prefix_cache(), PrefixCacheStatistics::default());
    }
    println!("\nlargest deviation of a pass with a cached prefix\n{}", table.to_text());
    table.assert_within(TOLERANCE);
}

#[test]
fn a_batch_may_mix_passes_that_are_found_with_others() {
    let mut table = Table::default();
    for case in RUNTIME_CASES {
        let golden = golden::<RuntimeGolden>(case);
        let (plain, cached) = (load(case), load(case).with_prefix_cache(PLENTY));
        let passes = passes(&golden);
        let expected: Vec<_> = passes.iter().map(|pass| run_alone(&plain, pass.clone())).collect();
        for _ in 0..2 {
            run_alone(&cached, passes[1].clone());
        }
        let mut order: Vec<usize> = (0..passes.len()).chain([0, 1, 0]).collect();
        for arrangement in ["some found", "back to front", "rotated"] {
            let batch: Vec<_> = order.iter().map(|&place| passes[place].clone()).collect();
            let outputs = cached.run(&batch).unwrap();
            for (&place, output) in order.iter().zip(outputs) {
                table.note(case, &golden.shape, arrangement, largest_relative(&output, &expected[place]));
            }
            if arrangement == "some found" { order.reverse() } else { order.rotate_left(3) }
        }
        assert!(cached.prefix_cache().hit_tokens > 0);
    }
    println!("\nlargest deviation of a pass in a batch with cached prefixes\n{}", table.to_text());
    table.assert_within(TOLERANCE);
}

#[test]
fn a_prepared_batch_gives_the_same_numbers_whatever_the_cache_did_since() {
    let mut table = Table::default();
    for case in RUNTIME_CASES {
        let golden = golden::<RuntimeGolden>(case);
        let (plain, cached) = (load(case), load(case).with_prefix_cache(PLENTY));
        let passes = passes(&golden);
        assert_eq!(plain.run_prepared(plain.prepare(passes.clone())).unwrap(), plain.run(&passes).unwrap());
        let expected: Vec<_> = passes.iter().map(|pass| run_alone(&plain, pass.clone())).collect();
        let mut check = |arrangement, outputs: Vec<Output>| {
            for (output, expected) in outputs.iter().zip(&expected) {
                table.note(case, &golden.shape, arrangement, largest_relative(output, expected));
            }
        };
        // Twice, so that the cache stores the blocks.
        let before = cached.prepare(passes.clone());
        (0..2).for_each(|_| drop(run_alone(&cached, passes[0].clone())));
        let block_bytes = cached.prefix_cache().bytes / SHAREABLE[0];
        check("blocks came since", cached.run_prepared(before).unwrap());
        let hits = cached.prefix_cache().hit_tokens;
        check("blocks are the same", cached.run_prepared(cached.prepare(passes.clone())).unwrap());
        assert!(cached.prefix_cache().hit_tokens > hits);
        let tight = load(case).with_prefix_cache(SHAREABLE[0] * block_bytes);
        (0..2).for_each(|_| drop(run_alone(&tight, passes[0].clone())));
        let before = tight.prepare(passes.clone());
        (0..2).for_each(|_| drop(run_alone(&tight, passes[4].clone())));
        assert!(tight.prefix_cache().evicted_blocks > 0, "{case}");
        check("blocks left since", tight.run_prepared(before).unwrap());
    }
    println!("\nlargest deviation of a pass in a prepared batch\n{}", table.to_text());
    table.assert_within(TOLERANCE);
}

#[test]
fn numbers_stay_the_same_while_blocks_leave() {
    let mut table = Table::default();
    for case in RUNTIME_CASES {
        let golden = golden::<RuntimeGolden>(case);
        let (plain, roomy) = (load(case), load(case).with_prefix_cache(PLENTY));
        let passes = passes(&golden);
        for _ in 0..2 {
            run_alone(&roomy, passes[0].clone());
        }
        let block_bytes = roomy.prefix_cache().bytes / SHAREABLE[0];
        let bound = 10 * block_bytes;
        let tight = load(case).with_prefix_cache(bound);
        let expected: Vec<_> = passes.iter().map(|pass| run_alone(&plain, pass.clone())).collect();
        for place in [0, 0, 4, 4, 1, 1, 0, 4, 1, 2, 3, 0, 1, 4] {
            let found = run_alone(&tight, passes[place].clone());
            table.note(case, &golden.shape, "room for 10 blocks", largest_relative(&found, &expected[place]));
            assert!(tight.prefix_cache().bytes <= bound);
        }
        let PrefixCacheStatistics { hit_tokens, evicted_blocks, .. } = tight.prefix_cache();
        assert!(hit_tokens > 0 && evicted_blocks > 0, "{case}: {hit_tokens} found, {evicted_blocks} evicted");
    }
    println!("\nlargest deviation while blocks are evicted\n{}", table.to_text());
    table.assert_within(TOLERANCE);
}

#[test]
fn other_numbers_than_f32_stay_as_near_to_the_reference() {
    let numbers = |dtype: &str, quantize: &str| ComputeSettings {
        dtype: dtype.to_owned(),
        quantize: quantize.to_owned(),
        ..ComputeSettings::reference()
    };
    for (settings, limit) in [(numbers("bf16", "none"), 0.03), (numbers("f32", "int8"), 0.08)] {
        for case in ["qwen2-gqa2-untied", "qwen3-gqa2-sharded", "qwen3-gqa4-projector", "qwen3-gqa8-head128"] {
            let golden = golden::<RuntimeGolden>(case);
            let cached = load_as(case, &settings).with_prefix_cache(PLENTY);
            let golden = golden.passes.iter().find(|pass| pass.name == "prefix and suffixes, long").unwrap();
            let mut found = Vec::new();
            for _ in 0..3 {
                found = run_alone(&cached, golden.reading_states(false));
            }
            assert_eq!(cached.prefix_cache().hit_tokens, 128, "the third time");
            let differences = found.iter().flatten().zip(golden.hidden_states.iter().flatten());
            let squares: Vec<f32> = differences.map(|(found, expected)| (found - expected).powi(2)).collect();
            let error = (squares.iter().sum::<f32>() / squares.len() as f32).sqrt();
            println!("{case}, {settings:?}: {error:.4}");
            assert!(error < limit, "{case}, {settings:?}: {error}");
        }
    }
}

#[test]
fn every_family_and_mode_scores_the_same_cold_and_warm() {
    let (query, other) = (
        "which of the two harbours of the old town freezes first in winter, and why do the boats stay?",
        "how long may a pilot wait for the tide before the harbour has to be told about the delay?",
    );
    let instruction = "Prefer passages that name the harbour, give a year and say who measured the ice, in that order.";
    let documents = |first: usize| (first..first + 5).map(|n| format!("The ice of the year {n} came {n} days late."));
    let request = |query: &str, instruction: Option<&str>, first| RerankRequest {
        instruction: instruction.map(Into::into),
        ..RerankRequest::new(query.to_owned(), documents(first).collect())
    };
    let requests = [
        request(query, Some(instruction), 1900),
        request(query, Some(instruction), 1910),
        request(other, Some(instruction), 1900),
        request(query, None, 1900),
    ];
    let mut table = Table::default();
    for (family, mode) in [
        ("podium-nano", Mode::Listwise),
        ("podium-nano", Mode::Pointwise),
        ("jina-v3", Mode::Listwise),
        ("jina-v3", Mode::Pointwise),
        ("first", Mode::Listwise),
        ("first", Mode::Pointwise),
        ("qwen3-reranker", Mode::Pointwise),
        ("mxbai-v2", Mode::Pointwise),
        ("zerank", Mode::Pointwise),
    ] {
        let checkpoint = match family {
            "podium-nano" => Checkpoint::podium_nano(),
            _ => Checkpoint::folder(&folder(family)).unwrap(),
        };
        let plain = Loaded::new(&checkpoint, family);
        let runtime =
            PackedRuntime::load(&checkpoint, &ComputeSettings::reference()).unwrap().with_prefix_cache(PLENTY);
        let cached = Loaded { runtime, prompter: Arc::clone(&plain.prompter) };
        for place in [0, 1, 2, 3, 0, 2, 1, 3, 0] {
            let request = RerankRequest { mode, ..requests[place].clone() };
            let (expected, found) = (plain.run(&request, &usual_limits()).1, cached.run(&request, &usual_limits()).1);
            table.note(family, &format!("{mode:?}"), "scores", largest_relative_of_row(&found.raw, &expected.raw));
        }
        let PrefixCacheStatistics { looked_up_tokens, hit_tokens, .. } = cached.runtime.prefix_cache();
        println!("{family}, {mode:?}: {hit_tokens} of {looked_up_tokens} tokens were found");
        assert!(hit_tokens > looked_up_tokens / 4, "{family}, {mode:?}: {hit_tokens} of {looked_up_tokens}");
    }
    println!("\nlargest deviation of scores with cached prefixes\n{}", table.to_text());
    table.assert_within(TOLERANCE);
}
