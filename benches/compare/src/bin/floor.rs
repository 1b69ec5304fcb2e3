//! The least that the kernel takes for the two halves of the work: a walk of all descriptors on two
//! threads, and a dump of the TCP and UNIX sockets, of which nothing is read or kept.
//!
//! Prints the milliseconds of each, and of both.

use std::error::Error;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use rustix::fs::{CWD, Mode, OFlags, RawDir, openat, readlinkat_raw};
use rustix::net::netlink::{SOCK_DIAG, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType};

fn main() -> Result<(), Box<dyn Error>> {
    let start = Instant::now();
    let links = walk()?;
    let walked = start.elapsed();
    let mut datagrams = 0;
    for request in [inet(2), inet(10), unix()] {
        datagrams += dump(&request)?;
    }
    let both = start.elapsed();
    let ms = |time: std::time::Duration| time.as_secs_f64() * 1000.0;
    let (walk, dump) = (ms(walked), ms(both - walked));
    println!("walk {walk:.1} dump {dump:.1} both {:.1}", ms(both));
    eprintln!("{links} links, {datagrams} datagrams");
    Ok(())
}

/// Reads every link in every `/proc/<pid>/fd`, a process a thread at a time.
fn walk() -> Result<usize, Box<dyn Error>> {
    let mut pids: Vec<String> = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let name = entry?.file_name().into_string().unwrap_or_default();
        if name.parse::<u32>().is_ok() {
            pids.push(name);
        }
    }
    let (next, links) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let walk_some = || {
        while let Some(pid) = pids.get(next.fetch_add(1, Ordering::Relaxed)) {
            links.fetch_add(read_links(pid).unwrap_or_default(), Ordering::Relaxed);
        }
    };
    thread::scope(|scope| {
        scope.spawn(walk_some);
        walk_some();
    });
    Ok(links.into_inner())
}

fn read_links(pid: &str) -> rustix::io::Result<usize> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = openat(CWD, format!("/proc/{pid}/fd"), flags, Mode::empty())?;
    let (mut entries, mut link) = ([MaybeUninit::uninit(); 32 * 1024], [MaybeUninit::uninit(); 64]);
    let mut entries = RawDir::new(&directory, &mut entries);
    let mut count = 0;
    while let Some(entry) = entries.next() {
        count += usize::from(readlinkat_raw(&directory, entry?.file_name(), &mut link[..]).is_ok());
    }
    Ok(count)
}

/// `struct inet_diag_req_v2` for TCP in every state.
fn inet(family: u8) -> Vec<u8> {
    [&[family, 6, 0, 0][..], &u32::MAX.to_ne_bytes(), &[0; 48]].concat()
}

/// `struct unix_diag_req` for every state, with names, peers, queues and owners.
fn unix() -> Vec<u8> {
    let fields = [u32::MAX, 0, 0x1 | 0x4 | 0x10 | 0x40, u32::MAX, u32::MAX];
    [vec![1, 0, 0, 0], fields.map(u32::to_ne_bytes).concat()].concat()
}

/// Asks for a dump and reads it to its end.
fn dump(request: &[u8]) -> Result<usize, Box<dyn Error>> {
    const NLMSG_ERROR: u16 = 2;
    const NLMSG_DONE: u16 = 3;
    let socket = rustix::net::socket(AddressFamily::NETLINK, SocketType::RAW, Some(SOCK_DIAG))?;
    let length = u32::try_from(16 + request.len())?;
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(20u16.to_ne_bytes()); // SOCK_DIAG_BY_FAMILY
    message.extend(0x301u16.to_ne_bytes()); // NLM_F_REQUEST | NLM_F_DUMP
    message.extend([0; 8]);
    message.extend(request);
    rustix::net::sendto(&socket, &message, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    let mut buffer = vec![0; 256 * 1024];
    for datagrams in 1.. {
        let (length, _) = rustix::net::recv(&socket, &mut buffer[..], RecvFlags::empty())?;
        let mut rest = buffer.get(..length).unwrap_or_default();
        while let Some((header, _)) = rest.split_first_chunk::<16>() {
            let [a, b, c, d, kind, kind_too, ..] = *header;
            let kind = u16::from_ne_bytes([kind, kind_too]);
            if kind == NLMSG_DONE || kind == NLMSG_ERROR {
                return Ok(datagrams);
            }
            let length = usize::try_from(u32::from_ne_bytes([a, b, c, d]))?.max(16);
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
    Ok(0)
}
