//! The order in which passes run.
//!
//! 1. **Priority.** Passes of more urgent requests go first.
//! 2. **Fair between callers.** Among requests of one priority, the caller goes first who has been given the fewest
//!    tokens. Who was away does not save up: a caller that comes back starts where those who stayed are (start-time fair
//!    queueing, tokens as cost).
//! 3. **Short before long, within reason.** Among one caller's requests of one priority, the lowest place goes first: the
//!    tokens that the caller had been given when the request came, and the request's own. So requests of one length go
//!    in order of arrival, a short one overtakes a long one, and who comes after the caller has been given as many tokens
//!    as a waiting request has does not overtake it any more.
//! 4. **Nobody waits for ever.** Once a few batches have overtaken the request that has waited longest, a fifth of the
//!    tokens is its own, whatever its priority, until that is made up for.
//!
//! The passes of one request go in order. Nothing waits while the device is free.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

/// Batches that may overtake the request that has waited longest before it gets its part.
const OVERTAKING_BATCHES: usize = 4;
/// How many tokens may overtake it for each of its own.
const OVERTAKING_TOKENS: usize = 4;
/// Priorities whose account of who got how much is kept while nobody waits there.
const KEPT_LEVELS: usize = 32;

/// Whose a pass is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Owner {
    /// The request: a number that grows with each arrival.
    pub request: u64,
    /// 0 is the most urgent.
    pub priority: u16,
    /// The name of the key.
    pub key: Option<Arc<str>>,
}

/// Passes that wait, each with its tokens.
#[derive(Debug)]
pub(super) struct Queue<T> {
    /// By request: the first is the one that has waited longest.
    lines: BTreeMap<u64, Line<T>>,
    levels: BTreeMap<u16, Level>,
    /// Tokens that overtook the request that has waited longest, less what it was given for that.
    overtaken: usize,
    passes: usize,
    tokens: usize,
}

/// The passes of one request.
#[derive(Debug)]
struct Line<T> {
    owner: Owner,
    place: u64,
    passes: VecDeque<(usize, T)>,
}

/// The requests of one priority.
#[derive(Debug, Default)]
struct Level {
    /// The least that a waiting caller had been given when the last pass ran: where a caller starts that comes back.
    virtual_time: u64,
    callers: HashMap<Option<Arc<str>>, Turn>,
}

/// The requests of one caller in one priority.
#[derive(Debug, Default)]
struct Turn {
    /// Tokens given to it.
    served: u64,
    /// By place, then by arrival.
    requests: BTreeSet<(u64, u64)>,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { lines: BTreeMap::new(), levels: BTreeMap::new(), overtaken: 0, passes: 0, tokens: 0 }
    }
}

impl<T> Queue<T> {
    /// Passes that wait.
    pub fn passes(&self) -> usize {
        self.passes
    }

    /// Tokens of those passes.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Queues passes of a request that has none in the queue.
    pub fn push(&mut self, owner: &Owner, passes: Vec<(usize, T)>) {
        if passes.is_empty() {
            return;
        }
        let tokens: usize = passes.iter().map(|(tokens, _)| tokens).sum();
        self.passes += passes.len();
        self.tokens += tokens;
        debug_assert!(!self.lines.contains_key(&owner.request), "a request runs its passes once at a time");
        let level = self.levels.entry(owner.priority).or_default();
        let turn = level.callers.entry(owner.key.clone()).or_default();
        if turn.requests.is_empty() {
            turn.served = turn.served.max(level.virtual_time);
        }
        let place = turn.served + tokens as u64;
        turn.requests.insert((place, owner.request));
        self.lines.insert(owner.request, Line { owner: owner.clone(), place, passes: passes.into() });
    }

    /// Takes out all passes of a request.
    pub fn remove(&mut self, request: u64) {
        let Some(line) = self.lines.remove(&request) else { return };
        self.passes -= line.passes.len();
        self.tokens -= line.passes.iter().map(|(tokens, _)| tokens).sum::<usize>();
        self.step_out(&line);
    }

    /// Takes out the next passes that make a batch: at most `max_tokens` tokens, or one pass that is longer.
    pub fn take(&mut self, max_tokens: usize) -> Vec<T> {
        let mut batch = Vec::new();
        let mut sum = 0;
        while let Some(request) = self.next(max_tokens) {
            let Some(line) = self.lines.get_mut(&request) else { break };
            let Some((tokens, _)) = line.passes.front() else { break };
            if !batch.is_empty() && sum + tokens > max_tokens {
                break;
            }
            let Some((tokens, pass)) = line.passes.pop_front() else { break };
            batch.push(pass);
            sum += tokens;
            self.passes -= 1;
            self.tokens -= tokens;
            self.charge(request, tokens);
        }
        batch
    }

