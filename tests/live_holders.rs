//! The table over this host's `/proc`: who holds a socket, in which network namespace, while
//! processes come and go.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]
// To enter a namespace between fork and exec.
#![allow(unsafe_code)]

mod support;

use std::fs::File;
use std::io::Read;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use rustix::fs::{Mode, OFlags};
use rustix::net::{self, AddressFamily, SocketType, ipproto};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use support::left_out::is_root_or_say;
use support::own::{imitate_line_about, inode, net_namespace, pid, row, rows_of};
use support::rows::{rows_where, table};
use support::sleeper::Sleeper;
use tables::process_open_sockets::{Options, ProcessOpenSockets};
use tables::{Constraint, Operator, QueryContext, Table, Value};

/// One test at a time: until a child is a program of its own it holds all that this process holds,
/// the sockets of other tests too.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sleeper {
    /// The same in a network namespace of its own, where it does this first. Between fork and exec
    /// only bare system calls may be made: nothing that allocates or locks.
    fn in_new_namespace(
        socket: impl Into<Stdio>,
        mut first: impl FnMut() -> std::io::Result<()> + Send + Sync + 'static,
    ) -> Sleeper {
        let mut command = Command::new("sleep");
        command.arg("600").stdin(socket);
        // SAFETY: unshare is a bare system call, and `first` is held to make no other.
        unsafe {
            command.pre_exec(move || {
                rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET)?;
                first()
            });
        }
        Sleeper(command.spawn().unwrap())
    }

    /// The same, holding the socket that is made there too; with its descriptor and inode.
    fn with_socket_in_new_namespace(
        mut make: impl FnMut() -> rustix::io::Result<OwnedFd> + Send + Sync + 'static,
    ) -> (Sleeper, i32, u64) {
        let (mut told, tell) = std::io::pipe().unwrap();
        let tell = OwnedFd::from(tell);
        let sleeper = Sleeper::in_new_namespace(Stdio::null(), move || {
            let socket = make()?;
            rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::empty())?;
            rustix::io::write(&tell, &rustix::fs::fstat(&socket)?.st_ino.to_ne_bytes())?;
            rustix::io::write(&tell, &socket.as_raw_fd().to_ne_bytes())?;
            std::mem::forget(socket);
            Ok(())
        });
        let (mut inode, mut fd) = ([0; 8], [0; 4]);
        told.read_exact(&mut inode).unwrap();
        told.read_exact(&mut fd).unwrap();
        (sleeper, i32::from_ne_bytes(fd), u64::from_ne_bytes(inode))
    }
}

#[test]
fn a_socket_held_by_two_processes_and_twice_by_one_is_three_rows() {
    let _alone = alone();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let twice = listener.try_clone().unwrap();
    let child = Sleeper::holding(OwnedFd::from(listener.try_clone().unwrap()));
    let rest = format!("2|6|127.0.0.1|0.0.0.0|{port}|0||LISTEN");
    let mut expected = [
        row(&listener, &rest),
        row(&twice, &rest),
        format!("{}|0|{}|{rest}|{}", child.pid(), inode(&listener), net_namespace("self")),
    ];
    expected.sort();
    assert_eq!(rows_of(&listener), expected);
    let of_child =
        rows_where(&table(Path::new("/proc")), &[("pid", &child.pid().to_string()), ("fd", "0")]);
    assert_eq!(of_child.len(), 1);
    assert!(expected.contains(&of_child[0]), "{of_child:?}");
}

#[test]
fn who_has_a_handle_of_a_socket_does_not_hold_it() {
    let _alone = alone();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let link = format!("/proc/self/fd/{}", listener.as_raw_fd());
    let handle = rustix::fs::open(link, OFlags::PATH, Mode::empty()).unwrap();
    assert_eq!(inode(&handle), inode(&listener));
    let number = inode(&listener).to_string();
    let fds = |table: &ProcessOpenSockets, column, value: String| -> Vec<String> {
        let rows = rows_where(table, &[(column, &value)]);
        let ours = rows.iter().map(|row| row.split('|').collect::<Vec<_>>());
        let ours = ours.filter(|cells| cells[2] == number);
        ours.map(|cells| cells[1].to_owned()).collect()
    };
    for bpf_from_files in [None, Some(0)] {
        let table = ProcessOpenSockets::new(Options { bpf_from_files, ..Options::default() });
        let holds = [listener.as_raw_fd().to_string()];
        assert_eq!(fds(&table, "socket", number.clone()), holds);
        assert_eq!(fds(&table, "pid", pid().to_string()), holds);
    }
}

