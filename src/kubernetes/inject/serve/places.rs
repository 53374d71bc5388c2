//! Who may have how many connections: all together, and each address by itself.
//!
//! The cluster asks over a few connections from a few addresses. Whoever else can reach the webhook must not be able to
//! take all of its connections.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

/// The connections of each address.
#[derive(Debug, Default)]
pub struct Places {
    taken: Mutex<HashMap<IpAddr, usize>>,
}

/// A connection's place. It is free again when this is dropped.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    address: IpAddr,
}

impl Places {
    /// A place for a connection from this address, unless it has as many as one may have.
    pub fn take(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let address = address.to_canonical();
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.entry(address).or_default();
        if *count >= MOST_OF_ONE {
            return None;
        }
        *count += 1;
        Some(Place { places: Arc::clone(self), address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.address);
            }
        }
    }
}

/// API servers that reach the webhook by one address, such as a tunnel's, have fewer.
pub const MOST_OF_ONE: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_address_takes_more_than_its_share() {
        let places = Arc::new(Places::default());
        let (one, other): (IpAddr, IpAddr) = ("192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap());
        let mut held: Vec<Place> = (0..MOST_OF_ONE).map(|_| places.take(one).unwrap()).collect();
        assert!(places.take(one).is_none());
        assert!(places.take("::ffff:192.0.2.1".parse().unwrap()).is_none());
        assert!(places.take(other).is_some());
        held.pop();
        held.push(places.take(one).unwrap());
        assert!(places.take(one).is_none());
        drop(held);
        assert!(places.taken.lock().unwrap().is_empty());
    }
}
