//! Writes what the kernel of macOS would, for tests: one socket, as a list tells of it and as a
//! descriptor's answer does.

use std::net::{IpAddr, Ipv4Addr};

use super::pcblist_n::PcbList;

/// Which form of `struct xsocket_n`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// 76 bytes, and 4 to the next multiple of 8.
    Macos12,
    /// 104 bytes.
    Macos13,
}

/// A socket as the kernel has it.
#[derive(Clone, Debug)]
pub(crate) struct KernelSocket {
    pub(crate) handle: u64,
    pub(crate) pcb: u64,
    pub(crate) generation: u64,
    pub(crate) kind: i16,
    pub(crate) options: u32,
    pub(crate) so_state: u16,
    /// The number of the kernel's entry for its protocol: 0 for most raw sockets.
    pub(crate) protocol: i32,
    /// The protocol that a raw socket was made with.
    pub(crate) raw_protocol: u8,
    pub(crate) family: i32,
    pub(crate) queue: [i16; 3],
    pub(crate) uid: u32,
    pub(crate) last_pid: i32,
    pub(crate) flags: u32,
    pub(crate) flags1: u32,
    pub(crate) received: u32,
    pub(crate) sent: u32,
    pub(crate) vflag: u8,
    pub(crate) local: (IpAddr, u16),
    pub(crate) remote: (IpAddr, u16),
    pub(crate) tcp_state: i32,
    pub(crate) path: &'static [u8],
    pub(crate) peer: u64,
    pub(crate) peer_pcb: u64,
    /// The name of a control, or of an interface without its number.
    pub(crate) name: &'static str,
    /// Vendor, class and subclass; the number of an interface; or the ends of a vsock socket.
    pub(crate) numbers: [u32; 4],
    /// `soi_kind`.
    pub(crate) tells: i32,
}

impl Default for KernelSocket {
    /// An IPv4 socket of TCP that does nothing.
    fn default() -> Self {
        let nowhere = (IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
        KernelSocket {
            handle: 0,
            pcb: 0,
            generation: 1,
            kind: 1,
            options: 0,
            so_state: 0,
            protocol: 6,
            raw_protocol: 0,
            family: 2,
            queue: [0; 3],
            uid: 501,
            last_pid: 0,
            flags: 0,
            flags1: 0,
            received: 0,
            sent: 0,
            vflag: 1,
            local: nowhere,
            remote: nowhere,
            tcp_state: 0,
            path: b"",
            peer: 0,
            peer_pcb: 0,
            name: "",
            numbers: [0; 4],
            tells: 2,
        }
    }
}

/// Bytes that are zero where nothing is put.
struct Bytes(Vec<u8>);

impl Bytes {
    fn new(length: usize) -> Self {
        Bytes(vec![0; length])
    }

    fn put(mut self, offset: usize, bytes: impl AsRef<[u8]>) -> Self {
        self.0[offset..][..bytes.as_ref().len()].copy_from_slice(bytes.as_ref());
        self
    }

    fn put_u32(self, offset: usize, number: u32) -> Self {
        self.put(offset, number.to_le_bytes())
    }