#[test]
fn a_thread_is_no_process() {
    let _alone = alone();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let table = table(Path::new("/proc"));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let tid = rustix::thread::gettid().as_raw_nonzero().to_string();
            assert_ne!(tid, pid());
            assert_eq!(rows_where(&table, &[("pid", &tid)]), [""; 0]);
        });
    });
    let of_process = rows_where(&table, &[("pid", &pid()), ("socket", &inode(&listener))]);
    assert_eq!(of_process.len(), 1);
}

#[test]
fn a_socket_of_another_network_namespace_shows_that_one() {
    let _alone = alone();
    let test = "a_socket_of_another_network_namespace_shows_that_one";
    if !is_root_or_say(test, "a network namespace needs CAP_SYS_ADMIN") {
        return;
    }
    let (sleeper, fd, inode) = Sleeper::with_socket_in_new_namespace(|| {
        let socket = net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
        net::bind(&socket, &SocketAddr::from((Ipv4Addr::UNSPECIFIED, 4444)))?;
        net::listen(&socket, 1)?;
        Ok(socket)
    });
    let pid = sleeper.pid();

    let namespace = net_namespace(pid);
    assert_ne!(namespace, net_namespace("self"));
    let expected = format!("{pid}|{fd}|{inode}|2|6|0.0.0.0|0.0.0.0|4444|0||LISTEN|{namespace}");
    let table = table(Path::new("/proc"));
    assert_eq!(rows_where(&table, &[("socket", &inode.to_string())]), [&expected[..]]);
    assert_eq!(rows_where(&table, &[("pid", &pid.to_string())]), [&expected[..]]);
    assert_eq!(rows_where(&table, &[("net_namespace", &namespace)]), [expected]);
}

#[test]
fn a_ping_socket_shows_its_identifier_as_port() {
    let _alone = alone();
    let test = "a_ping_socket_shows_its_identifier_as_port";
    if !is_root_or_say(
        test,
        "a network namespace where ping sockets are allowed needs CAP_SYS_ADMIN",
    ) {
        return;
    }
    let (sleeper, fd, inode) = Sleeper::with_socket_in_new_namespace(|| {
        let setting = "/proc/sys/net/ipv4/ping_group_range";
        let setting = rustix::fs::open(setting, OFlags::WRONLY, Mode::empty())?;
        rustix::io::write(&setting, b"0 0")?;
        let socket = net::socket(AddressFamily::INET, SocketType::DGRAM, Some(ipproto::ICMP))?;
        net::bind(&socket, &SocketAddr::from((Ipv4Addr::UNSPECIFIED, 77)))?;
        // The kernel lists each of the two among the sockets of the other's family as well.
        let six = net::socket(AddressFamily::INET6, SocketType::DGRAM, Some(ipproto::ICMPV6))?;
        rustix::io::fcntl_setfd(&six, rustix::io::FdFlags::empty())?;
        net::bind(&six, &SocketAddr::from((Ipv6Addr::UNSPECIFIED, 77)))?;
        std::mem::forget(six);
        Ok(socket)
    });
    let pid = sleeper.pid();
    let namespace = net_namespace(pid);
    let table = table(Path::new("/proc"));
    let expected = format!("{pid}|{fd}|{inode}|2|1|0.0.0.0|0.0.0.0|77|0|||{namespace}");
    assert_eq!(rows_where(&table, &[("socket", &inode.to_string())]), [&expected[..]]);
    let both = rows_where(&table, &[("pid", &pid.to_string())]);
    assert_eq!(both.len(), 2, "{both:?}");
    assert!(both.contains(&expected), "{both:?}");
    let six = rows_where(&table, &[("net_namespace", &namespace), ("family", "10")]);
    assert_eq!(six.len(), 1, "{six:?}");
    assert!(six[0].contains("|10|58|::|::|77|0|"), "{six:?}");
}

#[test]
fn a_path_that_imitates_a_line_hides_no_socket_of_another_namespace() {
    let _alone = alone();
    let test = "a_path_that_imitates_a_line_hides_no_socket_of_another_namespace";
    if !is_root_or_say(test, "a network namespace needs CAP_SYS_ADMIN") {
        return;
    }
    let (sleeper, fd, inode) = Sleeper::with_socket_in_new_namespace(|| {
        let socket = net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
        net::bind(&socket, &SocketAddr::from((Ipv4Addr::UNSPECIFIED, 4445)))?;
        net::listen(&socket, 1)?;
        Ok(socket)
    });
    let process = pidfd_open(Pid::from_child(&sleeper.0), PidfdFlags::empty()).unwrap();
    let taken = pidfd_getfd(&process, fd, PidfdGetfdFlags::empty()).unwrap();
    let _forger = imitate_line_about(&inode.to_string());

    let namespace = net_namespace(sleeper.pid());
    let rest = format!("{inode}|2|6|0.0.0.0|0.0.0.0|4445|0||LISTEN|{namespace}");
    let of_mine = format!("{}|{}|{rest}", pid(), taken.as_raw_fd());
    let of_sleeper = format!("{}|{fd}|{rest}", sleeper.pid());
    let mut both = [of_mine.clone(), of_sleeper];
    both.sort();
    let table = table(Path::new("/proc"));
    let inode = inode.to_string();
    assert_eq!(rows_where(&table, &[("socket", &inode)]), both);
    assert_eq!(rows_where(&table, &[("pid", &pid()), ("socket", &inode)]), [of_mine]);
}

