//! The order in which passes run.
//!
//! 1. **Priority.** Passes of more urgent requests run first.
//! 2. **Fair between clients.** Among requests of one priority, the client runs first that has been
//!    served the fewest tokens. An idle client accumulates no credit: when it comes back it starts
//!    at the virtual time (start-time fair queueing, with tokens as the cost).
//! 3. **Short before long, within limits.** Among one client's requests of one priority, the lowest
//!    finish tag runs first: the tokens that the client had been served when the request arrived,
//!    plus the request's own. Requests of equal length run in order of arrival. A short request
//!    overtakes a long one only if it arrives before the client has been served, since the long
//!    one's arrival, as many tokens as the long one has.
//! 4. **No starvation.** Once a few batches have overtaken the oldest request, it gets a fifth of
//!    the tokens, whatever its priority, until that is made up for.
//!
//! The passes of one request run in order. Passes never wait while the device is free.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use super::client::Client;

/// Batches that may overtake the oldest request before it gets its share.
const MAX_OVERTAKING_BATCHES: usize = 4;
/// Tokens that may overtake the oldest request for each of its own, while it gets its share.
const OVERTAKING_TOKENS_PER_TOKEN: usize = 4;
/// Above this many priority classes, the queue forgets classes without waiting requests, and with
/// them the tokens that their clients were served.
const MAX_IDLE_CLASSES: usize = 32;

/// The request that passes belong to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RequestTag {
    /// Larger than that of every request that arrived before.
    pub sequence: u64,
    /// 0 is the most urgent.
    pub priority: u16,
    pub client: Client,
}

/// Waiting passes of type `T`, each with its tokens.
#[derive(Debug)]
pub(super) struct FairQueue<T> {
    /// By sequence, so that the first one is the oldest.
    requests: BTreeMap<u64, PendingRequest<T>>,
    classes: BTreeMap<u16, PriorityClass>,
    /// Tokens that overtook the oldest request, less four for each of its own tokens served since.
    overtaken_tokens: usize,
    passes: usize,
    tokens: usize,
}

#[derive(Debug)]
struct PendingRequest<T> {
    tag: RequestTag,
    finish_tag: u64,
    passes: VecDeque<(usize, T)>,
}

/// The clients of one priority.
#[derive(Debug, Clone, Default)]
struct PriorityClass {
    /// The least that a waiting client had been served when the last pass ran: the start of clients
    /// that were idle.
    virtual_time: u64,
    clients: HashMap<Client, ClientFlow>,
}

/// The waiting requests of one client in one priority class.
#[derive(Debug, Clone, Default)]
struct ClientFlow {
    /// Tokens served to the client, or the virtual time at which it came back from being idle plus
    /// the tokens served since: when its last pass finishes in virtual time.
    virtual_finish: u64,
    /// By finish tag, then by sequence.
    requests: BTreeSet<(u64, u64)>,
}

impl<T> Default for FairQueue<T> {
    fn default() -> Self {
        Self { requests: BTreeMap::new(), classes: BTreeMap::new(), overtaken_tokens: 0, passes: 0, tokens: 0 }
    }
}

impl<T> FairQueue<T> {
    /// The number of waiting passes.
    pub fn passes(&self) -> usize {
        self.passes
    }

    /// Tokens of the waiting passes.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Queues the passes of a request that has none in the queue.
    pub fn push(&mut self, tag: RequestTag, passes: Vec<(usize, T)>) {
        if passes.is_empty() {
            return;
        }
        let tokens: usize = passes.iter().map(|(tokens, _)| tokens).sum();
        self.passes += passes.len();
        self.tokens += tokens;
        debug_assert!(!self.requests.contains_key(&tag.sequence), "a request runs one set of passes at a time");
        let class = self.classes.entry(tag.priority).or_default();
        let flow = class.clients.entry(tag.client.clone()).or_default();
        if flow.requests.is_empty() {
            flow.virtual_finish = flow.virtual_finish.max(class.virtual_time);
        }
        let finish_tag = flow.virtual_finish + tokens as u64;
        flow.requests.insert((finish_tag, tag.sequence));
        self.requests.insert(tag.sequence, PendingRequest { tag, finish_tag, passes: passes.into() });
    }

    /// Removes and returns the waiting passes of a request.
    pub fn remove(&mut self, sequence: u64) -> Vec<T> {
        let Some(request) = self.requests.remove(&sequence) else { return Vec::new() };
        self.passes -= request.passes.len();
        self.tokens -= request.passes.iter().map(|(tokens, _)| tokens).sum::<usize>();
        self.remove_from_flow(&request.tag, request.finish_tag);
        request.passes.into_iter().map(|(_, pass)| pass).collect()
    }

