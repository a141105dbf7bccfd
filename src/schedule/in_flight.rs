//! Requests and tokens in flight: in total, per client, and per device, priority and client.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::client::Client;

/// Requests in flight, and the tokens that the device has yet to read for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Usage {
    pub requests: usize,
    pub tokens: usize,
}

/// The client, priority and device that a request's tokens are counted under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Account {
    pub client: Client,
    /// 0 is the most urgent.
    pub priority: u16,
    /// Name of the device that runs the request.
    pub device: Arc<str>,
}

/// All requests in flight.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    total: Usage,
    /// Named clients only: anonymous requests are not limited to a share.
    clients: HashMap<Client, Usage>,
    /// Tokens per device, then priority, then client. Entries without tokens are removed.
    devices: HashMap<Arc<str>, BTreeMap<u16, HashMap<Client, usize>>>,
}

impl InFlight {
    /// Requests and tokens of all clients.
    pub fn total(&self) -> Usage {
        self.total
    }

    /// Usage of a named client with requests in flight; `None` for the anonymous client.
    pub fn of_client(&self, client: &Client) -> Option<Usage> {
        self.clients.get(client).copied()
    }

    /// Adds a request of `tokens` tokens.
    pub fn add(&mut self, account: &Account, tokens: usize) {
        self.total.requests += 1;
        if account.client.name().is_some() {
            self.clients.entry(account.client.clone()).or_default().requests += 1;
        }
        self.update(account, 0, tokens);
    }

    /// Changes the tokens of a request from `from` to `to`.
    pub fn update(&mut self, account: &Account, from: usize, to: usize) {
        let change = |tokens: &mut usize| *tokens = (*tokens + to).saturating_sub(from);
        change(&mut self.total.tokens);
        if let Some(usage) = self.clients.get_mut(&account.client) {
            change(&mut usage.tokens);
        }
        let device = self.devices.entry(Arc::clone(&account.device)).or_default();
        let class = device.entry(account.priority).or_default();
        change(class.entry(account.client.clone()).or_default());
        class.retain(|_, tokens| *tokens > 0);
        device.retain(|_, class| !class.is_empty());
    }

    /// Removes a request that has `tokens` tokens left.
    pub fn release(&mut self, account: &Account, tokens: usize) {
        self.update(account, tokens, 0);
        self.total.requests = self.total.requests.saturating_sub(1);
        if let Some(usage) = self.clients.get_mut(&account.client) {
            usage.requests = usage.requests.saturating_sub(1);
            if usage.requests == 0 {
                self.clients.remove(&account.client);
            }
        }
    }

    /// Tokens that the device reads before it has read a request of `tokens` tokens, of which
    /// `counted` are in flight already: all tokens of more urgent requests, those of the same
    /// client, and of every other client as many as fair queueing gives it meanwhile.
    pub fn tokens_ahead(&self, account: &Account, counted: usize, tokens: usize) -> usize {
        let Some(device) = self.devices.get(&account.device) else { return 0 };
        let urgent = device.range(..account.priority).flat_map(|(_, class)| class.values()).sum::<usize>();
        let Some(class) = device.get(&account.priority) else { return urgent };
        let own = class.get(&account.client).copied().unwrap_or(0).saturating_sub(counted);
        let others = class.iter().filter(|(client, _)| **client != account.client);
        urgent + own + others.map(|(_, theirs)| (*theirs).min(own + tokens)).sum::<usize>()
    }

    /// Whether no request has tokens left for a device.
    pub fn is_idle(&self, device: &str) -> bool {
        self.devices.get(device).is_none_or(BTreeMap::is_empty)
    }

    /// Tokens of all devices, to check that the counts agree.
    #[cfg(test)]
    pub fn device_tokens(&self) -> usize {
        self.devices.values().flat_map(BTreeMap::values).flat_map(HashMap::values).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(client: Client, priority: u16, device: &str) -> Account {
        Account { client, priority, device: device.into() }
    }

    #[test]
    fn only_tokens_of_the_same_device_are_ahead() {
        let mut in_flight = InFlight::default();
        in_flight.add(&account(Client::anonymous(), 0, "cuda"), 500);
        in_flight.add(&account(Client::named("other"), 0, "cpu"), 70);
        let own = account(Client::anonymous(), 0, "cpu");
        assert_eq!(in_flight.tokens_ahead(&own, 0, 100), 70);
        assert_eq!(in_flight.tokens_ahead(&own, 0, 20), 20, "fair queueing gives the other client 20");
        assert_eq!(in_flight.total(), Usage { requests: 2, tokens: 570 });
    }
}
