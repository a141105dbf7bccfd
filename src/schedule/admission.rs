//! Admission control: which requests the process accepts, and when rejected ones should retry.
//!
//! The schedulers of all models share one [`AdmissionControl`], so the limits on requests and
//! tokens hold for the process. A request counts with an estimate of its tokens when it arrives,
//! with the exact number once it is tokenized, and with less after each pass that has run. Waiting
//! times come from the measured throughput of the request's own device.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use super::device::Device;
use super::in_flight::{Account, InFlight, Usage};
use super::retry_pacing::RetryPacing;
use super::settings::ScheduleSettings;
use super::throughput::Throughput;
use crate::rerank::{Full, RerankError};

/// Bounds of `Retry-After`: at least a second, so that clients do not retry in a busy loop.
const MIN_RETRY_AFTER: Duration = Duration::from_secs(1);
const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// Admission control of one process: the settings in force, the requests in flight and the devices.
/// Clones share all of it.
#[derive(Debug, Clone)]
pub struct AdmissionControl(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    settings: RwLock<ScheduleSettings>,
    state: Mutex<AdmissionState>,
    /// By name. The models of one device share its entry.
    devices: Mutex<BTreeMap<String, Arc<Device>>>,
    /// Requests admitted so far.
    admitted: AtomicU64,
}

impl AdmissionControl {
    /// Admission control without any request in flight.
    #[must_use]
    pub fn new(settings: &ScheduleSettings) -> Self {
        Self(Arc::new(Shared {
            settings: RwLock::new(settings.clone()),
            state: Mutex::default(),
            devices: Mutex::default(),
            admitted: AtomicU64::new(0),
        }))
    }

