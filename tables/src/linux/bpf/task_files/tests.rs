//! The program in the running kernel.

use std::net::TcpListener;
use std::os::fd::AsRawFd;

use super::super::calls::{CallError, Command};
use rustix::io::Errno;

use super::*;
use crate::formats::linux::bpf_record::Description;
use crate::linux::quiet::{report_skip, report_skip_without_bpf};
use crate::model::socket_table::SocketTable;

#[test]
fn the_kernel_runs_the_program_for_all_processes_or_for_one() {
    let test = "the_kernel_runs_the_program_for_all_processes_or_for_one";
    let files = match TaskFiles::load(Records::Basic, true, log::Level::Info) {
        Ok(files) => files,
        Err(error) => return report_skip_without_bpf(test, &error.to_string()),
    };
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let version: Vec<u32> = release.split('.').take(2).map(|part| part.parse().unwrap()).collect();
    assert!(files.reads_all_threads() || version < vec![6, 7], "{release}");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (me, port) = (std::process::id().cast_signed(), listener.local_addr().unwrap().port());
    let inode = rustix::fs::fstat(&listener).unwrap().st_ino;
    let is_ours = |record: Record| {
        matches!(
            record.describe().unwrap(),
            Description::Complete { table: SocketTable::Tcp, socket } if socket.inode == inode
                && socket.state() == "LISTEN" && socket.local_port() == i32::from(port)
        )
    };
    let mut all = Vec::new();
    let found = files.run(None, false, Deadline::NEVER, |holder, record| {
        if is_ours(record) {
            all.push(holder);
        }
        Ok(())
    });
    found.unwrap();
    let holder = Holder { inode, pid: me, fd: listener.as_raw_fd(), tid: None };
    assert_eq!(all, [holder]);
    let (mut ours, mut others) = (Vec::new(), 0);
    let one = files.run(Some(me), false, Deadline::NEVER, |holder, record| {
        if is_ours(record) {
            ours.push(holder);
        }
        others += i32::from(holder.pid != me);
        Ok(())
    });
    let too_big = CallError { command: Command::LinkCreate, errno: Errno::TOOBIG };
    if matches!(one, Err(PassError::Call(error)) if error == too_big) {
        report_skip(test, "for one: the kernel is older than 6.1");
        return;
    }
    one.unwrap();
    // Before Linux 6.7 another thread can show it too; it counts once.
    ours.dedup();
    assert_eq!((ours, others), (vec![holder], 0));
    let mut found = 0;
    let result = files.run(Some(i32::MAX), false, Deadline::NEVER, |_, _| {
        found += 1;
        Ok(())
    });
    // No process, or a process whose first thread has no socket.
    let is_as_expected = match result {
        Ok(()) => files.reads_all_threads(),
        Err(PassError::MissesThreads { pid: i32::MAX }) => !files.reads_all_threads(),
        Err(_) => false,
    };
    assert!(is_as_expected && found == 0, "{result:?}, {found} descriptors");
}

#[test]
fn the_extended_program_reads_cookies() {
    let test = "the_extended_program_reads_cookies";
    let files = match TaskFiles::load(Records::Extended, true, log::Level::Info) {
        Ok(files) => files,
        Err(error) => return report_skip_without_bpf(test, &error.to_string()),
    };
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let (unix, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
    let ids = |socket: &dyn AsFd| {
        let cookie = rustix::net::sockopt::socket_cookie(socket.as_fd()).unwrap();
        (rustix::fs::fstat(socket.as_fd()).unwrap().st_ino, cookie)
    };
    let expected = [ids(&udp), ids(&unix)];
    let mut found = Vec::new();
    let pass = files.run(None, false, Deadline::NEVER, |holder, record| {
        if expected.iter().any(|(inode, _)| *inode == holder.inode) {
            let cookie = record.extended_details().unwrap().cookie.unwrap();
            found.push((holder.inode, cookie.get()));
        }
        Ok(())
    });
    pass.unwrap();
    found.sort_unstable();
    // Until its exec, a process that another test starts has the sockets, too.
    found.dedup();
    assert_eq!(found, expected);
}

#[test]
fn each_program_reads_when_a_process_started() {
    let test = "each_program_reads_when_a_process_started";
    // In hundredths of a second: `starttime` in proc_pid_stat(5).
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let after_name = stat.rsplit_once(") ").unwrap().1;
    let expected: u64 = after_name.split(' ').nth(19).unwrap().parse().unwrap();
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let inode = rustix::fs::fstat(&udp).unwrap().st_ino;
    // Until its exec, a process that another test starts has the socket, too.
    let own = std::process::id().cast_signed();
    for records in [Records::Basic, Records::Extended] {
        let files = match TaskFiles::load(records, true, log::Level::Info) {
            Ok(files) => files,
            Err(error) => return report_skip_without_bpf(test, &error.to_string()),
        };
        let mut starts = Vec::new();
        let pass = files.run(None, false, Deadline::NEVER, |holder, record| {
            if holder.inode == inode && holder.pid == own {
                starts.push(record.start_boottime().unwrap().get() / 10_000_000);
            }
            Ok(())
        });
        pass.unwrap();
        assert_eq!(starts, [expected], "{records}");
    }
}
