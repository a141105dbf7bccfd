//! The order of passes: examples, and properties that hold for every order of arrival.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;

fn tag(sequence: u64, priority: u16, client: Option<&str>) -> RequestTag {
    RequestTag { sequence, priority, client: client.map(Arc::from).into() }
}

/// Queues a request with one pass, whose value is the request's number.
fn push(queue: &mut FairQueue<u64>, request: u64, priority: u16, client: Option<&str>, tokens: usize) {
    queue.push(tag(request, priority, client), vec![(tokens, request)]);
}

/// The requests in order, taken one pass at a time.
fn take_single_passes(queue: &mut FairQueue<u64>) -> Vec<u64> {
    std::iter::from_fn(|| queue.take_batch(1).pop()).collect()
}

/// The requests in order, in batches so large that no request is overtaken for too long.
fn take_large_batches(queue: &mut FairQueue<u64>) -> Vec<u64> {
    let mut all = Vec::new();
    while queue.passes() > 0 {
        all.extend(queue.take_batch(1_000_000));
    }
    all
}

#[test]
fn urgent_requests_run_first_and_equal_ones_in_order_of_arrival() {
    let mut queue = FairQueue::default();
    for (request, priority) in [(1, 999), (2, 5), (3, 0), (4, 5), (5, 0)] {
        push(&mut queue, request, priority, None, 10);
    }
    assert_eq!(take_large_batches(&mut queue), [3, 5, 2, 4, 1]);
}

#[test]
fn a_short_request_overtakes_a_long_one_that_came_before_it() {
    let mut queue = FairQueue::default();
    queue.push(tag(1, 0, None), (0..10).map(|pass| (100, 10 + pass)).collect());
    assert_eq!(queue.take_batch(100), [10]);
    push(&mut queue, 2, 0, None, 50);
    assert_eq!(queue.take_batch(100), [2], "it does not fit beside the next long pass");
    assert_eq!(take_large_batches(&mut queue), (11..20).collect::<Vec<u64>>());
    assert_eq!((queue.passes(), queue.tokens()), (0, 0));
}

#[test]
fn clients_with_many_and_with_few_requests_alternate() {
    let mut queue = FairQueue::default();
    for request in 1..=6 {
        push(&mut queue, request, 0, Some("many"), 10);
    }
    push(&mut queue, 7, 0, Some("few"), 10);
    push(&mut queue, 8, 0, None, 10);
    push(&mut queue, 9, 0, Some("few"), 10);
    assert_eq!(take_large_batches(&mut queue), [1, 7, 8, 2, 9, 3, 4, 5, 6]);
}

