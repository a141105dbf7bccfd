//! When those who were turned away should come back: one after another, as fast as the device reads, and not all at once.
//!
//! There is room for one again as soon as one has left, and whoever is refused then could be told that moment. But so
//! would everyone be, and all but one in vain. So the refused get turns: each comes back when those who were refused before
//! it will have been read. Nothing is held for them, and whoever comes meanwhile takes what is free.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The longest turn, in seconds. Where much more is asked than can be read, waiting longer does not help the one who
/// waits; and `OpenAI`'s clients, among others, follow no `Retry-After` above a minute.
const LONGEST: f64 = 60.0;
/// Where turns begin again that would be longer: from here on they are spread up to the longest, so that a crowd that is
/// larger than that does not come back in one moment either.
const AGAIN_FROM: f64 = LONGEST / 2.0;

/// Tokens of the refused requests that have not had their turn yet, by caller.
#[derive(Debug, Default)]
pub(super) struct Turns {
    callers: HashMap<Option<Arc<str>>, f64>,
    /// When they were last counted.
    counted: Option<Instant>,
}

impl Turns {
    /// How long the refused request of so many tokens should wait for those of its caller that were refused before it.
    /// `rate` is the tokens that the device reads in a second; callers share it, as they share the device.
    pub fn give(&mut self, caller: Option<&Arc<str>>, tokens: usize, rate: f64, now: Instant) -> Duration {
        self.pass(rate, now);
        let waiting = self.callers.entry(caller.cloned()).or_default();
        let before = *waiting;
        *waiting += tokens as f64;
        let rate = rate / self.callers.len() as f64;
        let (longest, again_from) = (LONGEST * rate, AGAIN_FROM * rate);
        for waiting in self.callers.values_mut().filter(|waiting| **waiting > longest) {
            *waiting = again_from + (*waiting - longest) % (longest - again_from);
        }
        Duration::from_secs_f64((before / rate).min(LONGEST))
    }

    /// Counts the turns off that have passed since the last time.
    fn pass(&mut self, rate: f64, now: Instant) {
        let seconds = self.counted.map_or(0.0, |counted| now.saturating_duration_since(counted).as_secs_f64());
        self.counted = Some(now);
        let read = seconds * rate / self.callers.len().max(1) as f64;
        self.callers.retain(|_, waiting| {
            *waiting -= read;
            *waiting > 0.0
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the next of many equal requests is told, of which the device reads one a second, in milliseconds.
    fn give(turns: &mut Turns, caller: Option<&str>, now: Instant) -> u128 {
        turns.give(caller.map(Arc::from).as_ref(), 100, 100.0, now).as_millis()
    }

    #[test]
    fn the_refused_come_back_one_after_another() {
        let (mut turns, start) = (Turns::default(), Instant::now());
        let told: Vec<u128> = (0..4).map(|_| give(&mut turns, None, start)).collect();
        assert_eq!(told, [0, 1000, 2000, 3000]);
        let later = start + Duration::from_millis(1500);
        assert_eq!(give(&mut turns, None, later), 2500, "one and a half of the four have had their turns");
        assert_eq!(give(&mut turns, None, start + Duration::from_secs(90)), 0, "all of them had, long ago");
    }

    #[test]
    fn who_would_wait_too_long_gets_a_turn_among_the_last() {
        let (mut turns, start) = (Turns::default(), Instant::now());
        let mut told = [0; LONGEST as usize + 1];
        for _ in 0..661 {
            told[give(&mut turns, None, start) as usize / 1000] += 1;
        }
        let (alone, shared) = told.split_at(AGAIN_FROM as usize + 1);
        assert!(alone.iter().all(|many| *many == 1), "{told:?}");
        assert!(shared.iter().all(|many| (20..=22).contains(many)), "{told:?}");
        // A request larger than all turns is no exception.
        turns.give(None, 1_000_000, 100.0, start);
        assert!(give(&mut turns, None, start) <= 60_000);
        assert_eq!(give(&mut turns, None, start + Duration::from_secs(61)), 0);
    }

    #[test]
    fn one_callers_crowd_does_not_stand_before_another_caller() {
        let (mut turns, start) = (Turns::default(), Instant::now());
        let many: Vec<u128> = (0..20).map(|_| give(&mut turns, Some("many"), start)).collect();
        assert_eq!(many.last(), Some(&19_000));
        assert_eq!(give(&mut turns, Some("few"), start), 0);
        assert_eq!(give(&mut turns, Some("few"), start), 2000, "two share the device: it is half as fast for each");
        let later = start + Duration::from_secs(4);
        assert_eq!(give(&mut turns, Some("few"), later), 0);
        assert_eq!(turns.callers.len(), 2);
        assert_eq!(give(&mut turns, None, later + Duration::from_secs(60)), 0);
        assert_eq!(turns.callers.len(), 1, "who is through is forgotten");
    }
}
