//! Reads a table back out of the kernel, and holds it against what is meant.
//!
//! Nothing may be missing, more, elsewhere or switched off: each of these lets something out that the table as it is
//! meant does not.

use std::io;

use super::{
    Failure, encode,
    netlink::{Attributes, PacketFilter, Request, attribute, says_all},
    table::{Chain, Table},
};

/// How a table is found in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// As it is meant.
    Whole,
    /// Not at all.
    Absent,
    /// Otherwise, and where.
    Differs(String),
}

/// How this table stands in the network namespace of this thread.
///
/// # Errors
/// As [`super::apply`].
pub fn standing(table: &Table) -> Result<Standing, Failure> {
    let filter = PacketFilter::connect()?;
    let tables = filter.list(&Request::new(encode::GET_TABLE, 0, Attributes::default()))?;
    let Some(found) = tables.iter().find(|found| says(found, encode::TABLE_NAME, table.name)) else {
        return Ok(Standing::Absent);
    };
    // A dormant table is listed with all of its rules, and none of them is looked at.
    if attribute(found, encode::TABLE_FLAGS) != Some(&NO_FLAGS[..]) {
        return Ok(Standing::Differs("it is switched off, or has another flag".to_owned()));
    }
    let mut chains = filter.list(&Request::new(encode::GET_CHAIN, 0, Attributes::default()))?;
    chains.retain(|chain| says(chain, encode::CHAIN_TABLE, table.name));
    if chains.len() != table.chains.len() {
        return Ok(Standing::Differs(format!("there are {} chains", chains.len())));
    }
    for chain in &table.chains {
        if let Some(how) = difference(&filter, table.name, chain, &chains)? {
            return Ok(Standing::Differs(format!("chain {}: {how}", chain.name)));
        }
    }
    Ok(Standing::Whole)
}

/// How a chain differs from what stands in the kernel.
fn difference(filter: &PacketFilter, table: &str, chain: &Chain, all: &[Vec<u8>]) -> io::Result<Option<String>> {
    let Some(theirs) = all.iter().find(|theirs| says(theirs, encode::CHAIN_NAME, chain.name)) else {
        return Ok(Some("there is none".to_owned()));
    };
    if !says_all(theirs, &encode::of_chain(table, chain)) {
        return Ok(Some("its hook, priority or policy is another".to_owned()));
    }
    let rules = filter.list(&Request::new(encode::GET_RULE, 0, encode::of_rules(table, chain)))?;
    if rules.len() != chain.rules.len() {
        return Ok(Some(format!("there are {} rules", rules.len())));
    }
    let other = chain.rules.iter().zip(&rules).find(|(ours, theirs)| {
        let list = encode::expressions(ours);
        !attribute(theirs, encode::RULE_EXPRESSIONS).is_some_and(|found| says_all(found, &list))
    });
    Ok(other.map(|(rule, _)| format!("`{rule}` is another rule")))
}

/// Whether what the kernel listed has this text for an attribute.
fn says(listed: &[u8], kind: u16, text: &str) -> bool {
    attribute(listed, kind).and_then(|value| value.strip_suffix(&[0])) == Some(text.as_bytes())
}

const NO_FLAGS: [u8; 4] = [0; 4];
