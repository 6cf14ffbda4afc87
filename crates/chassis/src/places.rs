//! Who may connect, and the bounds on connections: in all, and from one address.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::networks::{self, Networks};

/// The places for connections: one for each connection that may be open.
#[derive(Debug)]
pub struct Places {
    all: Arc<Semaphore>,
    by_address: Mutex<HashMap<IpAddr, usize>>,
    max_by_address: usize,
    /// The networks that may connect; if there are none, all may.
    allowed: Networks,
}

/// The place of one connection. Dropping it makes the place free again.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    address: IpAddr,
    _one_of_all: OwnedSemaphorePermit,
}

impl Places {
    /// Places for this many connections in all, and this many from one address, for peers in the networks
    /// of `allowed`, or for all peers if there are none.
    #[must_use]
    pub fn new(max: usize, max_by_address: usize, allowed: Networks) -> Arc<Self> {
        let all = Arc::new(Semaphore::new(max.clamp(1, Semaphore::MAX_PERMITS)));
        Arc::new(Self { all, by_address: Mutex::default(), max_by_address, allowed })
    }

    /// Whether peers at this address may connect.
    #[must_use]
    pub fn allow(&self, address: IpAddr) -> bool {
        self.allowed.is_empty() || self.allowed.contain(address)
    }

    /// Waits until one of the places for all connections is free, and takes that place.
    pub async fn one_of_all(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.all).acquire_owned().await.ok()
    }

    /// Gives a connection from `address` a place, or `None` if that address has no more places. The addresses of one
    /// IPv6 network of 64 bits count as one, since a host chooses among them.
    pub fn take(self: &Arc<Self>, one_of_all: OwnedSemaphorePermit, address: IpAddr) -> Option<Place> {
        let address = networks::host(address);
        let mut by_address = self.by_address.lock();
        let taken = by_address.entry(address).or_default();
        if *taken >= self.max_by_address {
            return None;
        }
        *taken += 1;
        Some(Place { places: Arc::clone(self), address, _one_of_all: one_of_all })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut by_address = self.places.by_address.lock();
        if let Some(taken) = by_address.get_mut(&self.address) {
            *taken -= 1;
            if *taken == 0 {
                by_address.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn places_are_bounded_and_come_back() {
        let places = Places::new(3, 2, Networks::default());
        let (a, b) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2]));
        let first = places.take(places.one_of_all().await.unwrap(), a).unwrap();
        let _second = places.take(places.one_of_all().await.unwrap(), a).unwrap();
        assert!(places.take(places.one_of_all().await.unwrap(), a).is_none());
        let _other = places.take(places.one_of_all().await.unwrap(), b).unwrap();
        assert!(places.all.clone().try_acquire_owned().is_err());
        drop(first);
        assert!(places.take(places.one_of_all().await.unwrap(), a).is_some());
    }

    /// Bug: a host took a place for each of the addresses of its IPv6 network.
    #[tokio::test]
    async fn the_addresses_that_a_host_chooses_among_count_as_one() {
        let places = Places::new(9, 1, Networks::default());
        for (one, other) in [("2001:db8::1", "2001:db8::2"), ("::ffff:10.0.0.1", "10.0.0.1")] {
            let [one, other] = [one, other].map(|address| address.parse().unwrap());
            let _first = places.take(places.one_of_all().await.unwrap(), one).unwrap();
            assert!(places.take(places.one_of_all().await.unwrap(), other).is_none());
        }
    }
}
