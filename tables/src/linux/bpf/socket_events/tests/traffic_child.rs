//! A process that sends and receives datagrams in every way, and prints what it has counted itself.

mod truth;
mod uring;

use std::io::{IoSlice, Read};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::process::{Command, Stdio};

use rustix::fs::{MemfdFlags, memfd_create, sendfile};
use rustix::io::{Errno, FdFlags, IoSliceMut, fcntl_setfd, read, write};
use rustix::net::netdevice::name_to_index;
use rustix::net::{
    AddressFamily, MMsgHdr, Protocol, RawProtocol, RecvAncillaryBuffer, RecvFlags,
    SendAncillaryBuffer, SendFlags, SocketFlags, SocketType, recv, recvfrom, recvmsg, send,
    sendmmsg, sendmsg, sendmsg_addr, sendto, socket_with,
};
use rustix::pipe::{SpliceFlags, pipe, splice};

use super::this_binary::{arguments, own_executable};
use truth::{Random, Truth};
use uring::Submission;

/// The command `traffic SEED`.
pub(super) fn run(seed: u64) {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    match seed % 8 {
        0 => udp("127.0.0.1:0", &mut random),
        1 => udp("[::1]:0", &mut random),
        2 => raw(&mut random),
        3 => ping(&mut random),
        4 => packet(&mut random),
        5 => inherited(&mut random),
        6 => uring::udp(Submission::Call, &mut random),
        _ => uring::udp(Submission::PollThread, &mut random),
    }
}

fn open(family: AddressFamily, kind: SocketType, protocol: u32) -> OwnedFd {
    let protocol = RawProtocol::new(protocol).map(Protocol::from_raw);
    socket_with(family, kind, SocketFlags::CLOEXEC, protocol).unwrap()
}

/// Sends one datagram of this size to the peer, in one of the ways there are.
fn send_one(
    socket: &UdpSocket,
    to: SocketAddr,
    size: usize,
    random: &mut Random,
    truth: &mut Truth,
) {
    let bytes = vec![7; size];
    let is_connected = socket.peer_addr().is_ok();
    let none = SendFlags::empty();
    let control = &mut SendAncillaryBuffer::default();
    match random.below(if is_connected { 8 } else { 3 }) {
        0 => truth.sent(sendto(socket, &bytes, none, &to).unwrap()),
        1 => truth.sent(sendmsg_addr(socket, &to, &[IoSlice::new(&bytes)], control, none).unwrap()),
        2 => {
            let parts = [[IoSlice::new(&bytes)], [IoSlice::new(&bytes)]];
            let to = rustix::net::SocketAddrAny::from(to);
            let mut other = SendAncillaryBuffer::default();
            let mut messages = [
                MMsgHdr::new_with_addr(&to, &parts[0], control),
                MMsgHdr::new_with_addr(&to, &parts[1], &mut other),
            ];
            assert_eq!(sendmmsg(socket, &mut messages, none).unwrap(), 2);
            truth.sent(size);
            truth.sent(size);
        }
        3 => truth.sent(send(socket, &bytes, none).unwrap()),
        4 => truth.sent(write(socket, &bytes).unwrap()),
        5 => truth.sent(sendmsg(socket, &[IoSlice::new(&bytes)], control, none).unwrap()),
        6 => {
            let length = 1 + size % PAGE;
            truth.sent(sendfile(socket, page_of_file(), Some(&mut 0), length).unwrap());
        }
        _ => truth.sent(splice_to(socket, 1 + size % PAGE, random)),
    }
}

/// Kernels before 6.5 send each page in a datagram of its own.
const PAGE: usize = 4000;

fn page_of_file() -> OwnedFd {
    let file = memfd_create("datagram", MemfdFlags::CLOEXEC).unwrap();
    assert_eq!(write(&file, &[7; PAGE]), Ok(PAGE));
    file
}

