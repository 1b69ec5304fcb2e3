//! An event, and the process that it names.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use crate::model::tcp_event::{Bytes, DatagramCounts, DatagramSocket, SocketKey, TcpCounts};
use crate::model::{Container, Endpoint, NetNamespace, User};

/// What happened to a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Connect,
    Accept,
    Listen,
    /// The first send of a socket without connections.
    Send,
    Close,
    /// The end of a flow of datagrams. Only `process_socket_flows` shows it.
    Flow,
}

impl Action {
    pub(super) fn name(self) -> &'static str {
        match self {
            Action::Connect => "connect",
            Action::Accept => "accept",
            Action::Listen => "listen",
            Action::Send => "send",
            Action::Close => "close",
            Action::Flow => "flow",
        }
    }
}

/// The result of an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Succeeded,
    Failed,
    /// The result of a connect was not known after some seconds.
    InProgress,
}

impl Status {
    pub(super) fn name(self) -> &'static str {
        match self {
            Status::Succeeded => "succeeded",
            Status::Failed => "failed",
            Status::InProgress => "in_progress",
        }
    }
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClosedBy {
    /// This host closed first.
    Local,
    /// The peer closed first.
    Remote,
    /// The peer reset the connection.
    Reset,
    /// The peer did not answer in time.
    Timeout,
}

impl ClosedBy {
    pub(super) fn name(self) -> &'static str {
        match self {
            ClosedBy::Local => "local",
            ClosedBy::Remote => "remote",
            ClosedBy::Reset => "reset",
            ClosedBy::Timeout => "timeout",
        }
    }
}

/// Which end opened a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// This host connected, or sent first.
    Outbound,
    /// This host accepted the connection, or received first.
    Inbound,
}

impl Direction {
    pub(super) fn name(self) -> &'static str {
        match self {
            Direction::Outbound => "outbound",
            Direction::Inbound => "inbound",
        }
    }
}

/// How a flow ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FlowResult {
    Closed,
    /// The peer reset the connection.
    Reset,
    /// The peer did not answer in time.
    Timeout,
    /// The connect failed.
    Failed,
    /// The socket is open, but the process did not use it for some time.
    Idle,
}

impl FlowResult {
    pub(super) fn name(self) -> &'static str {
        match self {
            FlowResult::Closed => "closed",
            FlowResult::Reset => "reset",
            FlowResult::Timeout => "timeout",
            FlowResult::Failed => "failed",
            FlowResult::Idle => "idle",
        }
    }
}

/// The numbers of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FlowCounts {
    Tcp(TcpCounts),
    Datagrams(DatagramCounts),
    Unknown,
}

/// A flow that has ended.
#[derive(Debug)]
pub(super) struct EndedFlow {
    /// CLOCK_BOOTTIME; None: before the collection.
    pub(super) start_ns: Option<u64>,
    pub(super) end_ns: u64,
    pub(super) direction: Option<Direction>,
    pub(super) result: FlowResult,
    /// The process that opened the connection, or used the socket.
    pub(super) opener: Option<Arc<Process>>,
    pub(super) attribution: Attribution,
    /// The process that closed the local end, if it is known.
    pub(super) closer: Option<Arc<Process>>,
    pub(super) counts: FlowCounts,
}

/// How the process of an event was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attribution {
    /// The kernel recorded it in the context of the process.
    Exact,
    /// The process that listens on the port: the kernel reports no process at the end of a handshake.
    Listener,
    /// A process that held the socket when the collection began.
    Snapshot,
    Unknown,
}

impl Attribution {
    /// Of a record, whether or not it names the process.
    pub(super) fn exact_or_unknown(is_known: bool) -> Attribution {
        if is_known { Attribution::Exact } else { Attribution::Unknown }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Attribution::Exact => "exact",
            Attribution::Listener => "listener",
            Attribution::Snapshot => "snapshot",
            Attribution::Unknown => "unknown",
        }
    }
}

/// The number of bytes of texts that events and caches share.
pub(super) type TextBytes = Arc<AtomicUsize>;

/// What a process executes: texts that many events share.
///
/// A text is set at most once. A query that reads an unset text sets it to '', since a row must not change after it
/// was read.
pub(super) struct Image {
    pub(super) pid: i32,
    /// `start_boottime` of the process.
    pub(super) start_ns: u64,
    /// The kernel's key of the executable; 0: unknown. It is an address: secret, never shown.
    pub(super) executable: u64,
    path: OnceLock<Arc<[u8]>>,
    cmdline: OnceLock<Box<[u8]>>,
    /// The name of the process, if no event has it.
    name: OnceLock<Box<[u8]>>,
    container: OnceLock<Container>,
    used: AtomicUsize,
    total: TextBytes,
}

/// Longest command line in bytes; the rest is cut off.
pub(super) const MAX_CMDLINE: usize = 1024;
/// Longest path and name in bytes.
const MAX_PATH: usize = 4096;

