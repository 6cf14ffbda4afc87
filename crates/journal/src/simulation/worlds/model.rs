//! What a journal promises, as plainly as it can be said.

use std::collections::BTreeMap;

use crate::{Row, State};

/// The logs of a world.
pub(super) const LOGS: usize = 2;
const NAMES: [&str; LOGS] = ["even", "odd"];

/// Sets several keys to one value at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Put {
    pub(super) keys: Vec<u64>,
    pub(super) value: u64,
    /// How many bytes the value brings with it.
    pub(super) length: usize,
}

/// The values of a log by key.
pub(super) type Values = BTreeMap<u64, u64>;

/// A log of values by key.
#[derive(Debug, Default)]
pub(super) struct Shelf<const LOG: usize> {
    values: BTreeMap<u64, (Row, u64)>,
}

impl<const LOG: usize> Shelf<LOG> {
    pub(super) fn values(&self) -> Values {
        self.values.iter().map(|(key, (_, value))| (*key, *value)).collect()
    }
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Set {
    #[prost(uint64, tag = "1")]
    key: u64,
    #[prost(uint64, tag = "2")]
    value: u64,
    #[prost(bytes = "vec", tag = "3")]
    ballast: Vec<u8>,
}

impl<const LOG: usize> State for Shelf<LOG> {
    const LOG: &'static str = NAMES[LOG];
    type Change = Set;
    type Command = Put;
    type Outcome = u64;
    type Staged = ();

    fn decide(&self, (): &mut (), Put { keys, value, length }: Put, changes: &mut Vec<Set>) -> u64 {
        let set = |key| Set { key, value, ballast: vec![value as u8; length] };
        changes.extend(keys.into_iter().map(set));
        value
    }

    fn apply(&mut self, Set { key, value, .. }: Set, row: Row) {
        self.values.insert(key, (row, value));
    }

    fn is_live(&self, change: &Set, row: Row) -> bool {
        self.values.get(&change.key).is_some_and(|(at, value)| (*at, *value) == (row, change.value))
    }

    fn capacity(&self) -> u64 {
        2 * self.values.len() as u64 + 16
    }
}

/// The values that all logs must have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Model {
    pub(super) values: [Values; LOGS],
}

impl Model {
    pub(super) fn put(&mut self, log: usize, put: &Put) {
        self.values[log].extend(put.keys.iter().map(|key| (*key, put.value)));
    }

    pub(super) fn with(&self, puts: &[(usize, Put)]) -> Self {
        let mut with = self.clone();
        puts.iter().for_each(|(log, put)| with.put(*log, put));
        with
    }
}