    /// The request whose pass is next.
    fn next(&self, batch: usize) -> Option<u64> {
        let (oldest, _) = self.lines.first_key_value()?;
        if self.overtaken >= OVERTAKING_BATCHES.saturating_mul(batch) {
            return Some(*oldest);
        }
        let level = self.levels.values().find(|level| level.has_requests())?;
        let first = |turn: &Turn| turn.requests.first().map(|(_, request)| (turn.served, *request));
        level.callers.values().filter_map(first).min().map(|(_, request)| request)
    }

    /// Notes that a pass of the request runs, and lets the request go if it was the last.
    fn charge(&mut self, request: u64, tokens: usize) {
        if self.lines.first_key_value().is_some_and(|(oldest, _)| *oldest == request) {
            self.overtaken = self.overtaken.saturating_sub(OVERTAKING_TOKENS.saturating_mul(tokens));
        } else {
            self.overtaken = self.overtaken.saturating_add(tokens);
        }
        let Some(line) = self.lines.get(&request) else { return };
        if let Some(level) = self.levels.get_mut(&line.owner.priority) {
            level.virtual_time = level.virtual_time.max(level.least_served());
            if let Some(turn) = level.callers.get_mut(&line.owner.key) {
                turn.served += tokens as u64;
            }
        }
        if line.passes.is_empty()
            && let Some(line) = self.lines.remove(&request)
        {
            self.step_out(&line);
        }
    }

    /// Takes a request that has left the lines out of its caller's turn.
    fn step_out(&mut self, line: &Line<T>) {
        let Some(level) = self.levels.get_mut(&line.owner.priority) else { return };
        if let Some(turn) = level.callers.get_mut(&line.owner.key) {
            turn.requests.remove(&(line.place, line.owner.request));
        }
        // Only who has been given more than the others must be remembered.
        let virtual_time = level.virtual_time;
        level.callers.retain(|_, turn| !turn.requests.is_empty() || turn.served > virtual_time);
        if self.levels.len() > KEPT_LEVELS {
            self.levels.retain(|_, level| level.has_requests());
        }
        if self.lines.is_empty() {
            self.overtaken = 0;
        }
    }
}

impl Level {
    fn has_requests(&self) -> bool {
        self.callers.values().any(|turn| !turn.requests.is_empty())
    }

