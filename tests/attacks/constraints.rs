//! Queries with constraints during attacks.

use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::{UnixListener, UnixStream};

use proptest::proptest;

use super::attacker::Attacker;
use super::rotation::{Rotation, attackers_directory};
use super::scan::{sources, table};
use super::{Attack, Test, runner};
use crate::support::conditions::{answer, check, condition, config, database};

pub(super) const ATTACKS: &[Attack] = &[];

pub(super) const TESTS: &[Test] =
    &[("constraints_change_no_answer_under_attack", constraints_change_no_answer)];

/// Checks the rows of the test's sockets, which do not change: the table must return those that SQLite selects from
/// the whole answer.
fn constraints_change_no_answer() {
    let directory = tempfile::tempdir().unwrap();
    let four = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let six = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
    let _connected =
        (TcpStream::connect(four.local_addr().unwrap()).unwrap(), four.accept().unwrap());
    let _not_accepted = TcpStream::connect(six.local_addr().unwrap()).unwrap();
    let _udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let path = directory.path().join("socket");
    let _unix = (UnixListener::bind(&path).unwrap(), UnixStream::connect(&path).unwrap());
    let port = six.local_addr().unwrap().port();
    let is_ours = format!(
        "(t.pid = {} OR t.local_port = {port} OR t.path = '{}')",
        std::process::id(),
        path.display()
    );
    let cases = if runner::is_long() { 400 } else { 20 };
    for (name, source) in sources("constraints_change_no_answer_under_attack") {
        let attackers = attackers_directory();
        let _rotations = Rotation::start_all(attackers.path());
        let _others = [
            Attacker::start("pid-hopping", &[]),
            Attacker::start("descriptor-passing", &["4602"]),
            Attacker::start("names", &[]),
            Attacker::start("thread", &[]),
        ];
        let connection = database(table(source));
        let own = answer(&connection, "plain", "", &is_ours);
        // This process holds eight. Two connections are in accept queues, of the port and of the path.
        assert_eq!(own.len(), 10, "{name}: {own:#?}");
        proptest!(config(cases), |(condition in condition())| {
            check(&connection, &condition, &is_ours)?;
        });
    }
}