    /// Removes the next passes that make a batch: at most `max_tokens` tokens, or one longer pass.
    pub fn take_batch(&mut self, max_tokens: usize) -> Vec<T> {
        let mut batch = Vec::new();
        let mut batch_tokens = 0;
        while let Some(sequence) = self.next_request(max_tokens) {
            let Some(request) = self.requests.get_mut(&sequence) else { break };
            let Some((tokens, _)) = request.passes.front() else { break };
            if !batch.is_empty() && batch_tokens + tokens > max_tokens {
                break;
            }
            let Some((tokens, pass)) = request.passes.pop_front() else { break };
            batch.push(pass);
            batch_tokens += tokens;
            self.passes -= 1;
            self.tokens -= tokens;
            self.record_served(sequence, tokens);
        }
        batch
    }

    /// The passes that [`Self::take_batch`] would remove now.
    pub fn peek_batch(&self, max_tokens: usize) -> Vec<&T> {
        let requests = self.requests.iter().map(|(sequence, request)| (*sequence, request.beginning(max_tokens)));
        let mut copy = FairQueue {
            requests: requests.collect(),
            classes: self.classes.clone(),
            overtaken_tokens: self.overtaken_tokens,
            passes: self.passes,
            tokens: self.tokens,
        };
        copy.take_batch(max_tokens)
    }

    /// The request whose pass runs next, where a batch has `batch_tokens` tokens.
    fn next_request(&self, batch_tokens: usize) -> Option<u64> {
        let (oldest, _) = self.requests.first_key_value()?;
        if self.overtaken_tokens >= MAX_OVERTAKING_BATCHES.saturating_mul(batch_tokens) {
            return Some(*oldest);
        }
        let class = self.classes.values().find(|class| class.has_requests())?;
        let first = |flow: &ClientFlow| flow.requests.first().map(|(_, sequence)| (flow.virtual_finish, *sequence));
        class.clients.values().filter_map(first).min().map(|(_, sequence)| sequence)
    }

    /// Counts a pass that left the queue to run, and forgets its request if it was the last one.
    fn record_served(&mut self, sequence: u64, tokens: usize) {
        if self.requests.first_key_value().is_some_and(|(oldest, _)| *oldest == sequence) {
            let made_up = OVERTAKING_TOKENS_PER_TOKEN.saturating_mul(tokens);
            self.overtaken_tokens = self.overtaken_tokens.saturating_sub(made_up);
        } else {
            self.overtaken_tokens = self.overtaken_tokens.saturating_add(tokens);
        }
        let Some(request) = self.requests.get(&sequence) else { return };
        if let Some(class) = self.classes.get_mut(&request.tag.priority) {
            class.virtual_time = class.virtual_time.max(class.least_virtual_finish());
            if let Some(flow) = class.clients.get_mut(&request.tag.client) {
                flow.virtual_finish += tokens as u64;
            }
        }
        if request.passes.is_empty()
            && let Some(request) = self.requests.remove(&sequence)
        {
            self.remove_from_flow(&request.tag, request.finish_tag);
        }
    }

    /// Removes a request, which is no longer pending, from the flow of its client.
    fn remove_from_flow(&mut self, tag: &RequestTag, finish_tag: u64) {
        let Some(class) = self.classes.get_mut(&tag.priority) else { return };
        if let Some(flow) = class.clients.get_mut(&tag.client) {
            flow.requests.remove(&(finish_tag, tag.sequence));
        }
        // An idle client is remembered only while it is ahead of the others.
        let virtual_time = class.virtual_time;
        class.clients.retain(|_, flow| !flow.requests.is_empty() || flow.virtual_finish > virtual_time);
        if self.classes.len() > MAX_IDLE_CLASSES {
            self.classes.retain(|_, class| class.has_requests());
        }
        if self.requests.is_empty() {
            self.overtaken_tokens = 0;
        }
    }
}

impl<T> PendingRequest<T> {
    /// The request with its first passes: more than a batch takes, or all.
    fn beginning(&self, batch_tokens: usize) -> PendingRequest<&T> {
        let mut before = 0;
        let is_needed = |(tokens, _): &&(usize, T)| {
            let is_needed = before <= batch_tokens;
            before += tokens;
            is_needed
        };
        let passes = self.passes.iter().take_while(is_needed).map(|(tokens, pass)| (*tokens, pass));
        PendingRequest { tag: self.tag.clone(), finish_tag: self.finish_tag, passes: passes.collect() }
    }
}

impl PriorityClass {
    fn has_requests(&self) -> bool {
        self.clients.values().any(|flow| !flow.requests.is_empty())
    }

    fn least_virtual_finish(&self) -> u64 {
        let waiting = self.clients.values().filter(|flow| !flow.requests.is_empty());
        waiting.map(|flow| flow.virtual_finish).min().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests;
