//! Datagrams through io_uring(7).

use std::ffi::c_int;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

use io_uring::squeue::{Entry, Flags};
use io_uring::types::Fd;
use io_uring::{IoUring, Probe, cqueue, opcode};
use rustix::io::Errno;
use rustix::net::SocketAddrAny;

use super::truth::{Random, Truth};
use crate::linux::quiet::report_skip;

/// What passes the operations to the kernel.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Submission {
    /// io_uring_enter(2), with which an operation has the context of the process.
    Call,
    /// A thread of the kernel, which the process has started and which reads the ring.
    PollThread,
}

/// As many operations run at once.
const MAX_RUNNING: usize = 4;
const MAX_SIZE: usize = 9_000;

struct Ring {
    ring: IoUring,
    has_zero_copy: bool,
}

impl Ring {
    /// None, and a report, if the kernel forbids it.
    fn new(submission: Submission) -> Option<Ring> {
        let mut builder = IoUring::builder();
        if submission == Submission::PollThread {
            // So short that the thread also sleeps, and is woken.
            builder.setup_sqpoll(1);
        }
        let ring = match builder.build(2 * MAX_RUNNING as u32) {
            Ok(ring) => ring,
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => {
                let test = "the_datagrams_of_short_processes_are_counted_exactly";
                report_skip(test, "the kernel forbids io_uring: all others are compared");
                return None;
            }
            Err(error) => panic!("{error}"),
        };
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe).unwrap();
        let codes = [opcode::SendZc::CODE, opcode::SendMsgZc::CODE];
        let has_zero_copy = codes.iter().all(|code| probe.is_supported(*code));
        Some(Ring { ring, has_zero_copy })
    }

    /// Runs operations at once, and returns their results, in any order.
    #[allow(unsafe_code)]
    fn run(&mut self, entries: &[Entry]) -> Vec<Result<usize, Errno>> {
        for entry in entries {
            // SAFETY: callers keep what the entry points to until this function returns, when the kernel has completed
            // all entries, and no longer reads the memory of those with zero copy.
            unsafe { self.ring.submission().push(entry) }.unwrap();
        }
        let (mut results, mut open) = (Vec::new(), entries.len());
        while open > 0 {
            self.ring.submit_and_wait(1).unwrap();
            for completion in self.ring.completion() {
                // With zero copy, the second completion only notifies that the memory is free.
                if !cqueue::notif(completion.flags()) {
                    let result = completion.result();
                    let length = usize::try_from(result);
                    results.push(length.map_err(|_| Errno::from_raw_os_error(-result)));
                }
                open -= usize::from(!cqueue::more(completion.flags()));
            }
        }
        results
    }
}

/// A header for sendmsg(2) and recvmsg(2), with one part.
#[allow(unsafe_code)]
fn header(name: Option<&SocketAddrAny>, part: &mut libc::iovec) -> libc::msghdr {
    // SAFETY: zeros are a valid header without name, parts and control data.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    if let Some(name) = name {
        header.msg_name = name.as_ptr().cast_mut().cast();
        header.msg_namelen = name.addr_len();
    }
    header.msg_iov = part;
    header.msg_iovlen = 1;
    header
}

/// Lets some operations run in a worker thread.
fn with_random_flags(entry: Entry, random: &mut Random) -> Entry {
    if random.below(3) == 0 { entry.flags(Flags::ASYNC) } else { entry }
}

/// Sends some datagrams to the peer; without a name, the socket is connected.
fn send_some(
    ring: &mut Ring,
    socket: &UdpSocket,
    name: Option<&SocketAddrAny>,
    random: &mut Random,
    truth: &mut Truth,
) {
    let fd = Fd(socket.as_raw_fd());
    let mut bytes = vec![7; random.below(MAX_SIZE)];
    let (start, length) = (bytes.as_mut_ptr(), bytes.len());
    let mut part = libc::iovec { iov_base: start.cast(), iov_len: length };
    let header = header(name, &mut part);
    let mut one = || {
        let ways = if ring.has_zero_copy { 4 } else { 2 };
        // Only messages have a name.
        let way = random.below(ways) | usize::from(name.is_some());
        let entry = match way {
            0 => opcode::Send::new(fd, start, length as u32).build(),
            1 => opcode::SendMsg::new(fd, &raw const header).build(),
            2 => opcode::SendZc::new(fd, start, length as u32).build(),
            _ => opcode::SendMsgZc::new(fd, &raw const header).build(),
        };
        with_random_flags(entry, random)
    };
    let entries: [Entry; MAX_RUNNING] = std::array::from_fn(|_| one());
    let count = 1 + random.below(MAX_RUNNING);
    for result in ring.run(&entries[..count]) {
        truth.sent(result.unwrap());
    }
}

/// Receives all that is there.
fn receive_all(ring: &mut Ring, socket: &UdpSocket, random: &mut Random, truth: &mut Truth) {
    let fd = Fd(socket.as_raw_fd());
    // Without it, the operation waits.
    let flags: c_int = libc::MSG_DONTWAIT;
    loop {
        // Some datagrams are truncated.
        let size = if random.below(4) == 0 { 100 } else { MAX_SIZE };
        let mut buffers = [[0_u8; MAX_SIZE]; MAX_RUNNING];
        let mut parts = buffers
            .each_mut()
            .map(|buffer| libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: size });
        let mut headers = parts.each_mut().map(|part| header(None, part));
        let mut entries = Vec::new();
        for (part, header) in parts.iter().zip(&mut headers) {
            let entry = match random.below(2) {
                0 => opcode::Recv::new(fd, part.iov_base.cast(), size as u32).flags(flags).build(),
                _ => opcode::RecvMsg::new(fd, header).flags(flags as u32).build(),
            };
            entries.push(with_random_flags(entry, random));
        }
        let results = ring.run(&entries[..1 + random.below(MAX_RUNNING)]);
        for result in &results {
            match result {
                Ok(length) => truth.received(*length),
                Err(errno) => assert_eq!(*errno, Errno::AGAIN),
            }
        }
        if results.contains(&Err(Errno::AGAIN)) {
            return;
        }
    }
}

/// Sends from one socket to another.
pub(super) fn udp(submission: Submission, random: &mut Random) {
    let Some(mut ring) = Ring::new(submission) else { return };
    let at = ["127.0.0.1:0", "[::1]:0"][random.below(2)];
    let (sender, receiver) = (UdpSocket::bind(at).unwrap(), UdpSocket::bind(at).unwrap());
    let to: SocketAddr = receiver.local_addr().unwrap();
    let name = match random.below(2) {
        0 => Some(SocketAddrAny::from(to)),
        _ => sender.connect(to).map(|()| None).unwrap(),
    };
    let [mut of_sender, mut of_receiver] = [(); 2].map(|()| Truth::default());
    for _ in 0..=random.below(20) {
        send_some(&mut ring, &sender, name.as_ref(), random, &mut of_sender);
        if random.below(3) == 0 {
            receive_all(&mut ring, &receiver, random, &mut of_receiver);
        }
    }
    receive_all(&mut ring, &receiver, random, &mut of_receiver);
    of_sender.print(&sender);
    of_receiver.print(&receiver);
}
