//! Names and the addresses that were given for them.
//!
//! The addresses are out of 198.18.0.0/15, which leads nowhere (RFC 2544), and, for pods without IPv4, the same numbers
//! out of 2001:2::/48 (RFC 5180). Entries are never taken back: an address keeps its meaning for as long as a connection
//! to it can exist. So there is only so much room, and who asks for names must not be able to use up that of others:
//! names that the configuration spells out have room of their own, and every `*.suffix` has a share of the rest.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Instant,
};

use super::limit::Bucket;
use crate::config::Cover;

/// Names and the addresses that were given for them.
#[derive(Debug)]
pub struct Names {
    table: RwLock<Table>,
    questions: Mutex<Bucket>,
}

#[derive(Debug)]
struct Table {
    addresses: HashMap<Arc<str>, Ipv4Addr>,
    exact: Vec<Arc<str>>,
    below_suffix: Vec<Arc<str>>,
    shares: HashMap<Arc<str>, Share>,
}

/// What names below one suffix have used.
#[derive(Debug)]
struct Share {
    names: usize,
    fresh: Bucket,
}

impl Default for Names {
    fn default() -> Self {
        Self::new()
    }
}

impl Names {
    /// No name has an address yet.
    pub fn new() -> Self {
        let table =
            Table { addresses: HashMap::new(), exact: Vec::new(), below_suffix: Vec::new(), shares: HashMap::new() };
        Self { table: RwLock::new(table), questions: Mutex::new(Bucket::full(QUESTIONS_AT_ONCE, QUESTIONS_PER_SECOND)) }
    }

    /// Whether one more question may be answered now.
    pub fn may_ask(&self, now: Instant) -> bool {
        self.questions.lock().unwrap_or_else(PoisonError::into_inner).take(now)
    }

    /// The name that this address was given for.
    pub fn name_of(&self, ip: IpAddr) -> Option<Arc<str>> {
        let address = narrow(ip)?;
        // A panic can't leave the table half changed, so a poisoned lock is as good as a whole one.
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let at = |first, names: &[Arc<str>]| names.get(offset(first, address)?).cloned();
        at(FIRST_EXACT, &table.exact).or_else(|| at(FIRST_BELOW_SUFFIX, &table.below_suffix))
    }

    /// The address of this canonical name, new if need be. `None` when there is no more room for names that are covered
    /// like this one, or none at this pace: dropping an old name would let its address change its meaning.
    pub fn address_of(&self, name: &str, cover: Cover<'_>, now: Instant) -> Option<Ipv4Addr> {
        if let Some(known) = self.table.read().unwrap_or_else(PoisonError::into_inner).addresses.get(name) {
            return Some(*known);
        }
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = table.addresses.get(name) {
            return Some(*known);
        }
        table.give(name.into(), cover, now)
    }

    /// How many names have an address.
    #[cfg(test)]
    pub fn count(&self) -> usize {
        self.table.read().expect("whole").addresses.len()
    }
}

impl Table {
    fn give(&mut self, name: Arc<str>, cover: Cover<'_>, now: Instant) -> Option<Ipv4Addr> {
        let (first, names, room) = match cover {
            Cover::Exact => (FIRST_EXACT, &mut self.exact, EXACT),
            Cover::Suffix(suffix) => {
                let share = self.shares.entry(suffix.into()).or_insert_with(Share::new);
                if !share.take(now) {
                    return None;
                }
                (FIRST_BELOW_SUFFIX, &mut self.below_suffix, BELOW_SUFFIXES)
            }
        };
        let index = u32::try_from(names.len()).ok().filter(|_| names.len() < room)?;
        let address = Ipv4Addr::from(u32::from(first) + index);
        names.push(Arc::clone(&name));
        self.addresses.insert(name, address);
        Some(address)
    }
}

impl Share {
    fn new() -> Self {
        Self { names: 0, fresh: Bucket::full(FRESH_AT_ONCE, FRESH_PER_SECOND) }
    }

    fn take(&mut self, now: Instant) -> bool {
        let room = self.names < BELOW_ONE_SUFFIX && self.fresh.take(now);
        self.names += usize::from(room);
        room
    }
}

