//! The prompts of all families, to the byte, and their ids in the reference implementations, which
//! encode the whole text or its pieces with the complete tokenizer.

use super::super::testing::{prompter, whole_tokenizer};
use super::{instructed, limits, pair_sequences, render, request, whole_slate};
use crate::rerank::{Mode, RerankRequest};
use crate::runtime::TokenPosition;

const QUERY: &str = "Who is the one?";
const DOCUMENTS: [&str; 3] = ["The first.\nIt has two lines.", "", "Der zweite, größer; 数学?"];

fn reference_ids(pieces: &[&str]) -> Vec<u32> {
    let tokenizer = whole_tokenizer();
    pieces.iter().flat_map(|piece| tokenizer.encode_fast(*piece, false).unwrap().get_ids().to_vec()).collect()
}

const JINA_PREFIX: &str = "<|im_start|>system\nYou are a search relevance expert who can determine a ranking of the passages based on how relevant they are to the query. If the query is a question, how relevant a passage is depends on how well it answers the question. If not, try to analyze the intent of the query and assess how well each passage satisfies the intent. If an instruction is provided, you should follow the instruction when determining the ranking.<|im_end|>\n<|im_start|>user\n";
const NO_THOUGHT: &str = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n";

#[test]
fn jina_v3_and_v3_5_are_exact() {
    let body = "<passage id=\"0\">\nThe first.\nIt has two lines.<|embed_token|>\n</passage>\n<passage id=\"1\">\n<|embed_token|>\n</passage>\n<passage id=\"2\">\nDer zweite, größer; 数学?<|embed_token|>\n</passage>\n<query>\nWho is the one?<|rerank_token|>\n</query>";
    for (family, early_mark) in [("jina-v3", ""), ("jina-v3.5", "<|rerank_token|>")] {
        let prompter = prompter(family);
        let head = format!(
            "I will provide you with 3 passages, each indicated by a numerical identifier. Rank the passages based on their relevance to query: Who is the one?{early_mark}\n"
        );
        let plain = format!("{JINA_PREFIX}{head}{body}{NO_THOUGHT}");
        let asked = format!("{JINA_PREFIX}{head}<instruct>\nRecent ones.\n</instruct>\n{body}{NO_THOUGHT}");
        for (request, expected) in
            [(request(QUERY, &DOCUMENTS), plain), (instructed(QUERY, "Recent ones.", &DOCUMENTS), asked)]
        {
            let ids = whole_slate(&prompter, &request);
            assert_eq!(prompter.decode(&ids), expected);
            assert_eq!(ids, reference_ids(&[&expected]));
            // The pass ends with the query's last mark, and is read at the marks.
            let rendering = render(&prompter, &request);
            assert_eq!(rendering.prefix, ids[..rendering.prefix.len()]);
            let mark = |place: &TokenPosition| prompter.decode(&[rendering.prefix[place.offset]]);
            let marks: Vec<String> = rendering.marks.iter().map(mark).collect();
            assert_eq!(marks, ["<|embed_token|>", "<|embed_token|>", "<|embed_token|>", "<|rerank_token|>"]);
            assert_eq!(rendering.marks[3].offset + 1, rendering.prefix.len());
        }
    }
}

#[test]
fn contextual_is_exact() {
    let prompter = prompter("contextual");
    let head = "Check whether a given document contains information helpful to answer the query.\n<Document> ";
    for (request, tail) in [
        (request(QUERY, &DOCUMENTS), "\n<Query> Who is the one? ??"),
        (instructed(QUERY, "Recent ones.", &DOCUMENTS), "\n<Query> Who is the one? Recent ones. ??"),
    ] {
        for (ids, document) in pair_sequences(&prompter, &request).iter().zip(DOCUMENTS) {
            assert_eq!(*ids, reference_ids(&[&format!("{head}{document}{tail}")]));
        }
    }
    assert_eq!(prompter.answers().map(|answers| (answers.positive, answers.negative)), Some((0, None)));
}