#[test]
fn an_idle_client_does_not_save_up() {
    let mut queue = FairQueue::default();
    for request in 1..=10 {
        push(&mut queue, request, 0, Some("stays"), 10);
    }
    assert_eq!((0..5).flat_map(|_| queue.take_batch(10)).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    for request in 11..=13 {
        push(&mut queue, request, 0, Some("comes"), 10);
    }
    assert_eq!(take_large_batches(&mut queue), [11, 6, 12, 7, 13, 8, 9, 10]);
}

#[test]
fn a_removed_request_no_longer_counts() {
    let mut queue = FairQueue::default();
    queue.push(tag(1, 0, None), vec![(10, 1), (20, 2)]);
    queue.push(tag(2, 0, None), vec![(5, 3)]);
    assert_eq!(queue.remove(1), [1, 2]);
    assert_eq!(queue.remove(7), [0; 0], "an unknown request");
    assert_eq!((queue.passes(), queue.tokens()), (1, 5));
    assert_eq!(take_single_passes(&mut queue), [3]);
}

#[test]
fn the_least_urgent_request_gets_its_share_while_urgent_ones_keep_arriving() {
    let mut queue = FairQueue::default();
    queue.push(tag(0, 999, None), (0..20).map(|_| (10, 0)).collect());
    let mut served = 0;
    for request in 1..=100 {
        push(&mut queue, request, 0, None, 10);
        served += queue.take_batch(10).into_iter().filter(|request| *request == 0).count();
    }
    // Four batches overtake it first; of the others, every fifth is its own.
    assert_eq!(served, 96 / 5 + 1);
}

#[derive(Debug, Clone)]
enum Event {
    Push { priority: u16, client: u8, passes: Vec<usize> },
    Take(usize),
    Remove(prop::sample::Index),
}

fn event() -> impl Strategy<Value = Event> {
    let pass = 1_usize..60;
    prop_oneof![
        3 => (0_u16..3, 0_u8..3, prop::collection::vec(pass, 1..5))
            .prop_map(|(priority, client, passes)| Event::Push { priority, client, passes }),
        4 => (1_usize..100).prop_map(Event::Take),
        1 => any::<prop::sample::Index>().prop_map(Event::Remove),
    ]
}

proptest! {
    /// For every order of events: a batch is empty only if the queue is, batches keep to their
    /// limit, peeking shows the batch that is taken, every pass runs once and in its request's
    /// order or is removed with it, and the counts are right.
    #[test]
    fn no_pass_is_lost_and_no_batch_is_empty_while_passes_wait(events in prop::collection::vec(event(), 1..120)) {
        let mut queue = FairQueue::default();
        let mut left: BTreeMap<u64, VecDeque<usize>> = BTreeMap::new();
        for (request, event) in (0_u64..).zip(events.into_iter().chain(vec![Event::Take(100); 500])) {
            match event {
                Event::Push { priority, client, passes } => {
                    let client = ["a", "b"].get(usize::from(client)).copied();
                    let items = passes.iter().map(|tokens| (*tokens, (request, *tokens))).collect();
                    queue.push(tag(request, priority, client), items);
                    left.insert(request, passes.into());
                }
                Event::Take(limit) => {
                    let peeked: Vec<_> = queue.peek_batch(limit).into_iter().copied().collect();
                    let batch = queue.take_batch(limit);
                    prop_assert_eq!(&peeked, &batch);
                    prop_assert_eq!(batch.is_empty(), left.is_empty());
                    let tokens: usize = batch.iter().map(|(_, tokens)| tokens).sum();
                    prop_assert!(tokens <= limit || batch.len() == 1);
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

    /// Within one client and priority, only a shorter request overtakes another, and only if it
    /// arrives before the client has been served as many tokens as the longer one has. Requests of
    /// equal length therefore run in order of arrival.
    #[test]
    fn only_shorter_requests_overtake_and_not_for_long(arrivals in prop::collection::vec((1_usize..100, 0_usize..3), 1..60)) {
        let mut queue = FairQueue::default();
        let mut order = Vec::new();
        let mut served_before = Vec::new();
        let length = |request: u64| arrivals[request as usize].0;
        let take = |queue: &mut FairQueue<u64>, order: &mut Vec<u64>| {
            // One pass at a time, without the share that an overtaken request gets.
            order.extend(queue.take_batch(1));
            queue.overtaken_tokens = 0;
        };
        for (request, (tokens, takes)) in (0_u64..).zip(&arrivals) {
            served_before.push(order.iter().map(|request| length(*request)).sum::<usize>());
            push(&mut queue, request, 0, None, *tokens);
            (0..*takes).for_each(|_| take(&mut queue, &mut order));
        }
        while queue.passes() > 0 {
            take(&mut queue, &mut order);
        }
        for (index, request) in order.iter().enumerate() {
            for overtaker in order[..index].iter().filter(|other| *other > request) {
                prop_assert!(length(*overtaker) < length(*request));
                let served = served_before[*overtaker as usize] - served_before[*request as usize];
                prop_assert!(served < length(*request));
            }
        }
    }

    /// However many urgent requests of other clients keep arriving: a request has run when at most
    /// five times its tokens, and a few batches, have.
    #[test]
    fn no_request_starves(
        passes in prop::collection::vec(1_usize..100, 1..10),
        priority in 0_u16..1000,
        others in prop::collection::vec((0_u16..3, 1_usize..100), 2000),
    ) {
        let batch = 100;
        let tokens: usize = passes.iter().sum();
        let mut queue = FairQueue::default();
        queue.push(tag(0, priority, Some("patient")), passes.iter().map(|tokens| (*tokens, (0, *tokens))).collect());
        let (mut left, mut run) = (passes.len(), 0);
        for (request, (priority, tokens)) in (1_u64..).zip(others) {
            let client = ["a", "b", "c"][request as usize % 3];
            queue.push(tag(request, priority, Some(client)), vec![(tokens, (request, tokens)); 2]);
            for (request, tokens) in queue.take_batch(batch) {
                run += tokens;
                left -= usize::from(request == 0);
            }
            if left == 0 {
                break;
            }
        }
        prop_assert_eq!(left, 0);
        prop_assert!(run <= 5 * tokens + (MAX_OVERTAKING_BATCHES + 2) * batch, "{} for {}", run, tokens);
    }

    /// Two clients that always have passes waiting are served the same, up to one pass of each.
    #[test]
    fn clients_are_served_equally(ones in prop::collection::vec(1_usize..100, 60), twos in prop::collection::vec(1_usize..100, 60)) {
        let mut queue = FairQueue::default();
        let requests = ones.iter().map(|tokens| ("one", tokens)).zip(twos.iter().map(|tokens| ("two", tokens)));
        for (request, (client, tokens)) in (0_u64..).zip(requests.flat_map(|(one, two)| [one, two])) {
            queue.push(tag(request, 0, Some(client)), vec![(*tokens, (client, *tokens))]);
        }
        let mut served = BTreeMap::from([("one", 0), ("two", 0)]);
        let mut waiting = BTreeMap::from([("one", 60), ("two", 60)]);
        while waiting.values().all(|count| *count > 0) {
            // Without the share that an overtaken request gets.
            for (client, tokens) in queue.take_batch(1) {
                *served.get_mut(client).unwrap() += tokens;
                *waiting.get_mut(client).unwrap() -= 1;
            }
            if queue.overtaken_tokens >= MAX_OVERTAKING_BATCHES {
                queue.overtaken_tokens = 0;
            }
            prop_assert!(served["one"].abs_diff(served["two"]) <= 100, "{:?}", served);
        }
    }
}