/// The IPv6 form of an address that was given.
pub fn wide(given: Ipv4Addr) -> Ipv6Addr {
    Ipv6Addr::from(u128::from(WIDE) | u128::from(u32::from(given)))
}

fn narrow(ip: IpAddr) -> Option<Ipv4Addr> {
    match ip.to_canonical() {
        IpAddr::V4(v4) => Some(v4),
        IpAddr::V6(v6) => {
            let [.., a, b, c, d] = v6.octets();
            let given = Ipv4Addr::new(a, b, c, d);
            (wide(given) == v6).then_some(given)
        }
    }
}

fn offset(first: Ipv4Addr, address: Ipv4Addr) -> Option<usize> {
    usize::try_from(u32::from(address).checked_sub(u32::from(first))?).ok()
}

/// The first addresses given. Those before them look like network addresses, which some clients refuse.
const FIRST_EXACT: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
const FIRST_BELOW_SUFFIX: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 1);

const WIDE: Ipv6Addr = Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, 0);

/// How many names that the configuration spells out can have an address. Only reloads add to them.
const EXACT: usize = 4096;

/// How many names below suffixes can have one, all together and for one suffix: what agents call is far less.
const BELOW_SUFFIXES: usize = 16 * 1024;
const BELOW_ONE_SUFFIX: usize = 1024;

/// How fast new names below one suffix may come.
const FRESH_AT_ONCE: u32 = 128;
const FRESH_PER_SECOND: u32 = 16;

/// How fast questions may come, of whatever kind. What resolvers in use ask is far less, also with their search lists.
const QUESTIONS_AT_ONCE: u32 = 8192;
const QUESTIONS_PER_SECOND: u32 = 2048;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn full_room_refuses_new_names_and_keeps_old_ones() {
        let (names, now) = (Names::new(), Instant::now());
        for number in 0..EXACT {
            assert!(names.address_of(&format!("{number}.example.com"), Cover::Exact, now).is_some());
        }
        assert_eq!(names.address_of("one-more.example.com", Cover::Exact, now), None);
        assert_eq!(names.address_of("0.example.com", Cover::Exact, now), Some(FIRST_EXACT));
    }

    #[test]
    fn a_suffix_uses_up_neither_exact_names_nor_other_suffixes() {
        let (names, mut now) = (Names::new(), Instant::now());
        let mut given = 0;
        for number in 0..4 * BELOW_ONE_SUFFIX {
            now += Duration::from_secs(1);
            given += usize::from(
                names.address_of(&format!("{number}.example.org"), Cover::Suffix(".example.org"), now).is_some(),
            );
        }
        assert_eq!(given, BELOW_ONE_SUFFIX);
        let other = names.address_of("a.example.net", Cover::Suffix(".example.net"), now).expect("a share of its own");
        assert_eq!(names.name_of(other.into()).as_deref(), Some("a.example.net"));
        assert_eq!(names.address_of("api.example.com", Cover::Exact, now), Some(FIRST_EXACT));
    }

    #[test]
    fn new_names_below_a_suffix_come_at_a_pace() {
        let (names, now) = (Names::new(), Instant::now());
        let ask = |number: u32, now| {
            names.address_of(&format!("{number}.example.org"), Cover::Suffix(".example.org"), now).is_some()
        };
        let given = (0..1000).filter(|number| ask(*number, now)).count();
        assert_eq!(given, FRESH_AT_ONCE as usize);
        assert!(ask(0, now), "a known name has no pace");
        assert!(ask(2000, now + Duration::from_secs(1)));
    }

    #[test]
    fn an_address_that_was_not_given_has_no_name() {
        let (names, now) = (Names::new(), Instant::now());
        names.address_of("api.example.com", Cover::Exact, now).expect("there is room");
        for ip in ["198.18.0.0", "198.18.0.2", "198.19.0.1", "198.20.0.1", "10.0.0.1", "::1", "2001:2::c612:2"] {
            assert_eq!(names.name_of(ip.parse().expect("an address")), None, "{ip}");
        }
        for ip in ["198.18.0.1", "::ffff:198.18.0.1", "2001:2::c612:1"] {
            let name = names.name_of(ip.parse().expect("an address"));
            assert_eq!(name.as_deref(), Some("api.example.com"), "{ip}");
        }
    }
}
