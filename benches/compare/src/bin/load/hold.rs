//! A child process opens its share of the sockets, and holds it until the leader ends.

use std::error::Error;
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::net::sockopt::set_socket_linger;
use rustix::net::{AddressFamily, SocketType};

/// Well below the number of ports that the kernel gives out towards one address and port: near that
/// number it searches long for a free one.
pub const CONNECTIONS_AN_ADDRESS: usize = 8_000;
/// Descriptors that a process needs besides its sockets.
pub const OTHER_DESCRIPTORS: usize = 32;
/// The first address, of which each process takes as many as it needs.
const FIRST_ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 64, 0, 1);
/// How many there are before 127.128.0.0.
const ADDRESSES: usize = (64 << 16) - 1;

/// The sockets of one process.
#[derive(Clone, Copy, Default)]
pub struct Share {
    /// TCP connections, both ends of each.
    pub tcp_pairs: usize,
    /// Pairs of UNIX stream sockets.
    pub unix_pairs: usize,
    /// Bound UDP sockets.
    pub udp: usize,
    /// Listening TCP sockets.
    pub listeners: usize,
    /// UDP sockets that are neither bound nor connected, as programs use them to list interfaces:
    /// no table of the kernel lists them.
    pub unlisted: usize,
    /// The number of the first address to connect to.
    pub first_address: usize,
}

impl Share {
    /// Returns the number of sockets that a kernel table lists.
    pub fn sockets(&self) -> usize {
        2 * self.tcp_pairs + 2 * self.unix_pairs + self.udp + self.listeners
    }

    /// Returns the share as arguments of a child.
    pub fn to_arguments(self) -> [String; 6] {
        let Share { tcp_pairs, unix_pairs, udp, listeners, unlisted, first_address } = self;
        [tcp_pairs, unix_pairs, udp, listeners, unlisted, first_address]
            .map(|number| number.to_string())
    }

    fn from_arguments(arguments: &[String]) -> Option<Share> {
        let numbers: Vec<usize> = arguments.iter().map_while(|text| text.parse().ok()).collect();
        let &[tcp_pairs, unix_pairs, udp, listeners, unlisted, first_address] = &numbers[..] else {
            return None;
        };
        Some(Share { tcp_pairs, unix_pairs, udp, listeners, unlisted, first_address })
    }
}

/// Opens a share, reports it, and holds it until standard input ends.
pub fn hold(arguments: &[String]) -> Result<(), Box<dyn Error>> {
    let share = Share::from_arguments(arguments).ok_or("'hold' is for the program's own use")?;
    crate::raise_limit(share.sockets() + share.unlisted + OTHER_DESCRIPTORS)?;
    let tcp = connections(&share)?;
    let unix = (0..share.unix_pairs).map(|_| UnixStream::pair()).collect::<Result<Vec<_>, _>>()?;
    let any_port = (Ipv4Addr::LOCALHOST, 0);
    let udp = (0..share.udp).map(|_| UdpSocket::bind(any_port)).collect::<Result<Vec<_>, _>>()?;
    let listeners =
        (0..share.listeners).map(|_| TcpListener::bind(any_port)).collect::<Result<Vec<_>, _>>()?;
    let unlisted = (0..share.unlisted)
        .map(|_| rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None))
        .collect::<Result<Vec<_>, _>>()?;

    let mut out = std::io::stdout();
    out.write_all(b"open\n")?;
    out.flush()?;
    crate::wait_for_end_of_input();
    drop((tcp, unix, udp, listeners, unlisted));
    Ok(())
}

/// Returns both ends of each connection, and closes the listeners.
fn connections(share: &Share) -> Result<Vec<TcpStream>, Box<dyn Error>> {
    let mut held = Vec::with_capacity(2 * share.tcp_pairs);
    let mut left = share.tcp_pairs;
    for index in share.first_address.. {
        if left == 0 {
            break;
        }
        if index >= ADDRESSES {
            return Err("more connections than 127.64.0.0/10 has addresses for".into());
        }
        let address = Ipv4Addr::from_bits(FIRST_ADDRESS.to_bits() + u32::try_from(index)?);
        let listener = TcpListener::bind((address, 0))?;
        let to = listener.local_addr()?;
        let here = left.min(CONNECTIONS_AN_ADDRESS);
        for _ in 0..here {
            let client = TcpStream::connect(to).map_err(|error| {
                format!("cannot connect to {to}: {error} (is net.ipv4.ip_local_port_range small?)")
            })?;
            let (server, _) = listener.accept()?;
            for end in [client, server] {
                // Closed by a reset, it leaves no TIME_WAIT.
                set_socket_linger(&end, Some(Duration::ZERO))?;
                held.push(end);
            }
        }
        left -= here;
    }
    Ok(held)
}
