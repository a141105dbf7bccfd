//! The embedded model finds an answer in the last paragraph of a long document, in the shapes of several
//! APIs.

use podium::app;
use podium::config::{Configuration, Sources};
use podium::runtime::fake::FakeRuntime;
use serde_json::{Value, json};

use crate::support::Server;

const QUERY: &str = "How many days do I have to send a purchase back?";
const ANSWER: &str =
    "Returns: you can send any purchase back within 45 days of its delivery, and we refund the whole price.";

/// Eight paragraphs of a shop's history, then the answer. Some characters have several bytes.
fn long_document() -> String {
    let paragraph = |nth: usize| {
        let year = 1948 + 6 * nth;
        format!(
            "In {year} the Müller family opened its café № {nth} in the old town 🏠. The bakers came at four in the morning, \
             the first guests at six, and in summer the tables stood on the square until midnight. A band from the next \
             village played on Sundays, and the mayor praised the plum cake in three speeches of that year."
        )
    };
    let mut paragraphs: Vec<String> = (0..8).map(paragraph).collect();
    paragraphs.push(ANSWER.to_owned());
    paragraphs.join("\n\n")
}

fn documents() -> [String; 4] {
    [
        "Parcels are delivered from Monday to Saturday, and the driver rings twice.".to_owned(),
        long_document(),
        "Every purchase earns points, which you can use for the next one.".to_owned(),
        "The days before the holidays are busy; please order early.".to_owned(),
    ]
}

/// The document at the top of a reply, and its passage as a text.
fn top(reply: &Value, place: &str) -> (u64, Option<String>) {
    let row = &reply.pointer(place).unwrap_or_else(|| panic!("no {place} in {reply}"))[0];
    let index = row["index"].as_u64().unwrap();
    let passage = row.get("passage").map(|passage| {
        let number = |name: &str| usize::try_from(passage[name].as_u64().unwrap()).unwrap();
        let (start, end) = (number("start"), number("end"));
        documents()[usize::try_from(index).unwrap()].chars().skip(start).take(end - start).collect()
    });
    (index, passage)
}

#[tokio::test]
async fn the_last_paragraph_is_found_in_the_shapes_of_cohere_elastic_tei_and_podium() {
    let settings = Configuration::load(&Sources::default()).unwrap().settings;
    let reranker = app::load_reranker(&settings).unwrap();
    let server = Server::over(reranker, FakeRuntime::new().controls(), &settings).await;
    let documents = documents();
    for (path, body, place, chunk) in [
        ("/v2/rerank", json!({"query": QUERY, "documents": documents}), "/results", json!({"max_chunks_per_doc": 20})),
        (
            "/_inference/rerank/any",
            json!({"query": QUERY, "input": documents}),
            "/rerank",
            json!({"long_document_strategy": "chunk"}),
        ),
        ("/rerank", json!({"query": QUERY, "texts": documents}), "", json!({"long_documents": "chunk"})),
        ("/v1/rerank", json!({"query": QUERY, "documents": documents}), "/results", json!({"long_documents": "chunk"})),
    ] {
        let cut = server.post(path, &body).await;
        assert_eq!(cut.status, 200, "{path}: {}", cut.text);
        let (first, passage) = top(&cut.json(), place);
        assert!(first != 1 && passage.is_none(), "{path}: the answer was cut off: {}", cut.text);

        let mut body = body;
        body.as_object_mut().unwrap().extend(chunk.as_object().unwrap().clone());
        let found = server.post(path, &body).await;
        let (first, passage) = top(&found.json(), place);
        assert_eq!(first, 1, "{path}: {}", found.text);
        let passage = passage.unwrap();
        assert!(passage.ends_with(ANSWER), "{path}: {passage}");
        assert!(passage.starts_with("In ") || passage == ANSWER, "{path}: it begins with a paragraph: {passage}");
        assert_eq!(found.header("podium-warnings"), "0", "{path}: {}", found.text);
    }
}