    fn put_u64(self, offset: usize, number: u64) -> Self {
        self.put(offset, number.to_le_bytes())
    }
}

/// A record with its head and with what fills it up to a multiple of 8.
fn record(kind: u32, length: usize) -> Bytes {
    let bytes = Bytes::new(length.next_multiple_of(8));
    bytes.put_u32(0, u32::try_from(length).unwrap()).put_u32(4, kind)
}

fn union(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()).to_be_bytes(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

fn sockaddr_un(path: &[u8]) -> Vec<u8> {
    if path.is_empty() { Vec::new() } else { [b"\x6a\x01", path].concat() }
}

impl KernelSocket {
    /// Its records in a list.
    pub(crate) fn group(&self, list: PcbList, layout: Layout) -> Vec<u8> {
        let [vendor, class, subclass, _] = self.numbers;
        let pcb = match list {
            PcbList::Tcp | PcbList::Udp | PcbList::Raw => record(0x10, 104)
                .put_u64(8, self.pcb)
                .put(16, self.remote.1.to_be_bytes())
                .put(18, self.local.1.to_be_bytes())
                .put_u64(28, self.generation)
                .put(44, [self.vflag])
                .put(46, [self.raw_protocol])
                .put(48, union(self.remote.0))
                .put(64, union(self.local.0)),
            PcbList::LocalStream | PcbList::LocalDgram => record(0x200, 588)
                .put_u64(8, self.pcb)
                .put_u64(32, self.peer_pcb)
                .put_u64(68, self.generation)
                .put(76, sockaddr_un(self.path)),
            PcbList::Kctl => record(0x80, 128).put_u64(8, self.pcb).put(32, self.name),
            PcbList::Kevt => record(0x100, 32)
                .put_u64(8, self.pcb)
                .put_u32(16, vendor)
                .put_u32(20, class)
                .put_u32(24, subclass),
        };
        let mut group = pcb.0;
        group.extend(self.xsocket_n(layout));
        group.extend(record(0x2, 32).put_u32(8, self.received).0);
        group.extend(record(0x4, 32).put_u32(8, self.sent).0);
        group.extend(record(0x8, 136).0);
        if list == PcbList::Tcp {
            group.extend(record(0x20, 204).put(36, self.tcp_state.to_le_bytes()).0);
        }
        group
    }

    fn xsocket_n(&self, layout: Layout) -> Vec<u8> {
        let socket = record(0x1, if layout == Layout::Macos12 { 76 } else { 104 })
            .put_u64(8, self.handle)
            .put(16, self.kind.to_le_bytes())
            .put_u32(20, self.options)
            .put(26, self.so_state.to_le_bytes())
            .put_u64(28, self.pcb)
            .put(36, self.protocol.to_le_bytes())
            .put(40, self.family.to_le_bytes())
            .put(44, self.queue.map(i16::to_le_bytes).concat())
            .put_u32(64, self.uid)
            .put(68, self.last_pid.to_le_bytes());
        match layout {
            Layout::Macos12 => socket.0,
            Layout::Macos13 => socket.put_u32(84, self.flags).put_u32(88, self.flags1).0,
        }
    }

    /// What a descriptor of it answers.
    pub(crate) fn socket_fdinfo(&self) -> Vec<u8> {
        let answer = Bytes::new(792)
            .put_u32(16, 2)
            .put_u64(160, self.handle)
            .put_u64(168, self.pcb)
            .put(176, i32::from(self.kind).to_le_bytes())
            .put(180, self.protocol.to_le_bytes())
            .put(184, self.family.to_le_bytes())
            .put(188, &self.options.to_le_bytes()[..2])
            .put(192, self.so_state.to_le_bytes())
            .put(194, self.queue.map(i16::to_le_bytes).concat())
            .put_u32(208, self.received)
            .put_u32(232, self.sent)
            .put(256, self.tells.to_le_bytes());
        let [first, second, third, fourth] = self.numbers;
        let numbers = |answer: Bytes| {
            let answer = answer.put_u32(264, first).put_u32(268, second);
            answer.put_u32(272, third).put_u32(276, fourth)
        };
        match self.tells {
            1 | 2 => answer
                .put(264, self.remote.1.to_be_bytes())
                .put(268, self.local.1.to_be_bytes())
                .put_u64(272, self.generation)
                .put(288, [self.vflag])
                .put(296, union(self.remote.0))
                .put(312, union(self.local.0))
                .put(344, self.tcp_state.to_le_bytes()),
            3 => answer
                .put_u64(264, self.peer)
                .put_u64(272, self.peer_pcb)
                .put(280, sockaddr_un(self.path)),
            4 => answer.put_u32(268, second).put(272, self.name),
            5 | 7 => numbers(answer),
            6 => answer.put(288, self.name),
            _ => answer,
        }
        .0
    }
}

/// A list's header, or what stands at its end.
pub(crate) fn header(list: PcbList, count: u32, generation: u64) -> Vec<u8> {
    let header = match list {
        PcbList::Kctl | PcbList::Kevt => {
            Bytes::new(32).put_u32(0, 32).put_u32(8, count).put_u64(16, generation)
        }
        _ => Bytes::new(24).put_u32(0, 24).put_u32(4, count).put_u64(8, generation),
    };
    header.0
}

/// A whole list.
pub(crate) fn value(list: PcbList, layout: Layout, sockets: &[KernelSocket]) -> Vec<u8> {
    let count = u32::try_from(sockets.len()).unwrap();
    let header = header(list, count, 1_000_000);
    let groups: Vec<u8> = sockets.iter().flat_map(|socket| socket.group(list, layout)).collect();
    if sockets.is_empty() { header } else { [&header[..], &groups, &header].concat() }
}

/// The bytes of a file of `fixtures/xnu`; zeroes up to `length` where its lines have offsets.
pub(crate) fn fixture(text: &str, length: Option<usize>) -> Vec<u8> {
    let unhex = |text: &str| -> Vec<u8> {
        let digits = text.as_bytes().chunks(2);
        digits.map(|it| u8::from_str_radix(str::from_utf8(it).unwrap(), 16).unwrap()).collect()
    };
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let Some(length) = length else { return lines.flat_map(unhex).collect() };
    let put = |bytes: Bytes, line: &str| {
        let (offset, digits) = line.split_once(' ').unwrap();
        bytes.put(offset.parse().unwrap(), unhex(digits))
    };
    lines.fold(Bytes::new(length), put).0
}
