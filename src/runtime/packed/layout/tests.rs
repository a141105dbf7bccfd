//! Rows, positions and spans of packed passes.

#![expect(clippy::single_range_in_vec_init, reason = "one range is what is meant")]

use super::*;
use crate::runtime::spec::ModelSpec;
use crate::runtime::{CrossDocumentLayers, Head, OutputSpec, Pooling};

fn layers(count: usize, window: Window) -> Vec<LayerSpec> {
    vec![LayerSpec { attention_norm: true, rotary: None, window }; count]
}

fn packed(passes: &[ForwardPass]) -> Packed {
    Packed::new(passes, &CacheLookup::none(passes.len()), true)
}

fn packed_crossing(cross_document: CrossDocumentLayers) -> Packed {
    packed(&[ForwardPass { cross_document, ..isolated() }])
}

fn run(queries: Range<usize>, mut keys: Vec<Range<usize>>, mask: Mask) -> Span {
    keys.push(queries.clone());
    Span { queries, keys, mask }
}

fn isolated() -> ForwardPass {
    let ends = vec![TokenPosition::suffix(0, 2), TokenPosition::suffix(1, 1), TokenPosition::suffix(2, 0)];
    ForwardPass {
        prefix: vec![1, 2],
        suffixes: vec![vec![3, 4, 5], vec![6, 7], vec![8]],
        token_types: TokenTypes::Zero,
        cross_document: CrossDocumentLayers { count: 1, shared: ends[..2].to_vec() },
        output: OutputSpec::listed(ends, Head::Hidden),
    }
}