impl Image {
    /// The memory of an image without texts.
    const SIZE: usize = size_of::<Image>() + 32;

    pub(super) fn new(pid: i32, start_ns: u64, executable: u64, total: &TextBytes) -> Arc<Image> {
        total.fetch_add(Image::SIZE, Ordering::Relaxed);
        Arc::new(Image {
            pid,
            start_ns,
            executable,
            path: OnceLock::new(),
            cmdline: OnceLock::new(),
            name: OnceLock::new(),
            container: OnceLock::new(),
            used: AtomicUsize::new(Image::SIZE),
            total: Arc::clone(total),
        })
    }

    /// Whether both are of one process.
    pub(super) fn is_of_same_process(&self, other: &Image) -> bool {
        (self.pid, self.start_ns) == (other.pid, other.start_ns)
    }

    fn charge(&self, bytes: usize) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
        self.total.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The memory of the texts.
    pub(super) fn bytes(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    pub(super) fn set_path(&self, path: Arc<[u8]>) {
        let length = path.len();
        if length <= MAX_PATH && self.path.set(path).is_ok() {
            self.charge(length);
        }
    }

    pub(super) fn set_cmdline(&self, cmdline: &[u8]) {
        let cmdline = cmdline.get(..MAX_CMDLINE).unwrap_or(cmdline);
        if self.cmdline.set(cmdline.into()).is_ok() {
            self.charge(cmdline.len());
        }
    }

    pub(super) fn set_name(&self, name: &[u8]) {
        let name = name.get(..MAX_PATH).unwrap_or(name);
        if self.name.set(name.into()).is_ok() {
            self.charge(name.len());
        }
    }

    pub(super) fn set_container(&self, container: Container) {
        let texts = [&container.id, &container.pod_uid];
        let length = texts.into_iter().flatten().map(|text| text.len()).sum();
        if self.container.set(container).is_ok() {
            self.charge(length);
        }
    }

    /// The container of the process. From now on it does not change.
    pub(super) fn container(&self) -> &Container {
        self.container.get_or_init(Container::default)
    }

    /// Whether the path of the executable is known, or was read as ''.
    pub(super) fn has_path(&self) -> bool {
        self.path.get().is_some()
    }

    pub(super) fn known_path(&self) -> Option<&[u8]> {
        self.path.get().map(|path| &**path)
    }

    /// The path of the executable. From now on it does not change.
    pub(super) fn path(&self) -> &[u8] {
        self.path.get_or_init(|| Arc::from(&b""[..]))
    }

    /// The command line, with blanks between the arguments. From now on it does not change.
    pub(super) fn cmdline(&self) -> &[u8] {
        self.cmdline.get_or_init(Box::default)
    }

    /// The name. From now on it does not change.
    fn name(&self) -> &[u8] {
        self.name.get_or_init(Box::default)
    }
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Image of {}", self.pid)
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        self.total.fetch_sub(self.bytes(), Ordering::Relaxed);
    }
}

/// A control group (version 2) of processes.
#[derive(Debug)]
pub(super) struct Cgroup {
    pub(super) id: u64,
    path: OnceLock<Box<[u8]>>,
}

impl Cgroup {
    pub(super) fn new(id: u64) -> Arc<Cgroup> {
        Arc::new(Cgroup { id, path: OnceLock::new() })
    }

    pub(super) fn has_path(&self) -> bool {
        self.path.get().is_some()
    }

    pub(super) fn set_path(&self, path: &[u8]) {
        let _ = self.path.set(path.into());
    }

    /// The path. From now on it does not change.
    pub(super) fn path(&self) -> &[u8] {
        self.path.get_or_init(Box::default)
    }
}

/// The process that an event names. Events of one connection share it.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) pid: i32,
    /// None: no thread is known, as for a listener or a holder.
    pub(super) tid: Option<i32>,
    pub(super) parent: Option<i32>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    /// The name of the thread, with NUL at the end; None: the name of the image.
    pub(super) comm: Option<[u8; 16]>,
    pub(super) image: Arc<Image>,
    pub(super) cgroup: Option<Arc<Cgroup>>,
}

impl Process {
    pub(super) fn name(&self) -> &[u8] {
        match &self.comm {
            Some(comm) => comm.split(|&byte| byte == 0).next().unwrap_or_default(),
            None => self.image.name(),
        }
    }
}

/// The ends of a socket, with the namespace and the protocol in which they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ends {
    pub(super) local: Endpoint,
    pub(super) remote: Endpoint,
    pub(super) net_namespace: NetNamespace,
    pub(super) family: u16,
    pub(super) kind: u16,
    pub(super) protocol: u16,
}

impl Ends {
    pub(super) fn of_datagrams(socket: &DatagramSocket) -> Ends {
        let &DatagramSocket { local, remote, net_namespace, family, kind, protocol, .. } = socket;
        Ends { local, remote, net_namespace, family, kind, protocol }
    }
}

