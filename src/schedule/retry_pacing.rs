//! Retry pacing: when rejected requests should retry, one after another at the device's throughput.
//!
//! There is room for one request as soon as another has left. If every rejected client were given
//! that moment, all would retry at once and all but one in vain. So each rejected request gets a
//! retry slot behind the slots of those rejected before it. Slots reserve nothing: a request that
//! arrives meanwhile is admitted if there is room.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::client::Client;

/// The latest slot, in seconds from now. A longer wait does not help a client when demand stays far
/// above throughput, and several clients (`OpenAI`'s among them) ignore a `Retry-After` of more
/// than a minute.
const LATEST_SLOT: f64 = 60.0;
/// Slots that would lie beyond the latest one start again from here, so that a crowd too large for
/// all slots is spread over the second half of the minute.
const WRAP_TO: f64 = LATEST_SLOT / 2.0;

/// Tokens of rejected requests whose retry slot is still to come, per client.
#[derive(Debug, Default)]
pub(super) struct RetryPacing {
    clients: HashMap<Client, f64>,
    updated_at: Option<Instant>,
}

impl RetryPacing {
    /// Time until the retry slot of a rejected request of `tokens` tokens, behind the slots of the
    /// same client. `rate` is the device's throughput in tokens a second, which clients share.
    pub fn next_retry_slot(&mut self, client: &Client, tokens: usize, rate: f64, now: Instant) -> Duration {
        self.remove_past_slots(rate, now);
        let pending = self.clients.entry(client.clone()).or_default();
        let before = *pending;
        *pending += tokens as f64;
        let rate = rate / self.clients.len() as f64;
        let (latest, wrap_to) = (LATEST_SLOT * rate, WRAP_TO * rate);
        for pending in self.clients.values_mut().filter(|pending| **pending > latest) {
            *pending = wrap_to + (*pending - latest) % (latest - wrap_to);
        }
        Duration::from_secs_f64((before / rate).min(LATEST_SLOT))
    }

    fn remove_past_slots(&mut self, rate: f64, now: Instant) {
        let seconds = self.updated_at.map_or(0.0, |updated| now.saturating_duration_since(updated).as_secs_f64());
        self.updated_at = Some(now);
        let past = seconds * rate / self.clients.len().max(1) as f64;
        self.clients.retain(|_, pending| {
            *pending -= past;
            *pending > 0.0
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Milliseconds until the slot of a request, of which the device reads one a second.
    fn next_slot(pacing: &mut RetryPacing, client: &Client, now: Instant) -> u128 {
        pacing.next_retry_slot(client, 100, 100.0, now).as_millis()
    }

    #[test]
    fn rejected_requests_get_one_slot_after_another() {
        let (mut pacing, start, anonymous) = (RetryPacing::default(), Instant::now(), Client::anonymous());
        assert_eq!([0; 4].map(|_| next_slot(&mut pacing, &anonymous, start)), [0, 1000, 2000, 3000]);
        let later = start + Duration::from_millis(1500);
        assert_eq!(next_slot(&mut pacing, &anonymous, later), 2500, "one and a half of the four slots are past");
        assert_eq!(next_slot(&mut pacing, &anonymous, start + Duration::from_secs(90)), 0, "all slots are past");
    }

    #[test]
    fn slots_beyond_the_latest_are_spread_over_the_second_half() {
        let (mut pacing, start, anonymous) = (RetryPacing::default(), Instant::now(), Client::anonymous());
        let mut requests_by_second = [0; LATEST_SLOT as usize + 1];
        for _ in 0..661 {
            requests_by_second[next_slot(&mut pacing, &anonymous, start) as usize / 1000] += 1;
        }
        let (first_half, second_half) = requests_by_second.split_at(WRAP_TO as usize + 1);
        assert!(first_half.iter().all(|requests| *requests == 1), "{requests_by_second:?}");
        assert!(second_half.iter().all(|requests| (20..=22).contains(requests)), "{requests_by_second:?}");
        // A request larger than all slots is no exception.
        pacing.next_retry_slot(&anonymous, 1_000_000, 100.0, start);
        assert!(next_slot(&mut pacing, &anonymous, start) <= 60_000);
        assert_eq!(next_slot(&mut pacing, &anonymous, start + Duration::from_secs(61)), 0);
    }

    #[test]
    fn a_crowd_of_one_client_does_not_delay_another_client() {
        let (mut pacing, start) = (RetryPacing::default(), Instant::now());
        let (many, few) = (Client::named("many"), Client::named("few"));
        let slots: Vec<u128> = (0..20).map(|_| next_slot(&mut pacing, &many, start)).collect();
        assert_eq!(slots.last(), Some(&19_000));
        assert_eq!(next_slot(&mut pacing, &few, start), 0);
        assert_eq!(next_slot(&mut pacing, &few, start), 2000, "each of two clients has half the throughput");
        let later = start + Duration::from_secs(4);
        assert_eq!(next_slot(&mut pacing, &few, later), 0);
        assert_eq!(pacing.clients.len(), 2);
        assert_eq!(next_slot(&mut pacing, &few, later + Duration::from_secs(60)), 0);
        assert_eq!(pacing.clients.len(), 1, "clients without pending slots are forgotten");
    }
}
