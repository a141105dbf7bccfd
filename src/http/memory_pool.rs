//! Memory that clients share: a client may hold as much as it leaves free for others.
//!
//! The rule is that of admission control. A client's only permit may take everything that is free.
//! Requests without an API key belong to one anonymous client, which may hold everything.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::context::Client;

/// A limit on bytes, and who holds them. Clones share it.
#[derive(Debug, Clone)]
pub struct MemoryPool(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// In bytes.
    limit: usize,
    state: Mutex<PoolState>,
    /// Notified when memory is given back, and when a client stops waiting.
    changed: Notify,
}

#[derive(Debug, Default)]
struct PoolState {
    /// Bytes of all permits.
    held: usize,
    /// Clients that hold memory or wait for it.
    clients: HashMap<Client, ClientUsage>,
    next_ticket: u64,
}

#[derive(Debug, Default)]
struct ClientUsage {
    /// Permits that hold at least one byte.
    permits: usize,
    /// Bytes of these permits.
    bytes: usize,
    /// Tickets of the client's requests that wait for memory, in order of arrival.
    waiting: VecDeque<u64>,
}

/// Why there is no memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryExceeded {
    /// All clients together would hold more than the limit.
    Total,
    /// The client, which holds these bytes, would hold more than it leaves free.
    Share(usize),
}

/// Bytes that a client holds; given back when it is dropped.
#[derive(Debug)]
pub struct PoolPermit {
    pool: MemoryPool,
    client: Client,
    bytes: usize,
}

/// A request's place among those of its client that wait; given up when it is dropped.
struct Ticket<'a> {
    pool: &'a MemoryPool,
    client: &'a Client,
    number: u64,
}

impl MemoryPool {
    /// A pool of `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self(Arc::new(Shared { limit, state: Mutex::default(), changed: Notify::new() }))
    }

    /// A permit of `client` that holds nothing yet.
    #[must_use]
    pub fn empty_permit(&self, client: &Client) -> PoolPermit {
        PoolPermit { pool: self.clone(), client: client.clone(), bytes: 0 }
    }

    /// Takes `bytes` for `client`. If they are not free, it waits up to `max_wait`, behind the
    /// requests of the same client that wait, and never behind those of others.
    ///
    /// # Errors
    /// [`MemoryExceeded`] after `max_wait`.
    pub async fn acquire(
        &self,
        client: &Client,
        bytes: usize,
        max_wait: Duration,
    ) -> Result<PoolPermit, MemoryExceeded> {
        let deadline = Instant::now() + max_wait;
        let mut permit = self.empty_permit(client);
        let ticket = self.wait_in_line(client);
        let mut obstacle = MemoryExceeded::Total;
        loop {
            let changed = self.0.changed.notified();
            if ticket.is_first() {
                match permit.grow(bytes) {
                    Ok(()) => return Ok(permit),
                    Err(exceeded) => obstacle = exceeded,
                }
            }
            timeout_at(deadline, changed).await.map_err(|_| obstacle)?;
        }
    }

    fn wait_in_line<'a>(&'a self, client: &'a Client) -> Ticket<'a> {
        let mut state = self.state();
        let number = state.next_ticket;
        state.next_ticket += 1;
        state.clients.entry(client.clone()).or_default().waiting.push_back(number);
        Ticket { pool: self, client, number }
    }

    fn state(&self) -> MutexGuard<'_, PoolState> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PoolState {
    /// Removes the client's entry if it neither holds memory nor waits for it.
    fn remove_if_idle(&mut self, client: &Client) {
        if self.clients.get(client).is_some_and(|usage| usage.permits == 0 && usage.waiting.is_empty()) {
            self.clients.remove(client);
        }
    }
}

impl PoolPermit {
    /// Takes memory up to `bytes` in all.
    ///
    /// # Errors
    /// [`MemoryExceeded`]; the permit then holds what it held before.
    pub fn grow(&mut self, bytes: usize) -> Result<(), MemoryExceeded> {
        let missing = bytes.saturating_sub(self.bytes);
        if missing == 0 {
            return Ok(());
        }
        let limit = self.pool.0.limit;
        let mut state = self.pool.state();
        let held = state.held.checked_add(missing).filter(|held| *held <= limit).ok_or(MemoryExceeded::Total)?;
        let usage = state.clients.entry(self.client.clone()).or_default();
        let others = usage.permits - usize::from(self.bytes > 0);
        if self.client.name().is_some() && others > 0 && usage.bytes + missing > limit - held {
            return Err(MemoryExceeded::Share(usage.bytes));
        }
        usage.permits = others + 1;
        usage.bytes += missing;
        state.held = held;
        self.bytes = bytes;
        Ok(())
    }