    /// The settings in force.
    #[must_use]
    pub fn settings(&self) -> ScheduleSettings {
        self.0.settings.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the settings, for all models. Requests in flight stay admitted.
    pub fn reconfigure(&self, settings: &ScheduleSettings) {
        settings.clone_into(&mut self.0.settings.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// The device of this name, as [`crate::runtime::ModelFacts::device`] has it.
    pub(super) fn device(&self, name: &str) -> Arc<Device> {
        let mut devices = self.0.devices.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(devices.entry(name.to_owned()).or_insert_with(|| Arc::new(Device::new(name))))
    }

    pub(super) fn state(&self) -> MutexGuard<'_, AdmissionState> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number for an admitted request, larger than that of every request before it.
    pub(super) fn next_sequence(&self) -> u64 {
        self.0.admitted.fetch_add(1, Ordering::Relaxed)
    }
}

/// The counts and retry slots that admission depends on.
#[derive(Debug, Default)]
pub(super) struct AdmissionState {
    pub in_flight: InFlight,
    /// By device: rejected requests, spread over the time in which the device could read them.
    pacing: HashMap<Arc<str>, RetryPacing>,
}

/// An `AdmissionRequest` with its account, its tokens capped at the limit on all requests.
pub(super) struct Applicant<'a> {
    pub account: &'a Account,
    /// Estimate of the tokens that the device will read for it.
    pub tokens: usize,
    /// Time until its own deadline.
    pub time_left: Option<Duration>,
}

/// The limit that keeps a request out, and the time until the requests in flight leave room for it.
type Obstacle = (Full, Duration);

impl AdmissionState {
    /// Admits a request, or returns the limit that it would exceed and the time after which to
    /// retry: the time until there is room, and the time in which the device reads the requests
    /// that were rejected before.
    ///
    /// # Errors
    /// [`RerankError::Overloaded`].
    pub fn try_admit(
        &mut self,
        applicant: &Applicant<'_>,
        settings: &ScheduleSettings,
        throughput: &Throughput,
        now: Instant,
    ) -> Result<(), RerankError> {
        let Applicant { account, tokens, .. } = *applicant;
        if let Some((full, until_room)) = self.find_obstacle(applicant, settings, throughput) {
            let pacing = self.pacing.entry(Arc::clone(&account.device)).or_default();
            let slot = throughput.get().map(|rate| pacing.next_retry_slot(&account.client, tokens, rate, now));
            let retry_after = (until_room + slot.unwrap_or_default()).clamp(MIN_RETRY_AFTER, MAX_RETRY_AFTER);
            return Err(RerankError::Overloaded { full, retry_after });
        }
        self.in_flight.add(account, tokens);
        Ok(())
    }

    fn find_obstacle(
        &self,
        applicant: &Applicant<'_>,
        settings: &ScheduleSettings,
        throughput: &Throughput,
    ) -> Option<Obstacle> {
        let Applicant { account, tokens, time_left } = *applicant;
        let blocked_until_read = |full, tokens| Some((full, throughput.time_for_or_default(tokens)));
        let Usage { requests, tokens: queued } = self.in_flight.total();
        let after = Usage { requests: requests + 1, tokens: queued + tokens };
        let (max_requests, max_tokens) = (settings.max_queued_requests, settings.max_queued_tokens);
        if after.requests > max_requests {
            let mean_tokens = queued.div_ceil(requests.max(1));
            return blocked_until_read(Full::Requests { queued: requests, limit: max_requests }, mean_tokens);
        }
        if after.tokens > max_tokens {
            let full = Full::Tokens { queued, asked: tokens, limit: max_tokens };
            return blocked_until_read(full, after.tokens - max_tokens);
        }
        let free = Usage { requests: max_requests - after.requests, tokens: max_tokens - after.tokens };
        if let Some((full, tokens)) = self.exceeds_client_share(applicant, free) {
            return blocked_until_read(full, tokens);
        }
        let limit = [settings.max_wait(), time_left].into_iter().flatten().min()?;
        let wait = throughput.time_for(self.in_flight.tokens_ahead(account, 0, tokens))?;
        (wait > limit).then(|| (Full::Wait { wait, limit }, wait.saturating_sub(limit)))
    }

    /// The limit, if a named client would hold more than it leaves free for others, with the tokens
    /// that the device reads until it would not. A client's only request may take everything that
    /// is free.
    fn exceeds_client_share(&self, applicant: &Applicant<'_>, free: Usage) -> Option<(Full, usize)> {
        let held = self.in_flight.of_client(&applicant.account.client)?;
        let full = Full::Share { requests: held.requests, tokens: held.tokens };
        if held.requests + 1 > free.requests {
            return Some((full, held.tokens.div_ceil(held.requests.max(1))));
        }
        // Each token that the device reads is one less held and one more free.
        let tokens = held.tokens + applicant.tokens;
        (tokens > free.tokens).then(|| (full, (tokens - free.tokens).div_ceil(2)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::schedule::Client;

    fn settings(max_queued_requests: usize, max_queued_tokens: usize, max_wait_seconds: u64) -> ScheduleSettings {
        ScheduleSettings { max_queued_requests, max_queued_tokens, max_wait_seconds, ..ScheduleSettings::for_tests() }
    }

    fn account(client: Option<&str>, priority: u16) -> Account {
        Account { client: client.map(Arc::from).into(), priority, device: "cpu".into() }
    }

    fn measured(tokens_per_second: usize) -> Throughput {
        let throughput = Throughput::default();
        throughput.record(tokens_per_second, Duration::from_secs(1));
        throughput
    }

    /// Admission under fixed settings and a measured throughput, at a fixed time.
    struct Fixture {
        state: AdmissionState,
        settings: ScheduleSettings,
        throughput: Throughput,
        now: Instant,
    }

    impl Fixture {
        fn new(settings: ScheduleSettings) -> Self {
            let (state, throughput, now) = (AdmissionState::default(), measured(10), Instant::now());
            Self { state, settings, throughput, now }
        }

        fn try_admit_before(
            &mut self,
            account: &Account,
            tokens: usize,
            time_left: Option<Duration>,
        ) -> Result<(), RerankError> {
            let applicant = Applicant { account, tokens, time_left };
            self.state.try_admit(&applicant, &self.settings, &self.throughput, self.now)
        }

        fn try_admit(&mut self, account: &Account, tokens: usize) -> Result<(), RerankError> {
            self.try_admit_before(account, tokens, None)
        }

        fn rejection(&mut self, account: &Account, tokens: usize) -> (Full, u64) {
            rejection(self.try_admit(account, tokens))
        }

        fn total(&self) -> Usage {
            self.state.in_flight.total()
        }

        fn release(&mut self, account: &Account, tokens: usize) {
            self.state.in_flight.release(account, tokens);
        }
    }

    fn rejection(result: Result<(), RerankError>) -> (Full, u64) {
        match result {
            Err(RerankError::Overloaded { full, retry_after }) => (full, retry_after.as_secs()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_rejected_request_learns_when_its_tokens_will_fit() {
        let mut control = Fixture::new(settings(8, 1000, 0));
        let anonymous = account(None, 0);
        control.try_admit(&anonymous, 1000).unwrap();
        let full = Full::Tokens { queued: 1000, asked: 300, limit: 1000 };
        assert_eq!(control.rejection(&anonymous, 300), (full, 30));
        control.state.in_flight.update(&anonymous, 1000, 700);
        control.try_admit(&anonymous, 300).unwrap();
        assert_eq!(control.total(), Usage { requests: 2, tokens: 1000 });
        control.release(&anonymous, 700);
        control.release(&anonymous, 300);
        assert_eq!(control.total(), Usage::default());
    }

    #[test]
    fn a_request_that_would_wait_too_long_is_rejected_at_once() {
        let mut control = Fixture::new(settings(8, 10_000, 60));
        let anonymous = account(None, 1);
        control.try_admit(&anonymous, 5000).unwrap();
        let wait = |limit| Full::Wait { wait: Duration::from_secs(500), limit: Duration::from_secs(limit) };
        assert_eq!(control.rejection(&anonymous, 10), (wait(60), 440));
        let time_left = Some(Duration::from_secs(2));
        // One second more: the request that was rejected first retries before.
        assert_eq!(rejection(control.try_admit_before(&anonymous, 10, time_left)), (wait(2), 499));
        // A more urgent request, and another client's small one, do not wait for the 5000 tokens.
        control.try_admit_before(&account(None, 0), 10, time_left).unwrap();
        control.try_admit_before(&account(Some("other"), 1), 10, time_left).unwrap();
        // Without a measured throughput the wait is unknown.
        control.throughput = Throughput::default();
        control.try_admit_before(&anonymous, 10, time_left).unwrap();
    }

    #[test]
    fn a_named_client_leaves_as_much_free_as_it_holds() {
        let mut control = Fixture::new(settings(8, 1000, 0));
        let (one, other) = (account(Some("one"), 0), account(Some("other"), 0));
        control.try_admit(&one, 300).unwrap();
        control.try_admit(&one, 200).unwrap();
        assert_eq!(control.rejection(&one, 40), (Full::Share { requests: 2, tokens: 500 }, 4));
        control.try_admit(&other, 500).unwrap();
        control.release(&one, 300);
        control.release(&one, 200);
        for _ in 0..3 {
            control.try_admit(&one, 1).unwrap();
        }
        let full = Full::Share { requests: 3, tokens: 3 };
        // A tenth of a second, after the four that the request rejected before takes.
        assert_eq!(control.rejection(&one, 1), (full, 4));
        control.release(&other, 500);
        control.try_admit(&one, 1).unwrap();
    }

    #[test]
    fn a_clients_share_counts_its_requests_on_every_device() {
        let mut control = Fixture::new(settings(8, 1000, 0));
        let first = account(Some("one"), 0);
        let second = Account { device: "cuda".into(), ..first.clone() };
        control.try_admit(&first, 500).unwrap();
        assert_eq!(control.rejection(&second, 100).0, Full::Share { requests: 1, tokens: 500 });
    }

    #[test]
    fn anonymous_requests_may_use_every_place() {
        let mut control = Fixture::new(settings(8, 1000, 0));
        for _ in 0..8 {
            control.try_admit(&account(None, 0), 125).unwrap();
        }
    }

    #[test]
    fn rejected_requests_retry_one_after_another_and_other_clients_do_not_delay_them() {
        let mut control = Fixture::new(settings(2, 1000, 0));
        for _ in 0..2 {
            control.try_admit(&account(None, 0), 20).unwrap();
        }
        // Two seconds until one has left, and two for each request rejected before.
        let anonymous = account(None, 0);
        assert_eq!([0; 3].map(|_| control.rejection(&anonymous, 20).1), [2, 4, 6]);
        assert_eq!(control.rejection(&account(Some("other"), 0), 20).1, 2);
        control.now += Duration::from_secs(60);
        assert_eq!(control.rejection(&anonymous, 20).1, 2);
    }

    #[test]
    fn a_crowd_that_follows_retry_after_is_admitted_on_its_second_try() {
        // The device reads one request a second, and four may be in flight.
        let mut control = Fixture::new(settings(4, 100_000, 0));
        control.throughput = measured(100);
        let (start, anonymous) = (control.now, account(None, 0));
        let mut arrivals = BTreeMap::from([(0, vec!["first try"; 40])]);
        let (mut retries, mut admitted_retries) = (0, 0);
        for second in 0..60 {
            if control.total().requests > 0 && second > 0 {
                control.release(&anonymous, 100);
            }
            for attempt in arrivals.remove(&second).unwrap_or_default() {
                control.now = start + Duration::from_secs(second);
                retries += usize::from(attempt == "retry");
                match control.try_admit(&anonymous, 100) {
                    Ok(()) => admitted_retries += usize::from(attempt == "retry"),
                    Err(RerankError::Overloaded { retry_after, .. }) => {
                        let wait = retry_after.as_secs_f64().ceil() as u64;
                        arrivals.entry(second + wait).or_default().push("retry");
                    }
                    Err(other) => panic!("{other}"),
                }
            }
        }
        assert_eq!((retries, admitted_retries, control.total().requests), (36, 36, 0));
    }

    proptest! {
        /// With nothing in flight a request that can fit at all is admitted, the limits hold, and
        /// released requests leave no counts behind.
        #[test]
        fn counts_agree_and_limits_hold(visits in prop::collection::vec((0_u16..3, 0_usize..3, 0_usize..600), 1..60)) {
            let mut control = Fixture::new(settings(10, 1000, 30));
            let mut inside = Vec::new();
            for (priority, client, tokens) in visits {
                let account = account(["a", "b"].get(client).copied(), priority);
                let alone = inside.is_empty();
                if control.try_admit(&account, tokens).is_ok() {
                    inside.push((account, tokens));
                } else {
                    prop_assert!(!alone);
                    let (account, tokens) = inside.remove(tokens % inside.len());
                    control.release(&account, tokens);
                }
                let tokens = inside.iter().map(|(_, tokens)| tokens).sum::<usize>();
                prop_assert_eq!(control.total(), Usage { requests: inside.len(), tokens });
                prop_assert!(inside.len() <= 10 && tokens <= 1000);
                prop_assert_eq!(control.state.in_flight.device_tokens(), tokens);
            }
            for (account, tokens) in inside {
                control.release(&account, tokens);
            }
            prop_assert_eq!(control.total(), Usage::default());
            prop_assert_eq!(control.state.in_flight.device_tokens(), 0);
            prop_assert!(["a", "b"].iter().all(|name| control.state.in_flight.of_client(&Client::named(*name)).is_none()));
        }
    }
}
