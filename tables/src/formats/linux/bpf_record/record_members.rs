//! The bytes of a record.

use std::mem::offset_of;

use crate::formats::linux::record_layout::record;

record! {
    /// The record of a socket and a descriptor that refers to it.
    struct SocketRecord {
        /// The size of the whole record in bytes.
        size: u32,
        /// The process, in the PID namespace that the program was made for.
        tgid: u32,
        tid: u32,
        fd: u32,
        inode: u64,
        /// The address of the task's file descriptor table.
        files: u64,
        /// That of the table of the process's first task; 0 if that task has ended.
        leader_files: u64,
        /// Nanoseconds from boot to the start of the process; 0 if the kernel does not report it.
        start_boottime: u64,
        net: u32,
        uid: u32,
        family: u16,
        /// SOCK_*.
        kind: u16,
        protocol: u16,
        state: u8,
        /// 1 if the socket is in a hash table or a list of its protocol.
        is_listed: u8,
        local_port: u16,
        /// In network byte order; for a packet socket its ethertype.
        remote_port: u16,
        interface: u32,
        /// An IPv4 address is in the first four bytes.
        local: [u8; 16],
        remote: [u8; 16],
        cgroup: u64,
        /// TCP: `rcv_nxt`. UNIX: the number of messages in the receive queue. Others: `sk_rmem_alloc`.
        received: u32,
        /// TCP: `copied_seq`. UNIX: the bytes in the receive queue, or of its first message, read without a
        /// lock. UDP: `forward_deficit`.
        read: u32,
        /// TCP: `write_seq`. Others: `sk_wmem_alloc`.
        written: u32,
        /// TCP: `snd_una`.
        acknowledged: u32,
        backlog: u32,
        max_backlog: u32,
        /// The inode of the UNIX socket at the other end.
        peer: u64,
        /// Bytes of the UNIX socket's name, with the two of its family; 0 if it has none.
        name_length: u32,
        /// The depth of the task's PID namespace; the first one has 0.
        level: u32,
        /// 1 if the record has the fields outside `struct sock`: ethertype and interface of a packet socket; for a
        /// UNIX stream, `read` is then the size of the whole queue.
        has_family_fields: u32,
        _reserved: u32,
    }
}

record! {
    /// What the extended program adds to a record, between the socket and its name.
    struct Extension {
        /// The socket cookie; 0 if the kernel does not report it.
        cookie: u64,
        /// Ticks of the kernel since boot, at the time of the record.
        ticks: u64,
        bytes_sent: u64,
        bytes_retransmitted: u64,
        bytes_received: u64,
        /// The inode of the file to which a UNIX socket is bound.
        file_inode: u64,
        congestion_algorithm: [u8; 16],
        /// The device of that file, as the kernel numbers devices.
        file_device: u32,
        /// In the PID namespace that the program was made for; 0 if it has no number there.
        peer_pid: u32,
        peer_uid: u32,
        /// `srtt_us`, in eighths of a microsecond.
        rtt: u32,
        /// `mdev_us`, in quarters of a microsecond.
        rtt_variance: u32,
        min_rtt_us: u32,
        retransmits: u32,
        lost: u32,
        congestion_window: u32,
        send_mss: u32,
        /// When data was last sent and received, in ticks since boot.
        last_sent: u32,
        last_received: u32,
        /// Segments that were delivered,
        delivered: u32,
        /// and in how many microseconds.
        delivered_in_us: u32,
        /// When `running_chrono` began, in ticks since boot.
        chrono_start: u32,
        /// The times of data in flight and of the two limits of the window, in ticks.
        chrono_busy: u32,
        chrono_receive_window: u32,
        chrono_send_buffer: u32,
        ticks_per_second: u32,
        /// The number of the time that runs now; 0 if none does.
        running_chrono: u8,
        /// 1 if the record has the fields of a TCP socket,
        has_tcp: u8,
        /// of the peer of a UNIX socket,
        has_peer: u8,
        /// and of the file to which it is bound.
        has_file: u8,
    }
}

/// The record of a UNIX socket.
#[repr(C)]
pub(crate) struct UnixSocketRecord {
    socket: SocketRecord,
    pub(crate) name: [u8; NAME_SIZE],
}

/// `struct sockaddr_un`, up to the next multiple of eight.
pub(crate) const NAME_SIZE: usize = 112;
pub(crate) const RECORD_SIZE: usize = size_of::<SocketRecord>();
pub(super) const UNIX_RECORD_SIZE: usize = size_of::<UnixSocketRecord>();
pub(crate) const EXTENSION_SIZE: usize = size_of::<Extension>();
pub(super) const EXTENDED_RECORD_SIZE: usize = RECORD_SIZE + EXTENSION_SIZE;
pub(super) const EXTENDED_UNIX_RECORD_SIZE: usize = UNIX_RECORD_SIZE + EXTENSION_SIZE;

// The kernel writes the record from the program's stack, which is aligned to eight bytes.
const _: () = assert!(RECORD_SIZE == 160 && align_of::<SocketRecord>() == 8);
const _: () = assert!(UNIX_RECORD_SIZE == RECORD_SIZE + NAME_SIZE);
// The size of a record shows which parts it has.
const _: () = assert!(EXTENSION_SIZE != NAME_SIZE && EXTENSION_SIZE.is_multiple_of(8));
// The reader finds the size first, and what it reads of one record also in the other.
const _: () = assert!(offset_of!(SocketRecord, size) == 0);
const _: () = assert!(offset_of!(UnixSocketRecord, socket) == 0);

/// The field of that member of a [`SocketRecord`].
macro_rules! field {
    ($member:ident) => {{
        use $crate::formats::linux::bpf_record::record_members::SocketRecord;
        $crate::formats::linux::record_layout::Field::new(
            std::mem::offset_of!(SocketRecord, $member),
            |record: SocketRecord| record.$member,
        )
    }};
}
pub(crate) use field;

/// The field of that member of the [`Extension`], which follows the socket.
macro_rules! extension {
    ($member:ident) => {{
        use $crate::formats::linux::bpf_record::record_members::{Extension, RECORD_SIZE};
        let field = $crate::formats::linux::record_layout::Field::new(
            std::mem::offset_of!(Extension, $member),
            |extension: Extension| extension.$member,
        );
        field.after(RECORD_SIZE)
    }};
}
pub(crate) use extension;
