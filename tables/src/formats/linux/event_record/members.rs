//! The bytes of the records. Numbers are in the byte order of the machine, unless documented otherwise.

use std::mem::offset_of;

use crate::formats::linux::record_layout::record;

/// [`StateRecord::record`].
pub(crate) const STATE: u32 = 1;
/// [`StateRecord::record`] at the start of a [`DatagramRecord`].
pub(crate) const DATAGRAM: u32 = 3;
/// [`StateRecord::record`] of the end of a datagram socket.
pub(crate) const DATAGRAM_END: u32 = 4;
/// [`ExecutableRecord::record`].
pub(crate) const EXECUTABLE: u32 = 2;

record! {
    /// A change of a socket's state.
    struct StateRecord {
        /// Which record this is.
        record: u32,
        old: u8,
        new: u8,
        /// 1 if the members of `struct tcp_sock` are filled in.
        has_tcp: u8,
        /// 1 if the members of the task are filled in.
        has_actor: u8,
        /// CLOCK_BOOTTIME.
        boot_ns: u64,
        /// The socket cookie, or before Linux 5.12 the address of the `struct sock`.
        socket: u64,
        inode: u64,
        net: u32,
        /// `sk_err`.
        error: u32,
        family: u16,
        /// SOCK_*.
        kind: u16,
        protocol: u16,
        /// 0 once the socket is closed.
        num: u16,
        /// In network byte order.
        dport: u16,
        /// Of `struct tcp_sock`, in network byte order. It keeps the port of a closed socket.
        sport: u16,
        /// `sk_uid`.
        owner_uid: u32,
        /// An IPv4 address is in the first four bytes.
        local: [u8; 16],
        remote: [u8; 16],
        /// `skc_flags`.
        flags: u64,
        bytes_sent: u64,
        bytes_retrans: u64,
        bytes_received: u64,
        /// `tcp_sock.srtt_us`: eight times the smoothed round-trip time, in microseconds.
        srtt: u32,
        /// `tcp_sock.rtt_min`, in microseconds; all bits are set if none was measured.
        min_rtt: u32,
        tgid: u32,
        tid: u32,
        uid: u32,
        gid: u32,
        /// `start_boottime` of the process's first task.
        start_ns: u64,
        /// The address of the `struct file` of the executable.
        executable: u64,
        cgroup: u64,
        comm: [u8; 16],
        parent: u32,
        /// The number of the system call that the task is in; all bits are set if it is unknown.
        call: u32,
        /// The first argument of the system call.
        argument: u64,
    }
}

record! {
    /// A datagram that a socket sent first, or with which a process begins to be counted.
    struct DatagramRecord {
        /// Without states and counters.
        state: [u8; size_of::<StateRecord>()],
        /// The peer's address as the caller wrote it (`struct sockaddr_in` or `sockaddr_in6`), as far as its length goes;
        /// 0 if the caller names none.
        peer: [u8; 32],
        /// What the system call returns: a length, or a negative errno.
        result: u32,
        /// The length of the address that the caller names; 0 if it names none.
        peer_length: u32,
        /// The slot that counts for the socket and the process, and the slot's generation; 0: none.
        slot: u32,
        generation: u32,
        /// 1 if it is the first send of the socket.
        is_first_send: u32,
        /// 1 if it was received, 0 if it was sent.
        is_received: u32,
    }
}

record! {
    /// The executable of a process.
    struct ExecutableRecord {
        /// Which record this is.
        record: u32,
        /// 1 if the file is deleted.
        is_deleted: u8,
        /// 1 if the names reach up to the root.
        is_complete: u8,
        _reserved: u16,
        tgid: u32,
        _reserved2: u32,
        start_ns: u64,
        executable: u64,
        /// How many bytes of `names` are used.
        used: u64,
        /// The program's own variables while it walks up from the file to the root.
        dentry: u64,
        mount: u64,
        scratch: u64,
        parent: u64,
        /// The names of the file and of its directories up to the root, each with NUL at the end. The bytes behind
        /// `used` are undefined.
        names: [u8; NAMES_SIZE],
    }
}

record! {
    /// A descriptor that refers to a TCP socket, from the iterator over the descriptors of all tasks.
    struct OpenSocketRecord {
        /// The socket cookie.
        socket: u64,
        inode: u64,
        /// `start_boottime` of the process's first task.
        start_ns: u64,
        tgid: u32,
        tid: u32,
        fd: u32,
        net: u32,
        /// The depth of the task's PID namespace; the first one has 0.
        level: u32,
        family: u16,
        num: u16,
        /// In network byte order.
        dport: u16,
        state: u8,
        _reserved: u8,
        protocol: u16,
        _reserved2: u16,
        local: [u8; 16],
        remote: [u8; 16],
    }
}

record! {
    /// A socket with storage, from the iterator over it.
    struct LiveSocketRecord {
        cookie: u64,
        bytes_sent: u64,
        bytes_received: u64,
    }
}

/// Bytes for the names of a path. A name has up to [`NAME_SIZE`].
pub(crate) const NAMES_SIZE: usize = 1280;
/// `NAME_MAX` and a NUL.
pub(crate) const NAME_SIZE: usize = 256;
/// `struct sockaddr_in6`
pub(crate) const SOCKADDR_IN6_SIZE: usize = 28;
pub(super) const DATAGRAM_SIZE: usize = size_of::<DatagramRecord>();
pub(super) const STATE_SIZE: usize = size_of::<StateRecord>();
pub(super) const EXECUTABLE_SIZE: usize = size_of::<ExecutableRecord>();
pub(super) const LIVE_SOCKET_SIZE: usize = size_of::<LiveSocketRecord>();
pub(super) const OPEN_SOCKET_SIZE: usize = size_of::<OpenSocketRecord>();

// The ring buffer aligns its records to eight bytes, as the stack does.
const _: () = assert!(STATE_SIZE == 200 && align_of::<StateRecord>() == 8);
const _: () = assert!(DATAGRAM_SIZE == 256 && align_of::<DatagramRecord>() == 4);
const _: () = assert!(EXECUTABLE_SIZE == 1352 && align_of::<ExecutableRecord>() == 8);
const _: () = assert!(OPEN_SOCKET_SIZE == 88 && align_of::<OpenSocketRecord>() == 8);
// The decoder reads first which record it is, and program and decoder find the names at the end.
const _: () = assert!(offset_of!(StateRecord, record) == 0);
const _: () = assert!(offset_of!(ExecutableRecord, record) == 0);
const _: () = assert!(offset_of!(ExecutableRecord, names) + NAMES_SIZE == EXECUTABLE_SIZE);

/// The field of a member of a record.
macro_rules! field {
    ($record:ident.$member:ident) => {
        $crate::formats::linux::record_layout::Field::new(
            std::mem::offset_of!($record, $member),
            |record: $record| record.$member,
        )
    };
}
pub(crate) use field;