/// An event. It does not change once it is stored.
#[derive(Debug)]
pub(super) struct Event {
    /// A number that only grows; 0 before the event is stored.
    pub(super) id: u64,
    /// UNIX seconds; 0 before the event is stored.
    pub(super) time: i64,
    /// UNIX time minus CLOCK_BOOTTIME when the event was stored, in nanoseconds.
    pub(super) clock_offset_ns: i64,
    /// CLOCK_BOOTTIME.
    pub(super) boot_ns: u64,
    pub(super) action: Action,
    pub(super) status: Status,
    pub(super) attribution: Attribution,
    pub(super) closed_by: Option<ClosedBy>,
    /// 0: none.
    pub(super) errno: i32,
    pub(super) process: Option<Arc<Process>>,
    /// The owner of the socket.
    pub(super) owner_uid: u32,
    pub(super) fd: Option<i32>,
    pub(super) inode: u64,
    pub(super) socket: SocketKey,
    pub(super) ends: Ends,
    pub(super) duration_ns: Option<u64>,
    pub(super) bytes: Option<Bytes>,
    /// The flow that ends with this event.
    pub(super) ended: Option<Box<EndedFlow>>,
}

impl Event {
    /// An event of a socket that succeeded, of which nothing else is known.
    pub(super) fn new(socket: SocketKey, ends: Ends, boot_ns: u64, action: Action) -> Event {
        Event {
            id: 0,
            time: 0,
            clock_offset_ns: 0,
            boot_ns,
            action,
            status: Status::Succeeded,
            attribution: Attribution::Unknown,
            closed_by: None,
            errno: 0,
            process: None,
            owner_uid: NO_UID,
            fd: None,
            inode: 0,
            socket,
            ends,
            duration_ns: None,
            bytes: None,
            ended: None,
        }
    }

    /// An event of a datagram socket without result and bytes.
    pub(super) fn of_datagrams(
        socket: &DatagramSocket,
        boot_ns: u64,
        action: Action,
        process: Option<Arc<Process>>,
    ) -> Event {
        Event {
            attribution: Attribution::exact_or_unknown(process.is_some()),
            process,
            owner_uid: socket.owner_uid,
            inode: socket.inode,
            ..Event::new(socket.key, Ends::of_datagrams(socket), boot_ns, action)
        }
    }

    /// The user that the event is charged to.
    pub(super) fn user(&self) -> User {
        let of_process = self.process.as_ref().and_then(|process| process.uid);
        User::of_uid(Some(of_process.unwrap_or(self.owner_uid)))
    }

    /// The process that opened the flow that ends; None if none ends, or no process is known.
    pub(super) fn opener(&self) -> Option<&Process> {
        self.ended.as_ref()?.opener.as_deref()
    }

    /// UNIX time of the event in nanoseconds, by the clock as it was set when the event was stored.
    pub(super) fn unix_ns(&self) -> i64 {
        self.boot_ns.cast_signed().saturating_add(self.clock_offset_ns)
    }

    pub(super) fn pid(&self) -> i32 {
        self.process.as_ref().map_or(UNKNOWN_PID, |process| process.pid)
    }
}

/// Not a uid (`(uid_t) -1`): the owner is unknown.
pub(super) const NO_UID: u32 = u32::MAX;
/// The pid of an event whose process is unknown.
pub(super) const UNKNOWN_PID: i32 = -1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_was_read_as_empty_stays_empty() {
        let image = Image::new(7, 1, 0, &TextBytes::default());
        image.set_path(Arc::from(&b"/bin/a"[..]));
        assert_eq!(image.cmdline(), b"");
        image.set_cmdline(b"a -x");
        assert_eq!((image.path(), image.cmdline()), (&b"/bin/a"[..], &b""[..]));
    }

    #[test]
    fn the_bytes_of_texts_are_given_back() {
        let total = TextBytes::default();
        let image = Image::new(7, 1, 0, &total);
        image.set_cmdline(&[b'x'; 5000]);
        image.set_cmdline(b"again");
        assert_eq!(total.load(Ordering::Relaxed), Image::SIZE + MAX_CMDLINE);
        drop(image);
        assert_eq!(total.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_name_ends_at_the_first_nul() {
        let image = Image::new(7, 1, 0, &TextBytes::default());
        let process = |comm| Process {
            pid: 7,
            tid: None,
            parent: None,
            uid: None,
            gid: None,
            comm,
            image: Arc::clone(&image),
            cgroup: None,
        };
        assert_eq!(process(Some(*b"curl\0\0ld garbage")).name(), b"curl");
        assert_eq!(process(Some([b'x'; 16])).name(), [b'x'; 16]);
        image.set_name(b"sshd");
        assert_eq!(process(None).name(), b"sshd");
    }
}