/// Sends one datagram of this size from a pipe, which a process or a file has filled.
fn splice_to(socket: &UdpSocket, size: usize, random: &mut Random) -> usize {
    let (read_end, write_end) = pipe().unwrap();
    let flags = SpliceFlags::empty();
    let filled = match random.below(2) {
        0 => write(&write_end, &vec![7; size]),
        _ => splice(page_of_file(), Some(&mut 0), &write_end, None, size, flags),
    };
    assert_eq!(filled, Ok(size));
    splice(&read_end, None, socket, None, size, flags).unwrap()
}

/// Receives a datagram, or as much of it as fits into this size, through a pipe.
fn splice_from(socket: BorrowedFd<'_>, size: usize) -> Result<usize, Errno> {
    let (read_end, write_end) = pipe().unwrap();
    let length = splice(socket, None, &write_end, None, size, SpliceFlags::empty())?;
    drop(write_end);
    let mut bytes = Vec::new();
    assert_eq!(std::fs::File::from(read_end).read_to_end(&mut bytes).unwrap(), length);
    Ok(length)
}

/// Receives all that is there, in the ways there are.
fn receive_all(socket: impl AsFd, random: &mut Random, truth: &mut Truth) {
    let wait_not = RecvFlags::DONTWAIT;
    rustix::io::ioctl_fionbio(&socket, true).unwrap();
    loop {
        // Some datagrams are truncated.
        let mut buffer = vec![0; if random.below(4) == 0 { 100 } else { 70_000 }];
        let received = match random.below(7) {
            0 => match recv(&socket, &mut buffer[..], RecvFlags::PEEK) {
                Ok(_) => continue,
                Err(errno) => Err(errno),
            },
            1 => recv(&socket, &mut buffer[..], wait_not).map(|it| vec![it.0]),
            2 => recvfrom(&socket, &mut buffer[..], wait_not).map(|it| vec![it.0]),
            3 => {
                let control = &mut RecvAncillaryBuffer::default();
                let received =
                    recvmsg(&socket, &mut [IoSliceMut::new(&mut buffer)], control, wait_not);
                received.map(|it| vec![it.bytes])
            }
            4 => receive_two(socket.as_fd()),
            5 => splice_from(socket.as_fd(), buffer.len()).map(|length| vec![length]),
            _ => read(&socket, &mut buffer[..]).map(|length| vec![length]),
        };
        match received {
            Ok(lengths) => lengths.into_iter().for_each(|length| truth.received(length)),
            Err(Errno::AGAIN) => return,
            // The answer to a datagram for a port without a socket.
            Err(Errno::CONNREFUSED) => {}
            Err(errno) => panic!("{errno}"),
        }
    }
}

/// Receives up to two datagrams with recvmmsg(2); returns their lengths.
#[allow(unsafe_code)]
fn receive_two(socket: BorrowedFd<'_>) -> Result<Vec<usize>, Errno> {
    let mut buffers = [[0_u8; 9_000]; 2];
    let mut parts = buffers
        .each_mut()
        .map(|buffer| libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() });
    // SAFETY: zeros are a valid header without name, parts and control data.
    let mut headers: [libc::mmsghdr; 2] = unsafe { std::mem::zeroed() };
    for (header, part) in headers.iter_mut().zip(&mut parts) {
        header.msg_hdr.msg_iov = part;
        header.msg_hdr.msg_iovlen = 1;
    }
    // SAFETY: the headers point to parts, and these to buffers, which live as long as the call.
    let received = unsafe {
        libc::recvmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), 2, 0, std::ptr::null_mut())
    };
    match usize::try_from(received) {
        Ok(count) => Ok(headers[..count].iter().map(|header| header.msg_len as usize).collect()),
        Err(_) => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap()),
    }
}

