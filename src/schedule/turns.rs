//! When those who were turned away should come back: one after another, as fast as the device reads, and not all at once.
//!
//! There is room for one again as soon as one has left, and whoever is refused then could be told that moment. But so
//! would everyone be, and all but one in vain. So the refused get turns: each comes back when those who were refused before
//! it will have been read. Nothing is held for them, and whoever comes meanwhile takes what is free.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The longest turn, in seconds. Where much more is asked than can be read, waiting longer does not help the one who
/// waits; and Cohere's clients, among others, follow no `Retry-After` above 30 s.
const LONGEST: f64 = 30.0;
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

    fn seconds(turns: &mut Turns, caller: Option<&str>, now: Instant) -> f64 {
        turns.give(caller.map(Arc::from).as_ref(), 100, 100.0, now).as_secs_f64()
    }

    #[test]
    fn the_refused_come_back_one_after_another() {
        let (mut turns, start) = (Turns::default(), Instant::now());
        let first: Vec<f64> = (0..4).map(|_| seconds(&mut turns, None, start)).collect();
        assert_eq!(first, [0.0, 1.0, 2.0, 3.0]);
        // One and a half of the four have had their turns by then.
        let later = start + Duration::from_millis(1500);
        assert!((seconds(&mut turns, None, later) - 2.5).abs() < 1e-6);
        assert_eq!(seconds(&mut turns, None, start + Duration::from_secs(60)), 0.0, "all of them had, long ago");
    }

    #[test]
    fn who_would_wait_too_long_gets_a_turn_among_the_last() {
        let (mut turns, start) = (Turns::default(), Instant::now());
        let told: Vec<f64> = (0..331).map(|_| seconds(&mut turns, None, start)).collect();
        assert!(told.iter().all(|told| *told <= LONGEST));
        let mut many = [0; LONGEST as usize + 1];
        told.iter().for_each(|told| many[*told as usize] += 1);
        assert!(many[..=AGAIN_FROM as usize].iter().all(|many| *many == 1), "{many:?}");
        assert!(many[AGAIN_FROM as usize + 1..].iter().all(|many| (20..=21).contains(many)), "{many:?}");
        // A request larger than all turns is no exception.
        turns.give(None, 1_000_000, 100.0, start);
        assert!(seconds(&mut turns, None, start) <= LONGEST);
        assert_eq!(seconds(&mut turns, None, start + Duration::from_secs(31)), 0.0);
    }

    #[test]
    fn one_callers_crowd_does_not_stand_before_another_caller() {
        let (mut turns, start) = (Turns::default(), Instant::now());
        let many: Vec<f64> = (0..20).map(|_| seconds(&mut turns, Some("many"), start)).collect();
        assert_eq!(many[19], 19.0);
        assert_eq!(seconds(&mut turns, Some("few"), start), 0.0);
        assert_eq!(
            seconds(&mut turns, Some("few"), start),
            2.0,
            "they take turns, so the device is half as fast for each"
        );
        let later = start + Duration::from_secs(4);
        assert_eq!(seconds(&mut turns, Some("few"), later), 0.0);
        assert_eq!(turns.callers.len(), 2);
        assert_eq!(seconds(&mut turns, None, later + Duration::from_secs(60)), 0.0);
        assert_eq!(turns.callers.len(), 1, "who is through is forgotten");
    }
}
