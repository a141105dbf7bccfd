//! Who has been let in, and who is let in next: the book that admission is decided by.
//!
//! A request is booked with the tokens that the model will read for it: an estimate at the door, exact once it is
//! tokenised, and less with every pass that has run.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::rate::Rate;
use super::settings::ScheduleSettings;
use super::turns::Turns;
use crate::rerank::{Full, RerankError};

/// The refused come back after a second at least, so that nobody hammers, and within an hour.
const SOONEST: Duration = Duration::from_secs(1);
const LATEST: Duration = Duration::from_secs(3600);

/// The requests that are accepted and unanswered.
#[derive(Debug, Default)]
pub(super) struct House {
    total: Holding,
    keys: HashMap<Arc<str>, Holding>,
    /// Tokens by priority and caller.
    levels: BTreeMap<u16, HashMap<Option<Arc<str>>, usize>>,
    /// Those who were not let in.
    turns: Turns,
}

/// A request at the door, or what is known of one inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Guest {
    pub key: Option<Arc<str>>,
    pub priority: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Holding {
    pub requests: usize,
    pub tokens: usize,
}

impl House {
    /// Requests inside and their tokens.
    pub fn total(&self) -> Holding {
        self.total
    }

    /// Lets a request of so many tokens in, or says what is in the way and when to come back: when that will be over, and
    /// those who were refused before will have had their turns. `patience` is how long it can wait at all.
    ///
    /// A key may hold no more than it leaves free, so that one client cannot fill the house; its first request may take
    /// all that is free.
    pub fn enter(
        &mut self,
        guest: &Guest,
        tokens: usize,
        settings: &ScheduleSettings,
        rate: &Rate,
        patience: Option<Duration>,
        now: Instant,
    ) -> Result<(), RerankError> {
        if let Err((full, room)) = self.find_room(guest, tokens, settings, rate, patience) {
            let turn = rate.get().map(|rate| self.turns.give(guest.key.as_ref(), tokens, rate, now));
            let retry_after = (room + turn.unwrap_or_default()).clamp(SOONEST, LATEST);
            return Err(RerankError::Overloaded { full, retry_after });
        }
        self.total.requests += 1;
        if let Some(key) = &guest.key {
            self.keys.entry(Arc::clone(key)).or_default().requests += 1;
        }
        self.book(guest, 0, tokens);
        Ok(())
    }

    /// What is in the way of a request, and when it will be over, as far as those inside are concerned.
    fn find_room(
        &self,
        guest: &Guest,
        tokens: usize,
        settings: &ScheduleSettings,
        rate: &Rate,
        patience: Option<Duration>,
    ) -> Result<(), (Full, Duration)> {
        let refuse = |full, to_be_read| Err((full, rate.time_for(to_be_read)));
        let Holding { requests, tokens: queued } = self.total;
        let after = Holding { requests: requests + 1, tokens: queued + tokens };
        let (max_requests, max_tokens) = (settings.max_queued_requests, settings.max_queued_tokens);
        let mean = queued.div_ceil(requests.max(1));
        if after.requests > max_requests {
            return refuse(Full::Requests { queued: requests, limit: max_requests }, mean);
        }
        if after.tokens > max_tokens {
            return refuse(Full::Tokens { queued, asked: tokens, limit: max_tokens }, after.tokens - max_tokens);
        }
        if let Some(held) = guest.key.as_ref().and_then(|key| self.keys.get(key)) {
            let (free_requests, free_tokens) = (max_requests - after.requests, max_tokens - after.tokens);
            let full = Full::Share { requests: held.requests, tokens: held.tokens };
            if held.requests + 1 > free_requests {
                return refuse(full, held.tokens.div_ceil(held.requests.max(1)));
            }
            // Each token that is read is one less held and one more free.
            if held.tokens + tokens > free_tokens {
                return refuse(full, (held.tokens + tokens - free_tokens).div_ceil(2));
            }
        }
        let limit = [settings.max_wait(), patience].into_iter().flatten().min();
        match rate.seconds_for(self.ahead(guest, 0, tokens)).zip(limit) {
            Some((wait, limit)) if wait > limit => Err((Full::Wait { wait, limit }, wait.saturating_sub(limit))),
            Some(_) | None => Ok(()),
        }
    }

    /// Changes what a request inside is booked with.
    pub fn book(&mut self, guest: &Guest, from: usize, to: usize) {
        let change = |tokens: &mut usize| *tokens = (*tokens + to).saturating_sub(from);
        change(&mut self.total.tokens);
        if let Some(held) = guest.key.as_ref().and_then(|key| self.keys.get_mut(key)) {
            change(&mut held.tokens);
        }
        let level = self.levels.entry(guest.priority).or_default();
        change(level.entry(guest.key.clone()).or_default());
        level.retain(|_, tokens| *tokens > 0);
        self.levels.retain(|_, level| !level.is_empty());
    }

