//! The overhead of HTTP: a request through the router compared with a direct call, without a model.

mod support;

use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::http::Request;
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use podium::http::{Authenticator, Service, router};
use podium::telemetry::Telemetry;
use tower::ServiceExt;

fn http(criterion: &mut Criterion) {
    let tokio = tokio::runtime::Runtime::new().expect("the async runtime starts");
    let _inside = tokio.enter();
    let reranker = Arc::new(support::reranker());
    let telemetry = Arc::<Telemetry>::default();
    let settings = support::settings();
    let authenticator =
        Arc::new(Authenticator::new(&settings.auth, Vec::new()).expect("an empty list of keys is valid"));
    let service = Service::new(telemetry, authenticator, settings.server);
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
            bencher.iter(|| tokio.block_on(reranker.rerank(request.clone())).expect("the request succeeds"));
        });
        group.bench_with_input(BenchmarkId::new("route", documents), &body, |bencher, body| {
            bencher.iter(|| {
                tokio.block_on(async {
                    let request = Request::post("/v1/rerank")
                        .header("content-type", "application/json")
                        .body(Body::from(body.clone()))
                        .expect("the request is valid");
                    let response = router.clone().oneshot(request).await.expect("the router is infallible");
                    assert!(response.status().is_success(), "{response:?}");
                    to_bytes(response.into_body(), usize::MAX).await.expect("the body is complete")
                })
            });
        });
    }
    group.finish();
}

criterion_group!(benches, http);
criterion_main!(benches);
