//! NETLINK_SOCK_DIAG dumps of TCP over IPv4 and IPv6 and of the UNIX sockets, in every state, received
//! in pieces of at most 256 KiB. Only the headers are read, for the end and for errors.

use std::error::Error;
use std::os::fd::OwnedFd;

use rustix::net::netlink::{SOCK_DIAG, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const ENOENT: i32 = 2;

/// Requests all three, and returns the number of datagrams.
pub fn dump() -> Result<usize, Box<dyn Error>> {
    let (kind, flags) = (SocketType::RAW, SocketFlags::CLOEXEC);
    let socket = rustix::net::socket_with(AddressFamily::NETLINK, kind, flags, Some(SOCK_DIAG))?;
    let mut datagrams = 0;
    for request in [inet(AF_INET), inet(AF_INET6), unix()] {
        datagrams += dump_one(&socket, &request)?;
    }
    Ok(datagrams)
}

/// `struct inet_diag_req_v2` for TCP in every state.
fn inet(family: u8) -> Vec<u8> {
    const IPPROTO_TCP: u8 = 6;
    [&[family, IPPROTO_TCP, 0, 0][..], &u32::MAX.to_ne_bytes(), &[0; 48]].concat()
}

/// `struct unix_diag_req` for every state, with names.
fn unix() -> Vec<u8> {
    const AF_UNIX: u8 = 1;
    const UDIAG_SHOW_NAME: u32 = 1;
    let (inode, cookie) = (0, [u32::MAX; 2]);
    let fields = [u32::MAX, inode, UDIAG_SHOW_NAME, cookie[0], cookie[1]];
    [&[AF_UNIX, 0, 0, 0][..], &fields.map(u32::to_ne_bytes).concat()].concat()
}

/// Requests a dump and receives it to its end. A protocol that the kernel lacks has an empty dump.
fn dump_one(socket: &OwnedFd, request: &[u8]) -> Result<usize, Box<dyn Error>> {
    const SOCK_DIAG_BY_FAMILY: u16 = 20;
    const NLM_F_REQUEST: u16 = 1;
    const NLM_F_DUMP: u16 = 0x300;
    let mut message = u32::try_from(16 + request.len())?.to_ne_bytes().to_vec();
    message.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    message.extend((NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    message.extend([0; 8]);
    message.extend(request);
    let kernel = SocketAddrNetlink::new(0, 0);
    rustix::net::sendto(socket, &message, SendFlags::empty(), &kernel)?;

    let mut buffer = vec![0; 256 << 10];
    let mut datagrams = 0;
    loop {
        let (length, _) = rustix::net::recv(socket, &mut buffer[..], RecvFlags::empty())?;
        datagrams += 1;
        let mut rest = buffer.get(..length).unwrap_or_default();
        while let Some((header, payload)) = rest.split_first_chunk::<16>() {
            let [a, b, c, d, kind, kind_too, ..] = *header;
            match u16::from_ne_bytes([kind, kind_too]) {
                NLMSG_DONE => return Ok(datagrams),
                NLMSG_ERROR => {
                    let code = payload.first_chunk().map_or(0, |code| -i32::from_ne_bytes(*code));
                    if code == ENOENT {
                        return Ok(datagrams);
                    }
                    return Err(std::io::Error::from_raw_os_error(code).into());
                }
                _ => (),
            }
            let length = usize::try_from(u32::from_ne_bytes([a, b, c, d]))?.max(16);
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}
