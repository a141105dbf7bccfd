//! What HTTP adds to a request: the router against a call, both in this process and without a model.

mod support;

use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::http::Request;
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use podium::http::{Authenticator, Service, router};
use podium::telemetry::Telemetry;
use tower::ServiceExt;

fn http(criterion: &mut Criterion) {
    let tokio = tokio::runtime::Runtime::new().expect("a runtime starts");
    let _inside = tokio.enter();
    let reranker = Arc::new(support::reranker());
    let telemetry = Arc::<Telemetry>::default();
    let settings = support::settings();
    let door = Arc::new(Authenticator::new(&settings.auth, Vec::new()).expect("no keys are no problem"));
    let service = Service::new(telemetry, door, settings.server);
    service.set_models(Arc::clone(&reranker));
    let router = router(service);
    let mut group = criterion.benchmark_group("http");
    for documents in [1, 64] {
        let request = support::request(documents);
        let body = serde_json::json!({
            "query": request.query, "instruction": request.instruction.as_deref(), "documents": request.documents
        })
        .to_string();
        group.bench_with_input(BenchmarkId::new("call", documents), &request, |bencher, request| {
            bencher.iter(|| tokio.block_on(reranker.rerank(request.clone())).expect("it ranks"));
        });
        group.bench_with_input(BenchmarkId::new("route", documents), &body, |bencher, body| {
            bencher.iter(|| {
                tokio.block_on(async {
                    let request = Request::post("/v1/rerank")
                        .header("content-type", "application/json")
                        .body(Body::from(body.clone()))
                        .expect("a request");
                    let response = router.clone().oneshot(request).await.expect("routes do not fail");
                    assert!(response.status().is_success(), "{response:?}");
                    to_bytes(response.into_body(), usize::MAX).await.expect("a body")
                })
            });
        });
    }
    group.finish();
}

criterion_group!(benches, http);
criterion_main!(benches);
