//! Spans: what a trace shows of the time that a request spends in the scheduler.

use std::sync::Mutex;

use tracing::span::{Attributes, Id};
use tracing::{Instrument, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use super::*;

type NameAndParent = (&'static str, Option<&'static str>);

/// Records the name and the parent's name of each new span, and the name of each closed one.
#[derive(Clone, Default)]
struct SpanRecorder {
    opened: Arc<Mutex<Vec<NameAndParent>>>,
    closed: Arc<Mutex<Vec<&'static str>>>,
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for SpanRecorder {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let parent = context.span(id).and_then(|span| span.parent()).map(|parent| parent.name());
        self.opened.lock().unwrap().push((attributes.metadata().name(), parent));
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        self.closed.lock().unwrap().extend(context.span(&id).map(|span| span.name()));
    }
}

#[tokio::test]
async fn queue_and_forward_are_child_spans_of_the_request() {
    let recorder = SpanRecorder::default();
    // With a single subscriber in the process, a thread without one that reaches a span first
    // disables it for all threads.
    let _second_subscriber = tracing::Dispatch::new(tracing_subscriber::registry());
    let _subscriber = tracing_subscriber::registry().with(recorder.clone()).set_default();
    let (scheduler, _) = scheduler(8, 10);
    let span = tracing::info_span!("request");
    run(&scheduler, vec![pass(10), pass(10)]).instrument(span).await.unwrap();
    let each_pass = [("queue", Some("request")), ("batch", None), ("forward", Some("request"))];
    let expected: Vec<_> = [("request", None)].into_iter().chain(each_pass).chain(each_pass).collect();
    assert_eq!(*recorder.opened.lock().unwrap(), expected);
    assert_eq!(
        *recorder.closed.lock().unwrap(),
        ["queue", "forward", "batch", "queue", "forward", "batch", "request"],
        "a stage closes when the next one begins"
    );
}
