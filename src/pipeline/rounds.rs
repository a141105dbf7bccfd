//! The passes of admitted requests, round by round: collect, run, score, plan the next round.

use std::sync::Arc;

use tracing::Instrument;

use super::Reranker;
use super::cost::PreparedRequest;
use super::cpu_pool::{CpuPool, Job};
use crate::context::{RequestContext, RequestTimeline, Stage};
use crate::prompt::{IsCancelled, PreparedTexts};
use crate::rerank::RerankError;
use crate::runtime::{ForwardPass, Output};
use crate::schedule::AdmissionPermit;
use crate::scoring::Scores;

/// A request whose passes are running.
struct RunningRequest {
    prepared: PreparedRequest,
    /// Tokens of the passes that were sent to the device.
    prompt_tokens: usize,
}

/// A request whose passes have all run.
pub(super) struct Scored {
    pub texts: Arc<PreparedTexts>,
    pub scores: Scores,
    pub prompt_tokens: usize,
}

/// One round of several requests. Their passes run together.
struct Round {
    /// In the order of the requests.
    passes: Vec<ForwardPass>,
    /// For each pass, the number of its request and which of its documents it reads.
    reads: Vec<(usize, Vec<usize>)>,
    /// How many of the passes belong to each request.
    counts: Vec<usize>,
}

/// Counts passes, and documents when they are first read, in the progress that a 504 reports.
struct ProgressCounter {
    timeline: RequestTimeline,
    /// For each request, which of its documents were read.
    read: Vec<Vec<bool>>,
}

impl Reranker {
    /// Runs all rounds of the requests.
    pub(super) async fn run_rounds(
        &self,
        requests: Vec<PreparedRequest>,
        permit: &AdmissionPermit,
        mut context: RequestContext,
    ) -> Result<(RequestContext, Vec<Scored>), RerankError> {
        let mut progress = ProgressCounter::new(&requests, context.timeline.clone());
        let start = |prepared| RunningRequest { prepared, prompt_tokens: 0 };
        let mut running: Vec<RunningRequest> = requests.into_iter().map(start).collect();
        while let Some(Round { passes, reads, counts }) = Round::collect(&mut running) {
            let tokens = passes.iter().map(ForwardPass::tokens).sum();
            let waiting = context.timeline.begin(Stage::Queue, Some(tokens));
            let passes = self.scheduler.run(permit, passes, |pass| progress.count(&reads[pass]));
            let completed = passes.instrument(context.span.clone()).await?;
            waiting.end_with_batches(&completed.device_intervals);

            let _scoring = context.timeline.begin(Stage::Score, None);
            let score = move |_: &RequestContext, _: IsCancelled| {
                let mut outputs = completed.outputs.into_iter();
                for (request, count) in running.iter_mut().zip(counts) {
                    request.add_outputs(outputs.by_ref().take(count).collect())?;
                }
                Ok(running)
            };
            (context, running) = CpuPool::for_process().run(context, Job::Score, score).await?;
        }
        let scored = running.into_iter().map(RunningRequest::finish).collect::<Result<_, _>>()?;
        Ok((context, scored))
    }
}

impl Round {
    /// Takes the next round of every request that has one; `None` once no request has.
    fn collect(requests: &mut [RunningRequest]) -> Option<Self> {
        let (mut passes, mut reads, mut counts) = (Vec::new(), Vec::new(), Vec::new());
        for (number, request) in requests.iter_mut().enumerate() {
            let planned = request.prepared.round.take().unwrap_or_default();
            counts.push(planned.len());
            for planned in planned {
                request.prompt_tokens += planned.pass.tokens();
                let texts = &request.prepared.texts;
                let documents = planned.documents.iter().map(|index| texts.document_of(*index)).collect();
                reads.push((number, documents));
                passes.push(planned.pass);
            }
        }
        (!passes.is_empty()).then_some(Self { passes, reads, counts })
    }
}

impl RunningRequest {
    /// Takes the outputs of a round, if the request had one, and plans the next.
    fn add_outputs(&mut self, outputs: Vec<Output>) -> Result<(), RerankError> {
        let PreparedRequest { rounds, round, .. } = &mut self.prepared;
        if !outputs.is_empty() {
            rounds.add_outputs(outputs)?;
            *round = rounds.next_round()?;
        }
        Ok(())
    }

    fn finish(self) -> Result<Scored, RerankError> {
        let PreparedRequest { rounds, texts, .. } = self.prepared;
        Ok(Scored { scores: rounds.finish()?, texts, prompt_tokens: self.prompt_tokens })
    }
}

impl ProgressCounter {
    /// Estimates the number of passes: each later round has as many as the first.
    fn new(requests: &[PreparedRequest], timeline: RequestTimeline) -> Self {
        let passes =
            |request: &PreparedRequest| request.round.as_ref().map_or(0, Vec::len) * (1 + request.rounds.remaining());
        let all_passes = requests.iter().map(passes).sum::<usize>();
        timeline.update_progress(|progress| progress.of_passes += all_passes);
        let read = requests.iter().map(|request| vec![false; request.texts.request_documents()]).collect();
        Self { timeline, read }
    }

    /// Counts a pass that is done.
    fn count(&mut self, (request, documents): &(usize, Vec<usize>)) {
        let read = &mut self.read[*request];
        let is_new = |document: &&usize| !std::mem::replace(&mut read[**document], true);
        let new = documents.iter().filter(is_new).count();
        self.timeline.update_progress(|progress| {
            progress.passes += 1;
            // Later stages of a cascade read documents again.
            progress.documents = (progress.documents + new).min(progress.of_documents);
        });
    }
}