#[test]
fn a_socket_whose_holder_is_in_another_network_namespace_shows_its_own() {
    let _alone = alone();
    let test = "a_socket_whose_holder_is_in_another_network_namespace_shows_its_own";
    if !is_root_or_say(test, "a network namespace needs CAP_SYS_ADMIN") {
        return;
    }
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let sleeper =
        Sleeper::in_new_namespace(OwnedFd::from(listener.try_clone().unwrap()), || Ok(()));
    let pid = sleeper.pid();
    assert_ne!(net_namespace(pid), net_namespace("self"));
    let expected = format!(
        "{pid}|0|{}|2|6|127.0.0.1|0.0.0.0|{port}|0||LISTEN|{}",
        inode(&listener),
        net_namespace("self")
    );
    let table = table(Path::new("/proc"));
    assert_eq!(rows_where(&table, &[("pid", &pid.to_string())]), [&expected[..]]);
    assert!(rows_where(&table, &[("local_port", &port.to_string())]).contains(&expected));
}

#[test]
fn descriptors_that_come_and_go_during_the_scan_are_no_error_and_hide_nothing() {
    let _alone = alone();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let _churn = Churn::start(|| {
        let _short_lived = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let _file = File::open("/dev/null").unwrap();
        // Until it is a program of its own, the child holds all that this process holds.
        let _ = Command::new("true").status();
    });
    for _ in 0..50 {
        let rows = rows_where(&table(Path::new("/proc")), &[("local_port", &port)]);
        let mine = rows.iter().filter(|row| row.starts_with(&format!("{}|", pid()))).count();
        let unowned = rows.iter().filter(|row| row.starts_with("-1|")).count();
        assert_eq!((mine, unowned), (1, 0), "{rows:?}");
    }
}

#[test]
fn a_socket_that_closes_during_the_scan_says_so() {
    let _alone = alone();
    let address = Ipv4Addr::new(127, 77, 77, 77);
    let open_and_close = move || drop(UdpSocket::bind((address, 0)).unwrap());
    let _churn = [Churn::start(open_and_close), Churn::start(open_and_close)];
    let table = table(Path::new("/proc"));
    let column = |name| table.columns().iter().position(|column| column.name == name).unwrap();
    let [pid_at, address_at, why_at] = ["pid", "local_address", "owner_unknown"].map(column);
    let query = QueryContext {
        constraints: [("family", "2"), ("protocol", "17")]
            .map(|(name, text)| Constraint {
                column: column(name),
                operator: Operator::Equals,
                text: text.into(),
            })
            .into(),
        ..QueryContext::default()
    };
    let (mut held, mut other) = (0, 0);
    for _ in 0..300 {
        let rows = table.generate(&query).unwrap();
        for row in 0..rows.len() {
            if rows.cell(row, address_at) != Value::Text("127.77.77.77".into()) {
                continue;
            }
            match rows.cell(row, why_at) {
                Value::Text(why) if why.is_empty() => {
                    held += 1;
                    assert_eq!(rows.cell(row, pid_at), Value::Integer(pid().parse().unwrap()));
                }
                Value::Text(why) if why == "closed_during_scan" => {
                    other += 1;
                    assert_eq!(rows.cell(row, pid_at), Value::Integer(-1));
                }
                // A thread that loses its processor in the middle of close(2) has a socket without a
                // descriptor.
                why => assert_ne!(why, Value::Null),
            }
        }
    }
    assert!(held > 0 && other > 0, "held {held}, closed {other}");
}

/// Does something over and over in another thread, until it is dropped.
struct Churn(Arc<AtomicBool>, Option<JoinHandle<()>>);

impl Churn {
    fn start(each: impl Fn() + Send + 'static) -> Churn {
        let on = Arc::new(AtomicBool::new(true));
        let go_on = Arc::clone(&on);
        let thread = std::thread::spawn(move || {
            while go_on.load(Ordering::Relaxed) {
                each();
            }
        });
        Churn(on, Some(thread))
    }
}

impl Drop for Churn {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
        let _ = self.1.take().map(JoinHandle::join);
    }
}
