//! Families of attacks: each file has the attackers and the tests of one family.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
#![allow(unsafe_code)]

pub(crate) mod attacker;
mod blocked_extension;
mod blocking;
mod constraints;
mod dead_server;
mod descriptors;
mod dups;
mod fuse;
mod hopping;
mod many_sockets;
mod names;
mod namespaces;
mod rotation;
pub(crate) mod runner;
mod scan;
mod short_blocks;
mod tally;
mod threads;

/// The name of an attack, and the function that the attacker runs with its arguments.
type Attack = (&'static str, fn(&[String]) -> !);
/// The name of a test, and its function.
pub(crate) type Test = (&'static str, fn());

fn attacks() -> Vec<Attack> {
    [
        blocked_extension::ATTACKS,
        blocking::ATTACKS,
        constraints::ATTACKS,
        many_sockets::ATTACKS,
        dead_server::ATTACKS,
        descriptors::ATTACKS,
        dups::ATTACKS,
        hopping::ATTACKS,
        names::ATTACKS,
        namespaces::ATTACKS,
        rotation::ATTACKS,
        short_blocks::ATTACKS,
        threads::ATTACKS,
    ]
    .concat()
}

pub(crate) fn tests() -> Vec<Test> {
    [
        blocked_extension::TESTS,
        blocking::TESTS,
        constraints::TESTS,
        dead_server::TESTS,
        descriptors::TESTS,
        dups::TESTS,
        hopping::TESTS,
        names::TESTS,
        namespaces::TESTS,
        rotation::TESTS,
        short_blocks::TESTS,
        threads::TESTS,
    ]
    .concat()
}
