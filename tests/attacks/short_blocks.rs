//! Processes that repeatedly block the reads of their files in `/proc`, as in `blocking`, for less than a second
//! each time.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::{WaitOptions, wait};

use super::attacker::{
    ATTACK, ATTACK_USER, Attacker, NOBODY, enter_user_namespace, exit_now, fork, is_over,
    report_ready,
};
use super::blocking::{Bystander, TIME, is_alive, prepare};
use super::fuse;
use super::namespaces::mount;
use super::scan::{BPF, NETLINK, NamedSource, PROCFS, answer, table};
use super::{Attack, Test};

pub(super) const ATTACKS: &[Attack] =
    &[("exec-loops", exec_loops), ("exec-once", exec_once), ("short-lived", short_lived)];

pub(super) const TESTS: &[Test] = &[
    ("exec_loops_delay_no_answer_hide_no_holder_with_bpf", || check_answers("exec-loops", BPF)),
    ("exec_loops_delay_no_answer_hide_no_holder_with_netlink", || {
        check_answers("exec-loops", NETLINK);
    }),
    ("exec_loops_delay_no_answer_hide_no_holder_with_procfs", || {
        check_answers("exec-loops", PROCFS)
    }),
    ("short_execs_delay_no_answer_hide_no_holder_with_bpf", || {
        check_answers("short-lived", BPF);
    }),
    ("short_execs_delay_no_answer_hide_no_holder_with_netlink", || {
        check_answers("short-lived", NETLINK);
    }),
    ("short_execs_delay_no_answer_hide_no_holder_with_procfs", || {
        check_answers("short-lived", PROCFS);
    }),
];

/// The number of processes that call execve(2) in a loop, and the time that each call waits.
const LOOPS: u32 = 40;
const LOOP_HOLD: Duration = Duration::from_millis(150);
/// The number of processes that end after an execve(2), and the time that each call waits.
const SHORT_LIVED: u32 = 20;
const SHORT_LIVED_HOLD: Duration = Duration::from_millis(900);
/// The user of the process with the expected rows.
const BYSTANDER: u32 = NOBODY - 100;
/// The number of scans during an attack, which ends with the file server after 20 s.
const ANSWERS: usize = 4;

/// Checks that every answer arrives within [`TIME`], and has the holder of another user's sockets.
fn check_answers(attack: &str, (name, source): NamedSource) {
    let loops = if attack == "exec-loops" { "exec_loops" } else { "short_execs" };
    let test = format!("{loops}_delay_no_answer_hide_no_holder_with_{name}");
    let Some(device) = prepare(&test, (name, source)) else { return };
    let bystander = Bystander::start_as(BYSTANDER);
    let table = table(source);
    let before = bystander.rows(&answer(&table, &[]));
    assert_eq!(before.len(), 6, "{before:#?}");
    let directory = tempfile::tempdir().unwrap();
    let attacker = Attacker::start(attack, &[&device.path(), directory.path().to_str().unwrap()]);
    let server = attacker.reported()[0].parse().unwrap();
    let mut wrong = Vec::new();
    for number in 1..=ANSWERS {
        for query in [&[][..], &[("pid", &*bystander.pid())]] {
            let start = Instant::now();
            let during = bystander.rows(&answer(&table, query));
            let time = start.elapsed();
            println!("{name}, {attack}, answer {number} to {query:?}: {:.2} s", time.as_secs_f64());
            if time > TIME {
                wrong.push(format!("answer {number} to {query:?}: {time:?}"));
            }
            if during != before {
                wrong.push(format!("answer {number} to {query:?} has {during:#?}"));
            }
        }
    }
    wrong.extend((!is_alive(server)).then(|| "the attack ended before the answers".to_owned()));
    assert_eq!(wrong, [""; 0]);
}

/// Mounts FUSE with a server that makes execve(2) wait for `hold`; returns the pid of the server.
fn mount_slow(arguments: &[String], hold: Duration) -> i32 {
    let [device, directory] = arguments else { panic!("{arguments:?}") };
    enter_user_namespace(libc::CLONE_NEWNS);
    mount(&["--make-rprivate", "/"]);
    fuse::mount_slow(device, directory, "", Some(hold)).pid
}

/// Arguments: `device` and `directory`.
fn exec_loops(arguments: &[String]) -> ! {
    let server = mount_slow(arguments, LOOP_HOLD);
    for _ in 0..LOOPS {
        if fork() == 0 {
            exec_again(&arguments[1]);
        }
    }
    report_ready(&server.to_string());
    super::attacker::park()
}

/// The program that each process of the loops executes. Argument: `directory`.
fn exec_once(arguments: &[String]) -> ! {
    if is_over() {
        exit_now();
    }
    exec_again(&arguments[0])
}

/// Executes this program again, until the test or the file server ends.
fn exec_again(directory: &str) -> ! {
    if let Ok(_file) = fs::File::open(format!("{directory}/{}", fuse::FILE)) {
        let mut again = Command::new("/proc/self/exe");
        // Uid 0: the process has already given up its privileges.
        again.arg(directory).env(ATTACK, "exec-once").env(ATTACK_USER, "0");
        let error = again.exec();
        eprintln!("exec: {error}");
    }
    exit_now()
}

/// Starts another process when one ends. Arguments: `device` and `directory`.
fn short_lived(arguments: &[String]) -> ! {
    let server = mount_slow(arguments, SHORT_LIVED_HOLD);
    let start = || {
        if fork() == 0 {
            let file = fs::File::open(format!("{}/{}", arguments[1], fuse::FILE));
            if file.is_ok() {
                eprintln!("exec: {}", Command::new("true").exec());
            }
            exit_now();
        }
    };
    (0..SHORT_LIVED).for_each(|_| start());
    report_ready(&server.to_string());
    while !is_over() {
        let ended = wait(WaitOptions::empty()).unwrap();
        // The end of the server is the end of the attack.
        match ended {
            Some((pid, _)) if pid.as_raw_pid() == server => exit_now(),
            _ => start(),
        }
    }
    exit_now()
}