#[test]
fn first_is_exact() {
    let prompter = prompter("first");
    let expected = "<|im_start|>system\nYou are RankLLM, an intelligent assistant that can rank passages based on their relevancy to the query<|im_end|>\n<|im_start|>user\nI will provide you with 3 passages, each indicated by a alphabetical identifier []. Rank the passages based on their relevance to the search query: Who is the one?.\n\n[A] The first.\nIt has two lines.\n[B] \n[C] Der zweite, größer; 数学?\nSearch Query: Who is the one?.\nRank the 3 passages above based on their relevance to the search query. All the passages should be included and listed using identifiers, in descending order of relevance. The output format should be [] > [], e.g., [B] > [A], Only respond with the ranking results, do not say any word or explain.<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n[";
    let rendering = render(&prompter, &request(QUERY, &DOCUMENTS));
    assert_eq!(prompter.decode(&rendering.prefix), expected);
    assert_eq!(rendering.prefix, reference_ids(&[expected]));
    assert_eq!(rendering.marks, [TokenPosition { segment: 0, offset: rendering.prefix.len() - 1 }]);

    let asked = prompter.decode(&render(&prompter, &instructed(QUERY, "Recent ones.", &DOCUMENTS)).prefix);
    assert!(asked.contains("Who is the one?.\nFollow this instruction when you judge relevance: Recent ones.\n\n[A] "));
    assert!(asked.contains("Search Query: Who is the one?.\nInstruction: Recent ones.\nRank the 3 passages"));

    let alone = prompter.decode(&pair_sequences(&prompter, &instructed(QUERY, "Recent ones.", &DOCUMENTS))[2]);
    assert_eq!(
        alone,
        "<|im_start|>system\nYou judge whether a passage is relevant to a search query. Answer only Yes or No.<|im_end|>\n<|im_start|>user\nSearch Query: Who is the one?\nInstruction: Recent ones.\nPassage: Der zweite, größer; 数学?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    );
}

#[test]
fn first_has_no_think_block_where_the_tokenizer_has_none() {
    let tokenizer = super::super::testing::tokenizer_without("<think>");
    let prompter = super::super::testing::bind("first", &tokenizer, 32_768, 1024).unwrap();
    let prefix = prompter.decode(&render(&prompter, &request(QUERY, &DOCUMENTS)).prefix);
    assert!(prefix.ends_with("explain.<|im_end|>\n<|im_start|>assistant\n["), "{prefix}");
}

#[test]
fn qwen3_reranker_is_exact_in_three_pieces() {
    let prompter = prompter("qwen3-reranker");
    let prefix = "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct provided. Note that the answer can only be \"yes\" or \"no\".<|im_end|>\n<|im_start|>user\n";
    for (request, instruction) in [
        (request(QUERY, &DOCUMENTS), "Given a web search query, retrieve relevant passages that answer the query"),
        (instructed(QUERY, "Recent ones.", &DOCUMENTS), "Recent ones."),
    ] {
        for (ids, document) in pair_sequences(&prompter, &request).iter().zip(DOCUMENTS) {
            let content = format!("<Instruct>: {instruction}\n<Query>: {QUERY}\n<Document>: {document}");
            assert_eq!(prompter.decode(ids), format!("{prefix}{content}{NO_THOUGHT}"));
            assert_eq!(*ids, reference_ids(&[prefix, &content, NO_THOUGHT]));
        }
    }
}

#[test]
fn mxbai_v2_is_exact_in_seven_pieces() {
    let prompter = prompter("mxbai-v2");
    let prefix = "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n<|im_start|>user\n";
    let task = "You are a search relevance expert who evaluates how well documents match search queries. For each query-document pair, carefully analyze the semantic relationship between them, then provide your binary relevance judgment (0 for not relevant, 1 for relevant).\nRelevance:";
    let suffix = "<|im_end|>\n<|im_start|>assistant\n";
    for (request, query) in [
        (request(QUERY, &DOCUMENTS), "query: Who is the one?"),
        (instructed(QUERY, "Recent ones.", &DOCUMENTS), "instruction: Recent ones.\nquery: Who is the one?"),
    ] {
        for (ids, document) in pair_sequences(&prompter, &request).iter().zip(DOCUMENTS) {
            let document = format!("document: {document}");
            let pieces = [prefix, query, "\n", &document, "\n", task, suffix];
            assert_eq!(prompter.decode(ids), pieces.concat());
            assert_eq!(*ids, reference_ids(&pieces));
            // The same text at once joins `?` and the newline after it.
            assert_ne!(*ids, reference_ids(&[&pieces.concat()]));
        }
    }
}

#[test]
fn zerank_is_exact_with_both_texts_stripped() {
    let prompter = prompter("zerank");
    let padded = DOCUMENTS.map(|document| format!(" \n{document}\u{1c}\t"));
    let documents = [padded[0].as_str(), &padded[1], &padded[2]];
    for (request, system) in [
        (request(" Who is the one?\n", &documents), QUERY),
        (
            instructed(QUERY, "Recent ones. ", &documents),
            "<query>Who is the one?</query>\n<instruction>Recent ones.</instruction>",
        ),
    ] {
        for (ids, document) in pair_sequences(&prompter, &request).iter().zip(DOCUMENTS) {
            let expected = format!(
                "<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{document}<|im_end|>\n<|im_start|>assistant\n"
            );
            assert_eq!(prompter.decode(ids), expected);
            assert_eq!(*ids, reference_ids(&[&expected]));
        }
    }
}

#[test]
fn podium_nano_reads_documents_as_suffixes() {
    let prompter = prompter("podium-nano");
    let rendering = render(&prompter, &instructed("Who  is\nthe one?", " Recent ones.", &DOCUMENTS));
    assert_eq!(prompter.decode(&rendering.prefix), "<|im_start|> Who is the one?<|instruct|> Recent ones.<|im_end|>");
    let suffixes: Vec<String> = rendering.suffixes.iter().map(|suffix| prompter.decode(suffix)).collect();
    assert_eq!(suffixes[0], " The first. It has two lines.<|embed_6|>");
    assert_eq!(suffixes[1], " <|embed_0|>");
    assert_eq!(suffixes[3], "<|im_start|> Who is the one?<|rerank_token|>");
    let ends: Vec<TokenPosition> =
        (0..4).map(|nth| TokenPosition { segment: nth + 1, offset: rendering.suffixes[nth].len() - 1 }).collect();
    assert_eq!(rendering.marks, ends);
    for text in [" Who is the one?", " The first. It has two lines."] {
        let ids = reference_ids(&[text]);
        let segments = [&rendering.prefix, &rendering.suffixes[0]];
        assert!(segments.iter().any(|segment| segment.windows(ids.len()).any(|window| window == ids)), "{text}");
    }
    let plain = render(&prompter, &request(QUERY, &DOCUMENTS));
    assert_eq!(prompter.decode(&plain.prefix), "<|im_start|> Who is the one?<|im_end|>");
}

#[test]
fn a_blank_instruction_is_none() {
    for family in super::FAMILIES {
        let prompter = prompter(family);
        let without = render(&prompter, &request(QUERY, &DOCUMENTS));
        assert_eq!(render(&prompter, &instructed(QUERY, " \n", &DOCUMENTS)), without, "{family}");
    }
}

#[test]
fn pointwise_documents_share_their_longest_common_beginning() {
    for family in ["qwen3-reranker", "mxbai-v2", "zerank"] {
        let prompter = prompter(family);
        let together = pair_sequences(&prompter, &request(QUERY, &DOCUMENTS));
        for (together, document) in together.iter().zip(DOCUMENTS) {
            assert_eq!(
                [together.clone()].as_slice(),
                pair_sequences(&prompter, &request(QUERY, &[document])),
                "{family}"
            );
        }
        let twice = render(&prompter, &request(QUERY, &["same", "same"]));
        assert_eq!(twice.suffixes.iter().map(Vec::len).collect::<Vec<_>>(), [1, 1], "{family}");
    }
}

#[test]
fn e2rank_is_exact() {
    let prompter = prompter("e2rank");
    let asked = |task: &str, shown: &str| {
        format!("<|im_start|>user\n{task}:\nDocuments:\n{shown}Search Query:{QUERY}{NO_THOUGHT}")
    };
    let shown =
        "[1] The first.\nIt has two lines.<|endoftext|>\n[2] <|endoftext|>\n[3] Der zweite, größer; 数学?<|endoftext|>";
    let task = "Given a web search query and some relevant documents, rerank the documents that answer the query";
    let plain = "Given a web search query, retrieve relevant passages that answer the query";
    let embedded = |task: &str| format!("Instruct: {task}\nQuery:{QUERY}<|endoftext|>");
    for (request, listwise, pointwise) in [
        (request(QUERY, &DOCUMENTS), asked(task, shown), embedded(plain)),
        (instructed(QUERY, "Recent ones.", &DOCUMENTS), asked("Recent ones.", shown), embedded("Recent ones.")),
    ] {
        for (mode, query) in [(Mode::Auto, listwise), (Mode::Pointwise, pointwise)] {
            let request = RerankRequest { mode, ..request.clone() };
            let prepared = prompter.tokenize(&request, &limits(), &|| false).unwrap();
            let rendering = prompter.render(&prepared, &[]).unwrap();
            assert_eq!(prompter.decode(&rendering.prefix), query);
            assert_eq!(rendering.prefix, reference_ids(&[&query]));
            assert_eq!(rendering.marks, [TokenPosition::prefix(rendering.prefix.len() - 1)]);
            let rendering = prompter.render(&prepared, &[0, 1, 2]).unwrap();
            assert!(rendering.prefix.is_empty());
            for (suffix, document) in rendering.suffixes.iter().zip(DOCUMENTS) {
                assert_eq!(*suffix, reference_ids(&[&format!("{document}<|endoftext|>")]));
            }
        }
    }
}

#[test]
fn colbert_fills_queries_up_and_compares_no_punctuation() {
    let prompter = prompter("colbert");
    let request = request("Who?", &["a, b.", "", "[CLS] x <|im_start|>"]);
    let prepared = prompter.tokenize(&request, &limits(), &|| false).unwrap();
    assert_eq!(prepared.warnings, ["documents[2]: 2 control tokens were removed"]);
    let rendering = prompter.render(&prepared, &[0, 1, 2]).unwrap();
    let texts: Vec<String> = rendering.suffixes.iter().map(|ids| prompter.decode(ids)).collect();
    assert_eq!(texts[0], format!("[CLS]<|im_start|>Who?[SEP]{}", "[MASK]".repeat(32 - 7)));
    assert_eq!(texts[1..], ["[CLS]<|im_end|>a, b.[SEP]", "[CLS]<|im_end|>[SEP]", "[CLS]<|im_end|> x [SEP]"]);
    let read = |nth: usize| -> Vec<usize> {
        rendering.marks.iter().filter(|mark| mark.segment == nth + 1).map(|mark| mark.offset).collect()
    };
    assert_eq!(read(0), (0..32).collect::<Vec<_>>());
    // Neither the comma nor the full stop.
    assert_eq!((read(1), read(2)), (vec![0, 1, 2, 4, 5, 7], vec![0, 1, 2]));
    assert_eq!((prepared.query_tokens(), prepared.expansion()), (32, 25));
}

#[test]
fn colbert_reads_as_much_as_the_checkpoint_says() {
    let prompter = prompter("colbert");
    let long = "7".repeat(400);
    let prepared = prompter.tokenize(&request(&long, &[&long]), &limits(), &|| false).unwrap();
    assert_eq!(
        prepared.warnings,
        ["query: cut from 400 tokens to 29", "1 of 1 documents was cut to 177 tokens: index 0"]
    );
    assert_eq!((prepared.query_tokens(), prepared.expansion()), (32, 0));
    let request = RerankRequest { max_tokens_per_doc: Some(300), ..request("q", &[&long]) };
    assert_eq!(prompter.tokenize(&request, &limits(), &|| false).unwrap().documents[0].tokens_read, 300);
    let listwise = RerankRequest { mode: Mode::Listwise, ..request };
    assert!(
        prompter.tokenize(&listwise, &limits(), &|| false).unwrap_err().to_string().contains("one document at a time")
    );
}