    /// A request that is booked with so many tokens leaves.
    pub fn leave(&mut self, guest: &Guest, tokens: usize) {
        self.book(guest, tokens, 0);
        self.total.requests = self.total.requests.saturating_sub(1);
        if let Some(key) = &guest.key
            && let Some(held) = self.keys.get_mut(key)
        {
            held.requests = held.requests.saturating_sub(1);
            if held.requests == 0 {
                self.keys.remove(key);
            }
        }
    }

    /// Tokens that are read before the request's own `tokens` are, of which `booked` are booked already: those of more
    /// urgent requests, those of the same caller, and of every other caller as many as it gets in its turns.
    pub fn ahead(&self, guest: &Guest, booked: usize, tokens: usize) -> usize {
        let urgent = self.levels.range(..guest.priority).flat_map(|(_, level)| level.values()).sum::<usize>();
        let Some(level) = self.levels.get(&guest.priority) else { return urgent };
        let own = level.get(&guest.key).copied().unwrap_or(0).saturating_sub(booked);
        let others = level.iter().filter(|(key, _)| **key != guest.key);
        urgent + own + others.map(|(_, theirs)| (*theirs).min(own + tokens)).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn settings(max_queued_requests: usize, max_queued_tokens: usize, max_wait_seconds: u64) -> ScheduleSettings {
        ScheduleSettings {
            max_queued_requests,
            max_queued_tokens,
            max_wait_seconds,
            max_batch_tokens: 100,
            timeout_seconds: 0,
            stall_seconds: 0,
        }
    }

    fn guest(key: Option<&str>, priority: u16) -> Guest {
        Guest { key: key.map(Arc::from), priority }
    }

    fn measured(tokens_per_second: usize) -> Rate {
        let rate = Rate::default();
        rate.record(tokens_per_second, Duration::from_secs(1));
        rate
    }

    fn refusal(result: Result<(), RerankError>) -> (Full, u64) {
        match result {
            Err(RerankError::Overloaded { full, retry_after }) => (full, retry_after.as_secs()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_does_not_fit_is_told_when_it_will() {
        let (now, rate, settings) = (Instant::now(), measured(10), settings(8, 1000, 0));
        let mut house = House::default();
        let nobody = guest(None, 0);
        house.enter(&nobody, 1000, &settings, &rate, None, now).unwrap();
        let full = Full::Tokens { queued: 1000, asked: 300, limit: 1000 };
        assert_eq!(refusal(house.enter(&nobody, 300, &settings, &rate, None, now)), (full, 30));
        house.book(&nobody, 1000, 700);
        house.enter(&nobody, 300, &settings, &rate, None, now).unwrap();
        assert_eq!(house.total(), Holding { requests: 2, tokens: 1000 });
        house.leave(&nobody, 700);
        house.leave(&nobody, 300);
        assert_eq!(house.total(), Holding::default());
    }

    #[test]
    fn who_would_wait_too_long_is_refused_at_once() {
        let (now, rate, settings) = (Instant::now(), measured(10), settings(8, 10_000, 60));
        let mut house = House::default();
        let nobody = guest(None, 1);
        house.enter(&nobody, 5000, &settings, &rate, None, now).unwrap();
        let wait = |limit| Full::Wait { wait: Duration::from_secs(500), limit: Duration::from_secs(limit) };
        assert_eq!(refusal(house.enter(&nobody, 10, &settings, &rate, None, now)), (wait(60), 440));
        let patience = Some(Duration::from_secs(2));
        // One second more: the first one's turn comes before.
        assert_eq!(refusal(house.enter(&nobody, 10, &settings, &rate, patience, now)), (wait(2), 499));
        // A more urgent one, and another caller with little, do not have to wait for it.
        house.enter(&guest(None, 0), 10, &settings, &rate, patience, now).unwrap();
        house.enter(&guest(Some("other"), 1), 10, &settings, &rate, patience, now).unwrap();
        // Without a measured rate nobody can tell.
        house.enter(&nobody, 10, &settings, &Rate::default(), patience, now).unwrap();
    }

    #[test]
    fn a_key_leaves_as_much_free_as_it_holds() {
        let (now, rate, settings) = (Instant::now(), measured(10), settings(8, 1000, 0));
        let mut house = House::default();
        let (one, other) = (guest(Some("one"), 0), guest(Some("other"), 0));
        house.enter(&one, 300, &settings, &rate, None, now).unwrap();
        house.enter(&one, 200, &settings, &rate, None, now).unwrap();
        let full = Full::Share { requests: 2, tokens: 500 };
        assert_eq!(refusal(house.enter(&one, 40, &settings, &rate, None, now)), (full, 4));
        house.enter(&other, 500, &settings, &rate, None, now).unwrap();
        house.leave(&one, 300);
        house.leave(&one, 200);
        for _ in 0..3 {
            house.enter(&one, 1, &settings, &rate, None, now).unwrap();
        }
        let full = Full::Share { requests: 3, tokens: 3 };
        // A tenth of a second, behind the four that the refused one before takes.
        assert_eq!(refusal(house.enter(&one, 1, &settings, &rate, None, now)), (full.clone(), 4));
        house.leave(&other, 500);
        house.enter(&one, 1, &settings, &rate, None, now).unwrap();
        // Callers without a key share all there is.
        let mut house = House::default();
        for _ in 0..8 {
            house.enter(&guest(None, 0), 125, &settings, &rate, None, now).unwrap();
        }
    }

    #[test]
    fn the_refused_are_told_to_come_one_after_another_and_those_of_other_keys_do_not_count() {
        let (now, rate, settings) = (Instant::now(), measured(10), settings(2, 1000, 0));
        let mut house = House::default();
        for _ in 0..2 {
            house.enter(&guest(None, 0), 20, &settings, &rate, None, now).unwrap();
        }
        let mut told = |key, now| {
            let (_, seconds) = refusal(house.enter(&guest(key, 0), 20, &settings, &rate, None, now));
            seconds
        };
        // Two seconds until one has left, and two for each who was refused before.
        assert_eq!([told(None, now), told(None, now), told(None, now)], [2, 4, 6]);
        assert_eq!(told(Some("other"), now), 2);
        assert_eq!(told(None, now + Duration::from_secs(60)), 2);
    }

    #[test]
    fn a_crowd_that_does_as_it_is_told_gets_in_when_it_comes_back() {
        // The device reads one request a second, and four have room.
        let (start, rate, settings, nobody) = (Instant::now(), measured(100), settings(4, 100_000, 0), guest(None, 0));
        let mut house = House::default();
        let mut coming = BTreeMap::from([(0, vec!["new"; 40])]);
        let (mut returned, mut let_in) = (0, 0);
        for second in 0..60 {
            if house.total().requests > 0 && second > 0 {
                house.leave(&nobody, 100);
            }
            for who in coming.remove(&second).unwrap_or_default() {
                let now = start + Duration::from_secs(second);
                returned += usize::from(who == "back");
                match house.enter(&nobody, 100, &settings, &rate, None, now) {
                    Ok(()) => let_in += usize::from(who == "back"),
                    Err(RerankError::Overloaded { retry_after, .. }) => {
                        let wait = retry_after.as_secs_f64().ceil() as u64;
                        coming.entry(second + wait).or_default().push("back");
                    }
                    Err(other) => panic!("{other}"),
                }
            }
        }
        assert_eq!((returned, let_in, house.total().requests), (36, 36, 0));
    }

    proptest! {
        /// An empty house takes whatever fits at all, the limits hold, and who has left leaves nothing behind.
        #[test]
        fn the_book_adds_up(visits in prop::collection::vec((0_u16..3, 0_usize..3, 0_usize..600), 1..60)) {
            let (now, rate, settings) = (Instant::now(), measured(10), settings(10, 1000, 30));
            let mut house = House::default();
            let mut inside = Vec::new();
            for (priority, key, tokens) in visits {
                let guest = guest(["a", "b"].get(key).copied(), priority);
                let alone = inside.is_empty();
                if house.enter(&guest, tokens, &settings, &rate, None, now).is_ok() {
                    inside.push((guest, tokens));
                } else {
                    prop_assert!(!alone);
                    let (guest, tokens) = inside.remove(tokens % inside.len());
                    house.leave(&guest, tokens);
                }
                let tokens = inside.iter().map(|(_, tokens)| tokens).sum::<usize>();
                prop_assert_eq!(house.total(), Holding { requests: inside.len(), tokens });
                prop_assert!(inside.len() <= 10 && tokens <= 1000);
                prop_assert_eq!(house.levels.values().flat_map(HashMap::values).sum::<usize>(), tokens);
            }
            for (guest, tokens) in inside {
                house.leave(&guest, tokens);
            }
            prop_assert_eq!(house.total(), Holding::default());
            prop_assert!(house.keys.is_empty() && house.levels.is_empty());
        }
    }
}