    /// Gives all memory back.
    pub fn release(&mut self) {
        if self.bytes == 0 {
            return;
        }
        let mut state = self.pool.state();
        state.held -= self.bytes;
        if let Some(usage) = state.clients.get_mut(&self.client) {
            usage.permits -= 1;
            usage.bytes -= self.bytes;
        }
        state.remove_if_idle(&self.client);
        drop(state);
        self.bytes = 0;
        self.pool.0.changed.notify_waiters();
    }
}

impl Drop for PoolPermit {
    fn drop(&mut self) {
        self.release();
    }
}

impl Ticket<'_> {
    fn is_first(&self) -> bool {
        let state = self.pool.state();
        state.clients.get(self.client).and_then(|usage| usage.waiting.front()) == Some(&self.number)
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let mut state = self.pool.state();
        if let Some(usage) = state.clients.get_mut(self.client) {
            usage.waiting.retain(|number| *number != self.number);
        }
        state.remove_if_idle(self.client);
        drop(state);
        self.pool.0.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    const WAIT: Duration = Duration::from_secs(3600);

    fn try_take(pool: &MemoryPool, client: &Client, bytes: usize) -> Result<PoolPermit, MemoryExceeded> {
        let mut permit = pool.empty_permit(client);
        permit.grow(bytes).map(|()| permit)
    }

    #[test]
    fn a_named_client_holds_no_more_than_it_leaves_free_and_its_only_permit_may_take_everything() {
        let (pool, one, other) = (MemoryPool::new(100), Client::named("one"), Client::named("other"));
        let held = [try_take(&pool, &one, 25).unwrap(), try_take(&pool, &one, 25).unwrap()];
        assert_eq!(try_take(&pool, &one, 1).unwrap_err(), MemoryExceeded::Share(50));
        let whole_rest = try_take(&pool, &other, 50).unwrap();
        assert_eq!(try_take(&pool, &other, 1).unwrap_err(), MemoryExceeded::Total);
        drop((held, whole_rest));
        let mut alone = try_take(&pool, &one, 60).unwrap();
        alone.grow(100).unwrap();
        alone.release();
        assert!(pool.state().clients.is_empty() && pool.state().held == 0);
    }

    #[test]
    fn the_anonymous_client_may_hold_everything() {
        let (pool, anonymous) = (MemoryPool::new(100), Client::anonymous());
        let _held: Vec<_> = (0..10).map(|_| try_take(&pool, &anonymous, 10).unwrap()).collect();
        assert_eq!(try_take(&pool, &anonymous, 1).unwrap_err(), MemoryExceeded::Total);
    }

    #[tokio::test]
    async fn a_client_waits_behind_its_own_requests_and_not_behind_those_of_others() {
        let (pool, one, other) = (MemoryPool::new(100), Client::named("one"), Client::named("other"));
        let held = pool.acquire(&one, 50, WAIT).await.unwrap();
        let mut large = Box::pin(pool.acquire(&one, 30, WAIT));
        let mut small = Box::pin(pool.acquire(&one, 1, WAIT));
        assert!(large.as_mut().now_or_never().is_none() && small.as_mut().now_or_never().is_none());
        drop(pool.acquire(&other, 50, WAIT).now_or_never().unwrap().unwrap());
        drop(held);
        assert_eq!(large.await.unwrap().bytes, 30);
        assert_eq!(small.await.unwrap().bytes, 1);
        assert!(pool.state().clients.is_empty(), "{pool:?}");
    }

    #[tokio::test]
    async fn whoever_stops_waiting_lets_the_next_one_pass() {
        let (pool, one) = (MemoryPool::new(100), Client::named("one"));
        let _held = pool.acquire(&one, 40, WAIT).await.unwrap();
        let mut large = Box::pin(pool.acquire(&one, 30, WAIT));
        let mut small = Box::pin(pool.acquire(&one, 5, WAIT));
        assert!(large.as_mut().now_or_never().is_none() && small.as_mut().now_or_never().is_none());
        drop(large);
        assert_eq!(small.await.unwrap().bytes, 5);
        let refused = pool.acquire(&one, 30, Duration::ZERO).await.unwrap_err();
        assert_eq!(refused, MemoryExceeded::Share(40));
    }
}
