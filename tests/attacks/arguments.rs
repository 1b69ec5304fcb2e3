//! Processes that block reads of their arguments: a page of a FUSE file is mapped over them.
//!
//! To read `/proc/<pid>/cmdline`, the kernel reads the memory of the process, and so waits for the file server
//! (`get_mm_cmdline` in `fs/proc/base.c`). Descriptors and namespaces stay readable.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::AsRawFd;

use tempfile::TempDir;

use super::attacker::{
    Attacker, NOBODY, bind_when_free, enter_user_namespace, exit_now, fork, park, report_ready,
    wait_until,
};
use super::blocking::{Bystander, TIME, is_alive, prepare};
use super::fuse;
use super::namespaces::mount;
use super::scan::{BPF, NETLINK, NamedSource, PROCFS, answer, table};
use super::{Attack, Test};

pub(super) const ATTACKS: &[Attack] = &[("arguments", arguments)];

pub(super) const TESTS: &[Test] = &[
    ("blocked_arguments_hide_only_themselves_with_bpf", || hide_only_themselves(BPF)),
    ("blocked_arguments_hide_only_themselves_with_netlink", || hide_only_themselves(NETLINK)),
    ("blocked_arguments_hide_only_themselves_with_procfs", || hide_only_themselves(PROCFS)),
];

/// The number of processes, and the port of the listener of the first; the others have the following ports.
const PROCESSES: u16 = 5;
const FIRST_PORT: u16 = 4900;
const PAGE: usize = 4096;

fn hide_only_themselves((name, source): NamedSource) {
    let test = format!("blocked_arguments_hide_only_themselves_with_{name}");
    let Some(device) = prepare(&test, (name, source)) else { return };
    let bystander = Bystander::start();
    let table = table(source);
    let before = bystander.rows(&answer(&table, &[]));
    assert_eq!(before.len(), 6, "{before:#?}");
    let directory = TempDir::new().unwrap();
    let arguments = [&*device.path(), directory.path().to_str().unwrap()];
    let attacker = Attacker::start_as(NOBODY, "arguments", &arguments);
    let [server, pids @ ..] = attacker.reported() else { panic!() };
    let server = server.parse().unwrap();
    assert_read_blocks(&pids[0]);
    for what in ["SELECT *", "SELECT * again"] {
        let start = std::time::Instant::now();
        let rows = answer(&table, &[]);
        let time = start.elapsed();
        println!("{name}, {what}: {:.2} s", time.as_secs_f64());
        assert!(time < TIME && is_alive(server), "{what}: {time:?}");
        assert_eq!(bystander.rows(&rows), before, "{what}");
        for (port, pid) in (FIRST_PORT..).zip(pids) {
            let equals = [("local_port", &*port.to_string()), ("pid", pid)];
            let row = rows.iter().find(|row| row.has(&equals));
            let row = row.unwrap_or_else(|| panic!("{what}: {pid} does not hold the port {port}"));
            assert_eq!(row.cell("process_cmdline"), "NULL", "{what}");
            assert_eq!(row.cell("process_parent"), attacker.pid().to_string(), "{what}");
        }
    }
}

/// Checks that the attack works: a thread that reads the arguments waits until the attack ends.
fn assert_read_blocks(pid: &str) {
    let (sender, receiver) = std::sync::mpsc::channel();
    let path = format!("/proc/{pid}/cmdline");
    let reader = std::thread::spawn(move || {
        sender.send(rustix::thread::gettid()).unwrap();
        drop(fs::read(path));
    });
    let status = format!("/proc/self/task/{}/stat", receiver.recv().unwrap().as_raw_nonzero());
    let is_waiting = || {
        let stat = fs::read_to_string(&status).unwrap_or_default();
        // The kernel waits for a page in D state.
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('D'))
    };
    let waiting = std::cell::Cell::new(0);
    wait_until("a read blocks", || {
        waiting.set(if is_waiting() { waiting.get() + 1 } else { 0 });
        reader.is_finished() || waiting.get() > 10
    });
    assert!(!reader.is_finished(), "the attack does not work: the read returns");
}

/// Arguments: `device` and `directory`.
fn arguments(arguments: &[String]) -> ! {
    let [device, directory] = arguments else { panic!("{arguments:?}") };
    enter_user_namespace(libc::CLONE_NEWNS);
    mount(&["--make-rprivate", "/"]);
    let server = fuse::mount(device, directory, "");
    let mut reported = server.pid.to_string();
    for port in FIRST_PORT..FIRST_PORT + PROCESSES {
        let (mut ready, report) = std::io::pipe().unwrap();
        let pid = fork();
        if pid == 0 {
            hide_arguments(directory, port, report);
        }
        drop(report);
        std::io::Read::read_exact(&mut ready, &mut [0]).unwrap();
        reported += &format!(" {pid}");
    }
    report_ready(&reported);
    park()
}

/// Maps a page of the FUSE file over the arguments, and waits for the end of the attack.
fn hide_arguments(directory: &str, port: u16, mut report: std::io::PipeWriter) -> ! {
    let listener = bind_when_free(|| TcpListener::bind((Ipv4Addr::LOCALHOST, port)));
    let file = fs::File::open(format!("{directory}/{}", fuse::FILE)).unwrap();
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    // arg_start has the number 48 in proc_pid_stat(5); the first field after the name has the number 3.
    let start = stat.rsplit_once(") ").unwrap().1.split(' ').nth(45).unwrap();
    let page = start.parse::<usize>().unwrap() & !(PAGE - 1);
    let flags = libc::MAP_PRIVATE | libc::MAP_FIXED;
    let at = std::ptr::without_provenance_mut(page);
    // SAFETY: the page has the arguments and the environment, which this process does not read any more.
    let mapped = unsafe { libc::mmap(at, PAGE, libc::PROT_READ, flags, file.as_raw_fd(), 0) };
    if mapped != at {
        exit_now();
    }
    std::io::Write::write_all(&mut report, &[1]).unwrap();
    let _listener = listener;
    park()
}