#[test]
fn suffixes_take_their_positions_from_the_end_of_the_prefix() {
    let packed = packed(&[isolated()]);
    assert_eq!(packed.tokens, [1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(packed.positions, [0, 1, 2, 3, 4, 2, 3, 2]);
    assert_eq!(packed.read_rows(), [4, 6, 7]);
    assert!(!packed.reads_all_rows());
}

#[test]
fn lower_layers_keep_suffixes_apart() {
    let prefix = vec![0..2];
    assert_eq!(
        packed(&[isolated()]).spans(0, &layers(2, Window::NONE)),
        [
            run(0..2, vec![], Mask::CAUSAL),
            run(2..5, prefix.clone(), Mask::CAUSAL),
            run(5..7, prefix.clone(), Mask::CAUSAL),
            run(7..8, prefix, Mask::CAUSAL),
        ]
    );
}

#[test]
fn in_cross_document_layers_read_positions_see_every_shared_one_once() {
    let packed = packed(&[isolated()]);
    let keys: Vec<_> = packed.read_spans(&layers(2, Window::NONE)).into_iter().map(|span| span.keys).collect();
    assert_eq!(keys, [vec![0..2, 2..5, 6..7], vec![0..2, 5..7, 4..5], vec![0..2, 7..8, 4..5, 6..7]]);
    let queries: Vec<_> = packed.spans(1, &layers(2, Window::NONE)).into_iter().map(|span| span.queries).collect();
    assert_eq!(queries, [0..2, 2..4, 4..5, 5..6, 6..7, 7..8]);
}

#[test]
fn layers_share_their_spans_until_a_pass_crosses_documents() {
    let specs = layers(4, Window::NONE);
    let packed = packed(&[isolated()]);
    let made = packed.layers(&specs);
    assert_eq!(made.len(), 4);
    assert!(Arc::ptr_eq(&made[0], &made[1]) && Arc::ptr_eq(&made[0], &made[2]));
    let cross_document = CrossDocumentLayers { count: 2, ..isolated().cross_document };
    let crossing = packed_crossing(cross_document);
    let made = crossing.layers(&specs);
    assert!(Arc::ptr_eq(&made[0], &made[1]));
    assert_eq!(*made[2], crossing.spans(2, &specs));
    assert_ne!(made[1], made[2]);
    assert_eq!(*made[3], crossing.read_spans(&specs));
}

#[test]
fn a_window_hides_what_is_before_it() {
    let mut specs = layers(3, Window { before: 2, after: usize::MAX });
    specs[1].window = Window::NONE;
    let pass = ForwardPass::sequence((0..6).collect(), OutputSpec::pooled(Pooling::Last, Head::Hidden));
    let packed = packed(&[pass]);
    let made = packed.layers(&specs);
    assert_eq!(*made[0], [run(0..6, vec![], Mask { before: 2, after: 0 })]);
    assert_eq!(*made[1], [run(0..6, vec![], Mask::CAUSAL)]);
    assert_eq!(*made[2], [Span::single(0, vec![3..6])]);
}

#[test]
fn a_window_over_the_longest_sequence_is_none() {
    let mut specs = layers(4, Window::NONE);
    let packed = packed(&[isolated()]);
    let whole = packed.layers(&specs);
    // The longest sequence has five tokens.
    for (layer, before) in [(0, 4), (1, 100), (3, 4)] {
        specs[layer].window = Window { before, after: 0 };
    }
    let made = packed.layers(&specs);
    assert_eq!(made, whole);
    assert!(Arc::ptr_eq(&made[0], &made[2]), "they share their spans with layers without a window");
    specs[1].window.before = 3;
    assert_ne!(packed.layers(&specs)[1], whole[1]);
}

#[test]
fn sequences_of_a_bidirectional_model_see_themselves_both_ways() {
    let pass = |pooling| ForwardPass {
        suffixes: vec![vec![1, 2, 3, 4], vec![5, 6]],
        token_types: TokenTypes::Pairs(vec![3, 1]),
        ..ForwardPass::sequence(Vec::new(), OutputSpec::pooled(pooling, Head::Hidden))
    };
    let pack = |pooling| Packed::new(&[pass(pooling)], &CacheLookup::none(1), false);
    let first = pack(Pooling::First);
    assert_eq!(first.positions, [0, 1, 2, 3, 0, 1]);
    assert_eq!(first.token_types, [0, 0, 0, 1, 0, 1]);
    let specs = layers(2, Window::NONE);
    let made = first.layers(&specs);
    assert_eq!(*made[0], [run(0..4, vec![], Mask::NONE), run(4..6, vec![], Mask::NONE)]);
    assert_eq!(*made[1], [Span::single(0, vec![0..4]), Span::single(1, vec![4..6])]);
    let local = layers(1, Window { before: 1, after: 1 });
    assert_eq!(*first.layers(&local)[0], [Span::single(0, vec![0..2]), Span::single(1, vec![4..6])]);
    let mean = pack(Pooling::Mean);
    assert!(mean.reads_all_rows(), "the last layer is computed for all rows");
    let made = mean.layers(&specs);
    assert_eq!(made[0], made[1]);
}

#[test]
fn passes_with_the_same_prefix_share_its_rows() {
    let last = OutputSpec::pooled(Pooling::Last, Head::Hidden);
    let next = ForwardPass { suffixes: vec![vec![9, 8], vec![7]], ..ForwardPass::sequence(vec![1, 2], last.clone()) };
    let apart = ForwardPass { prefix: vec![1, 3], ..next.clone() };
    let mean = ForwardPass { output: OutputSpec::pooled(Pooling::Mean, Head::Hidden), ..next.clone() };
    let packed = packed(&[isolated(), apart, next, mean]);
    assert_eq!(packed.tokens, [1, 2, 3, 4, 5, 6, 7, 8, 1, 3, 9, 8, 7, 9, 8, 7, 1, 2, 9, 8, 7]);
    assert_eq!(packed.positions[8..], [0, 1, 2, 3, 2, 2, 3, 2, 0, 1, 2, 3, 2]);
    assert_eq!(packed.read_rows()[3..7], [11, 12, 14, 15]);
    assert_eq!(
        packed.spans(0, &layers(2, Window::NONE))[4..10],
        [
            run(8..10, vec![], Mask::CAUSAL),
            run(10..12, vec![8..10], Mask::CAUSAL),
            run(12..13, vec![8..10], Mask::CAUSAL),
            run(13..15, vec![0..2], Mask::CAUSAL),
            run(15..16, vec![0..2], Mask::CAUSAL),
            run(16..18, vec![], Mask::CAUSAL),
        ]
    );
    let all = [vec![true; 3], vec![true; 2], vec![false, true], vec![true; 2]];
    assert_eq!(packed.rows_without_left(&all)[8..], [8, 9, 10, 11, 12, 15, 16, 17, 18, 19, 20]);
}

#[test]
fn a_borrowed_prefix_may_begin_with_cached_blocks() {
    let last = OutputSpec::pooled(Pooling::Last, Head::Hidden);
    let pass = ForwardPass { suffixes: vec![vec![5]], output: last, ..long() };
    let hits = vec![vec![0], vec![0]];
    let packed = Packed::new(&[pass.clone(), pass], &CacheLookup { hits, ..CacheLookup::default() }, true);
    let rest = BLOCK + 2;
    assert_eq!(packed.tokens.len(), rest + 2);
    let cached = rest + 2..rest + 2 + BLOCK;
    let keys: Vec<_> = packed.spans(0, &layers(2, Window::NONE)).into_iter().map(|span| span.keys).collect();
    let suffix = |row: usize| vec![cached.clone(), 0..rest, row..row + 1];
    assert_eq!(keys, [vec![cached.clone(), 0..rest], suffix(rest), suffix(rest + 1)]);
}

/// A prefix of two blocks and two tokens, a suffix of three.
fn long() -> ForwardPass {
    let read = vec![TokenPosition::prefix(2 * BLOCK + 1), TokenPosition::suffix(0, 2)];
    ForwardPass {
        suffixes: vec![vec![1, 2, 3]],
        ..ForwardPass::sequence((0..2 * BLOCK as u32 + 2).collect(), OutputSpec::listed(read, Head::Hidden))
    }
}

#[test]
fn cached_blocks_have_key_rows_only_behind_all_others() {
    let hits = vec![vec![0, 1], Vec::new(), vec![0, 2]];
    let packed = Packed::new(&[long(), long(), long()], &CacheLookup { hits, ..CacheLookup::default() }, true);
    let block = BLOCK as u32;
    assert_eq!(packed.tokens.len(), 5 + (2 * BLOCK + 5) + 5);
    assert_eq!(packed.tokens[..5], [2 * block, 2 * block + 1, 1, 2, 3]);
    assert_eq!(packed.positions[..5], [2 * block, 2 * block + 1, 2 * block + 2, 2 * block + 3, 2 * block + 4]);
    assert_eq!(packed.positions[5], 0);
    let rows = packed.tokens.len();
    let (second, third) = (5, 10 + 2 * BLOCK);
    let both = rows..rows + 2 * BLOCK;
    let apart = [rows..rows + BLOCK, rows + 2 * BLOCK..rows + 3 * BLOCK];
    let second_prefix = second..second + 2 * BLOCK + 2;
    assert_eq!(packed.read_rows()[..2], [1, 4]);
    assert_eq!(
        packed.spans(0, &layers(2, Window::NONE)),
        [
            run(0..2, vec![both.clone()], Mask::CAUSAL),
            run(2..5, vec![both.clone(), 0..2], Mask::CAUSAL),
            run(second_prefix.clone(), vec![], Mask::CAUSAL),
            run(third - 3..third, vec![second_prefix], Mask::CAUSAL),
            run(third..third + 2, apart.to_vec(), Mask::CAUSAL),
            run(third + 2..third + 5, [&apart[..], &[third..third + 2]].concat(), Mask::CAUSAL),
        ]
    );
    let read = packed.read_spans(&layers(2, Window::NONE));
    assert_eq!(
        read[..2].iter().map(|span| span.keys.clone()).collect::<Vec<_>>(),
        [vec![both.clone(), 0..2], vec![both, 0..2, 2..5]]
    );
}

#[test]
fn rows_to_store_are_those_of_their_blocks() {
    let lookup =
        CacheLookup { hits: vec![vec![0], vec![]], to_store: vec![(0, 1..2), (1, 0..2)], ..CacheLookup::default() };
    let packed = Packed::new(&[long(), long()], &lookup, true);
    let second = BLOCK + 5;
    assert_eq!(packed.stored, [0..BLOCK, second..second + BLOCK, second + BLOCK..second + 2 * BLOCK]);
}

fn spec(architecture: &str) -> ModelSpec {
    let json = serde_json::json!({
        "architectures": [architecture], "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "vocab_size": 10, "max_position_embeddings": 10
    });
    ModelSpec::parse(json.to_string().as_bytes(), std::path::Path::new("config.json")).unwrap()
}

#[test]
fn a_pass_that_cannot_run_is_rejected_with_its_place() {
    let problem_in = |architecture: &str, change: &dyn Fn(&mut ForwardPass)| {
        let mut pass = isolated();
        change(&mut pass);
        check(&[pass], &spec(architecture), &|_| false).unwrap_err().to_string()
    };
    let problem = |change: &dyn Fn(&mut ForwardPass)| problem_in("Qwen3ForCausalLM", change);
    check(&[isolated()], &spec("Qwen3ForCausalLM"), &|_| false).unwrap();
    let nothing = problem(&|pass| {
        pass.prefix.clear();
        pass.suffixes.clear();
    });
    assert_eq!(nothing, "invalid pass 0: it has no tokens");
    assert_eq!(problem(&|pass| pass.suffixes[1].clear()), "invalid pass 0: its suffix 1 is empty");
    assert!(problem(&|pass| pass.prefix[0] = 10).contains("token id 10 is outside the vocabulary of 10"));
    assert!(problem(&|pass| pass.prefix = vec![1; 8]).contains("11 tokens, the model has 10 positions"));
    let outside = |pass: &mut ForwardPass| pass.cross_document.shared.push(TokenPosition::suffix(3, 0));
    assert!(problem(&outside).contains("segment 4, offset 0"));
    assert!(problem(&|pass| pass.output.layer = Some(3)).contains("it reads after layer 3, the model has 2"));
    assert!(problem(&|pass| pass.output.head = Head::Projector).contains("the checkpoint has no projector"));
    assert!(problem(&|pass| pass.output.head = Head::Classifier).contains("the checkpoint has no classifier"));
    assert!(problem(&|pass| pass.output.head = Head::Vocabulary(vec![10])).contains("token id 10 is outside"));
    assert!(problem(&|pass| pass.token_types = TokenTypes::Pairs(vec![1])).contains("token types for 1 sequences"));
    assert!(problem_in("BertModel", &|_| ()).contains("cannot share a prefix"));
    assert!(problem_in("BertModel", &|pass| pass.prefix.clear()).contains("no cross-document layers"));
}