    fn least_served(&self) -> u64 {
        let waiting = self.callers.values().filter(|turn| !turn.requests.is_empty());
        waiting.map(|turn| turn.served).min().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn owner(request: u64, priority: u16, key: Option<&str>) -> Owner {
        Owner { request, priority, key: key.map(Arc::from) }
    }

    /// Queues a request of one pass that is named by its number.
    fn push(queue: &mut Queue<u64>, request: u64, priority: u16, key: Option<&str>, tokens: usize) {
        queue.push(&owner(request, priority, key), vec![(tokens, request)]);
    }

    /// What comes out, one pass at a time.
    fn order(queue: &mut Queue<u64>) -> Vec<u64> {
        std::iter::from_fn(|| queue.take(1).pop()).collect()
    }

    /// As [`order`], in batches that are so large that nothing here is ever overtaken by too much.
    fn order_in_rank(queue: &mut Queue<u64>) -> Vec<u64> {
        let mut all = Vec::new();
        while queue.passes() > 0 {
            all.extend(queue.take(1_000_000));
        }
        all
    }

    #[test]
    fn the_more_urgent_go_first_and_equals_in_order_of_arrival() {
        let mut queue = Queue::default();
        for (request, priority) in [(1, 999), (2, 5), (3, 0), (4, 5), (5, 0)] {
            push(&mut queue, request, priority, None, 10);
        }
        assert_eq!(order_in_rank(&mut queue), [3, 5, 2, 4, 1]);
    }

    #[test]
    fn a_short_request_overtakes_a_long_one_that_came_before_it() {
        let mut queue = Queue::default();
        queue.push(&owner(1, 0, None), (0..10).map(|pass| (100, 10 + pass)).collect());
        assert_eq!(queue.take(100), [10]);
        push(&mut queue, 2, 0, None, 50);
        assert_eq!(queue.take(100), [2], "it does not fit beside the next long pass");
        assert_eq!(order_in_rank(&mut queue), (11..20).collect::<Vec<u64>>());
        assert_eq!((queue.passes(), queue.tokens()), (0, 0));
    }

    #[test]
    fn a_caller_with_many_requests_and_one_with_few_take_turns() {
        let mut queue = Queue::default();
        for request in 1..=6 {
            push(&mut queue, request, 0, Some("many"), 10);
        }
        push(&mut queue, 7, 0, Some("few"), 10);
        push(&mut queue, 8, 0, None, 10);
        push(&mut queue, 9, 0, Some("few"), 10);
        assert_eq!(order_in_rank(&mut queue), [1, 7, 8, 2, 9, 3, 4, 5, 6]);
    }

    #[test]
    fn who_was_away_does_not_save_up() {
        let mut queue = Queue::default();
        for request in 1..=10 {
            push(&mut queue, request, 0, Some("stays"), 10);
        }
        assert_eq!((0..5).flat_map(|_| queue.take(10)).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
        for request in 11..=13 {
            push(&mut queue, request, 0, Some("comes"), 10);
        }
        assert_eq!(order_in_rank(&mut queue), [11, 6, 12, 7, 13, 8, 9, 10]);
    }

    #[test]
    fn a_request_that_leaves_takes_its_passes_and_tokens_with_it() {
        let mut queue = Queue::default();
        queue.push(&owner(1, 0, None), vec![(10, 1), (20, 2)]);
        queue.push(&owner(2, 0, None), vec![(5, 3)]);
        queue.remove(1);
        queue.remove(7);
        assert_eq!((queue.passes(), queue.tokens()), (1, 5));
        assert_eq!(order(&mut queue), [3]);
    }

    #[test]
    fn the_least_urgent_gets_its_part_while_urgent_ones_keep_coming() {
        let mut queue = Queue::default();
        queue.push(&owner(0, 999, None), (0..20).map(|_| (10, 0)).collect());
        let mut served = 0;
        for request in 1..=100 {
            push(&mut queue, request, 0, None, 10);
            served += queue.take(10).into_iter().filter(|request| *request == 0).count();
        }
        // Four batches overtake it first; of the others, every fifth is its own.
        assert_eq!(served, 96 / 5 + 1);
    }

    #[derive(Debug, Clone)]
    enum Event {
        Push { priority: u16, key: u8, passes: Vec<usize> },
        Take(usize),
        Remove(prop::sample::Index),
    }

    fn event() -> impl Strategy<Value = Event> {
        let pass = 1_usize..60;
        prop_oneof![
            3 => (0_u16..3, 0_u8..3, prop::collection::vec(pass, 1..5))
                .prop_map(|(priority, key, passes)| Event::Push { priority, key, passes }),
            4 => (1_usize..100).prop_map(Event::Take),
            1 => any::<prop::sample::Index>().prop_map(Event::Remove),
        ]
    }

    proptest! {
        /// Whatever comes and goes: while anything waits something runs, batches keep to their budget, every pass runs
        /// once and in its request's order or is removed with it, and the counts are right.
        #[test]
        fn nothing_is_lost_and_nothing_idles(events in prop::collection::vec(event(), 1..120)) {
            let mut queue = Queue::default();
            let mut left: BTreeMap<u64, VecDeque<usize>> = BTreeMap::new();
            for (request, event) in (0_u64..).zip(events.into_iter().chain(vec![Event::Take(100); 500])) {
                match event {
                    Event::Push { priority, key, passes } => {
                        let key = ["a", "b"].get(usize::from(key)).copied();
                        let items = passes.iter().map(|tokens| (*tokens, (request, *tokens))).collect();
                        queue.push(&owner(request, priority, key), items);
                        left.insert(request, passes.into());
                    }
                    Event::Take(budget) => {
                        let batch = queue.take(budget);
                        prop_assert_eq!(batch.is_empty(), left.is_empty());
                        let tokens: usize = batch.iter().map(|(_, tokens)| tokens).sum();
                        prop_assert!(tokens <= budget || batch.len() == 1);
                        for (request, tokens) in batch {
                            let passes = left.get_mut(&request).unwrap();
                            prop_assert_eq!(passes.pop_front(), Some(tokens));
                            if passes.is_empty() {
                                left.remove(&request);
                            }
                        }
                    }
                    Event::Remove(index) if !left.is_empty() => {
                        let request = *left.keys().nth(index.index(left.len())).unwrap();
                        left.remove(&request);
                        queue.remove(request);
                    }
                    Event::Remove(_) => {}
                }
                prop_assert_eq!(queue.passes(), left.values().map(VecDeque::len).sum::<usize>());
                prop_assert_eq!(queue.tokens(), left.values().flatten().sum::<usize>());
            }
            prop_assert!(left.is_empty());
        }

        /// Of one caller and one priority, a request is overtaken only by shorter ones, and only by those that came before
        /// the caller had been given as many tokens as it has. So requests of one length go in order of arrival.
        #[test]
        fn only_shorter_requests_overtake_and_not_for_long(arrivals in prop::collection::vec((1_usize..100, 0_usize..3), 1..60)) {
            let mut queue = Queue::default();
            let mut order = Vec::new();
            let mut given_before = Vec::new();
            let length = |request: u64| arrivals[request as usize].0;
            let take = |queue: &mut Queue<u64>, order: &mut Vec<u64>| {
                // One pass at a time, and nobody is owed anything for being overtaken.
                order.extend(queue.take(1));
                queue.overtaken = 0;
            };
            for (request, (tokens, takes)) in (0_u64..).zip(&arrivals) {
                given_before.push(order.iter().map(|request| length(*request)).sum::<usize>());
                push(&mut queue, request, 0, None, *tokens);
                (0..*takes).for_each(|_| take(&mut queue, &mut order));
            }
            while queue.passes() > 0 {
                take(&mut queue, &mut order);
            }
            for (place, request) in order.iter().enumerate() {
                for overtaker in order[..place].iter().filter(|other| *other > request) {
                    prop_assert!(length(*overtaker) < length(*request));
                    let given = given_before[*overtaker as usize] - given_before[*request as usize];
                    prop_assert!(given < length(*request));
                }
            }
        }

        /// However many urgent requests of other callers keep coming: a request of so many tokens has run when at most
        /// five times as many and a few batches have.
        #[test]
        fn nobody_starves(
            passes in prop::collection::vec(1_usize..100, 1..10),
            priority in 0_u16..1000,
            others in prop::collection::vec((0_u16..3, 1_usize..100), 2000),
        ) {
            let batch = 100;
            let tokens: usize = passes.iter().sum();
            let mut queue = Queue::default();
            queue.push(&owner(0, priority, Some("patient")), passes.iter().map(|tokens| (*tokens, (0, *tokens))).collect());
            let (mut left, mut run) = (passes.len(), 0);
            for (request, (priority, tokens)) in (1_u64..).zip(others) {
                let key = ["a", "b", "c"][request as usize % 3];
                queue.push(&owner(request, priority, Some(key)), vec![(tokens, (request, tokens)), (tokens, (request, tokens))]);
                for (request, tokens) in queue.take(batch) {
                    run += tokens;
                    left -= usize::from(request == 0);
                }
                if left == 0 {
                    break;
                }
            }
            prop_assert_eq!(left, 0);
            prop_assert!(run <= 5 * tokens + (OVERTAKING_BATCHES + 2) * batch, "{} for {}", run, tokens);
        }

        /// Two callers who always have something waiting are given the same, but for the last pass of each.
        #[test]
        fn callers_get_the_same(ones in prop::collection::vec(1_usize..100, 60), twos in prop::collection::vec(1_usize..100, 60)) {
            let mut queue = Queue::default();
            let requests = ones.iter().map(|tokens| ("one", tokens)).zip(twos.iter().map(|tokens| ("two", tokens)));
            for (request, (key, tokens)) in (0_u64..).zip(requests.flat_map(|(one, two)| [one, two])) {
                queue.push(&owner(request, 0, Some(key)), vec![(*tokens, (key, *tokens))]);
            }
            let mut given = BTreeMap::from([("one", 0), ("two", 0)]);
            let mut waiting = BTreeMap::from([("one", 60), ("two", 60)]);
            while waiting.values().all(|count| *count > 0) {
                // In batches of this size nobody is owed anything for being overtaken.
                for (key, tokens) in queue.take(1) {
                    *given.get_mut(key).unwrap() += tokens;
                    *waiting.get_mut(key).unwrap() -= 1;
                }
                if queue.overtaken >= OVERTAKING_BATCHES {
                    queue.overtaken = 0;
                }
                prop_assert!(given["one"].abs_diff(given["two"]) <= 100, "{:?}", given);
            }
        }
    }
}
