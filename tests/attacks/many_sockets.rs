//! Ten thousand sockets of other processes, so that a scan takes long.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};

use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketType};

use super::Attack;
use super::attacker::{Attacker, bind_when_free, park, report_ready, start_children};

pub(super) const ATTACKS: &[Attack] = &[("many-sockets", many_sockets)];

/// The number of sockets of each process.
const OF_A_PROCESS: u32 = 1000;

/// Starts this number of processes with 1,000 sockets each.
pub(super) fn start(processes: u32) -> Attacker {
    Attacker::start("many-sockets", &[&processes.to_string()])
}

fn many_sockets(arguments: &[String]) -> ! {
    start_children(arguments[0].parse().unwrap(), |process| {
        (0..OF_A_PROCESS).for_each(|number| open(process, number));
    });
    report_ready("");
    park()
}

/// Opens a socket until the end of the process.
fn open(process: u32, number: u32) {
    let [.., process_byte] = process.to_be_bytes();
    let port = u16::try_from(20_000 + number).unwrap();
    let address = (Ipv4Addr::new(127, 1, 1, process_byte), port);
    match number % 5 {
        0 => std::mem::forget(bind_when_free(|| UdpSocket::bind(address))),
        1 => {
            let socket = net::socket(AddressFamily::UNIX, SocketType::DGRAM, None).unwrap();
            let name = format!("many-sockets-{process}-{number}");
            let name = SocketAddrUnix::new_abstract_name(name.as_bytes()).unwrap();
            bind_when_free(|| net::bind(&socket, &name));
            std::mem::forget(socket);
        }
        _ => std::mem::forget(bind_when_free(|| TcpListener::bind(address))),
    }
}