fn udp(at: &str, random: &mut Random) {
    let (sender, receiver) = (UdpSocket::bind(at).unwrap(), UdpSocket::bind(at).unwrap());
    let to = receiver.local_addr().unwrap();
    if random.below(2) == 0 {
        sender.connect(to).unwrap();
    }
    let [mut of_sender, mut of_receiver] = [(); 2].map(|()| Truth::default());
    for _ in 0..=random.below(40) {
        send_one(&sender, to, random.below(9_000), random, &mut of_sender);
        if random.below(3) == 0 {
            receive_all(&receiver, random, &mut of_receiver);
        }
    }
    receive_all(&receiver, random, &mut of_receiver);
    of_sender.print(&sender);
    of_receiver.print(&receiver);
}

/// Sends with `send` and receives what comes back.
fn echo(
    socket: &OwnedFd,
    least: usize,
    random: &mut Random,
    send: impl Fn(&[u8]) -> Result<usize, Errno>,
) {
    let mut truth = Truth::default();
    for _ in 0..=random.below(40) {
        let mut bytes = vec![0; least + random.below(9_000)];
        // An echo request of ICMP.
        bytes[0] = 8;
        truth.sent(send(&bytes).unwrap());
        receive_all(socket, random, &mut truth);
    }
    truth.print(socket);
}

fn raw(random: &mut Random) {
    const ICMP: u32 = 1;
    const EXPERIMENTS: u32 = 253;
    let protocol = if random.below(2) == 0 { ICMP } else { EXPERIMENTS };
    let socket = open(AddressFamily::INET, SocketType::RAW, protocol);
    let to = SocketAddr::from(([127, 0, 0, 1], 0));
    echo(&socket, 8, random, |bytes| sendto(&socket, bytes, SendFlags::empty(), &to));
}

fn ping(random: &mut Random) {
    let socket = open(AddressFamily::INET, SocketType::DGRAM, 1);
    let to = SocketAddr::from(([127, 0, 0, 1], 0));
    echo(&socket, 8, random, |bytes| sendto(&socket, bytes, SendFlags::empty(), &to));
}

/// Frames of a protocol for experiments.
#[allow(unsafe_code)]
fn packet(random: &mut Random) {
    const PROTOCOL: u16 = 0x88b5;
    let socket = open(AddressFamily::PACKET, SocketType::RAW, PROTOCOL.to_be().into());
    // SAFETY: zeros are a valid address.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = PROTOCOL.to_be();
    address.sll_ifindex = name_to_index(&socket, "lo").unwrap() as i32;
    let size = size_of_val(&address) as u32;
    // SAFETY: the address has this size.
    let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size) };
    assert_eq!(bound, 0);
    echo(&socket, 14, random, |bytes| {
        let mut frame = bytes.to_vec();
        frame[12..14].copy_from_slice(&PROTOCOL.to_be_bytes());
        send(&socket, &frame, SendFlags::empty())
    });
}

/// A socket that a child inherits: both send.
fn inherited(random: &mut Random) {
    let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
    let to = receiver.local_addr().unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut truth = Truth::default();
    send_one(&socket, to, random.below(9_000), random, &mut truth);
    fcntl_setfd(&socket, FdFlags::empty()).unwrap();
    let fd = socket.as_raw_fd();
    let mut child = Command::new(own_executable());
    let child = arguments(&mut child, &format!("inherit {fd} {to}"));
    assert!(child.stdin(Stdio::null()).status().unwrap().success());
    for _ in 0..=random.below(10) {
        send_one(&socket, to, random.below(9_000), random, &mut truth);
    }
    truth.print(&socket);
}

/// The command `inherit FD ADDRESS`.
#[allow(unsafe_code)]
pub(super) fn use_inherited(fd: i32, to: SocketAddr) {
    // SAFETY: the parent has left this descriptor open, and nothing else here uses it.
    let socket = UdpSocket::from(unsafe { OwnedFd::from_raw_fd(fd) });
    let random = &mut Random(u64::from(std::process::id()) | 1);
    let mut truth = Truth::default();
    for _ in 0..=random.below(10) {
        send_one(&socket, to, random.below(9_000), random, &mut truth);
    }
    truth.print(&socket);
}
