//! Writes records of the macOS kernel for tests: a socket in a list, and the record of its descriptor, in the layout
//! of `xnu_layout`.

use std::mem::offset_of;
use std::net::{IpAddr, Ipv4Addr};

use super::pcblist_n::PcbList;
use super::xnu_layout::{
    InSockinfo, KernCtlInfo, KernEventInfo, NdrvInfo, SocketFdinfo, SocketInfo, TcpSockinfo,
    UnSockinfo, VsockSockinfo, XinpcbN, Xinpgen, Xkctlpcb, Xkevtpcb, XsockbufN, XsocketN,
    XsockstatN, Xsystmgen, XtcpcbN, XunpcbN,
};

/// The layout of `struct xsocket_n`.
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
    /// The protocol that a raw socket was created with.
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
    /// Congestion window, segment size, round-trip time and its variance.
    pub(crate) tcp: [u32; 4],
    pub(crate) path: &'static [u8],
    pub(crate) peer: u64,
    pub(crate) peer_pcb: u64,
    /// The name of a control, or of an interface without its number.
    pub(crate) name: &'static str,
    /// Vendor, class and subclass; the number of an interface; or the ends of a vsock socket.
    pub(crate) numbers: [u32; 4],
    /// `soi_kind`.
    pub(crate) soi_kind: i32,
}

impl Default for KernelSocket {
    /// A closed TCP socket over IPv4.
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
            tcp: [0; 4],
            path: b"",
            peer: 0,
            peer_pcb: 0,
            name: "",
            numbers: [0; 4],
            soi_kind: 2,
        }
    }
}

/// Bytes, zero unless set.
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

/// A record with its head and its padding to a multiple of 8.
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
            PcbList::Tcp | PcbList::Udp | PcbList::Raw => record(0x10, size_of::<XinpcbN>())
                .put_u64(offset_of!(XinpcbN, inpp), self.pcb)
                .put(offset_of!(XinpcbN, fport), self.remote.1.to_be_bytes())
                .put(offset_of!(XinpcbN, lport), self.local.1.to_be_bytes())
                .put_u64(offset_of!(XinpcbN, gencnt), self.generation)
                .put(offset_of!(XinpcbN, vflag), [self.vflag])
                .put(offset_of!(XinpcbN, ip_p), [self.raw_protocol])
                .put(offset_of!(XinpcbN, faddr), union(self.remote.0))
                .put(offset_of!(XinpcbN, laddr), union(self.local.0)),
            PcbList::LocalStream | PcbList::LocalDgram => record(0x200, size_of::<XunpcbN>())
                .put_u64(offset_of!(XunpcbN, unpp), self.pcb)
                .put_u64(offset_of!(XunpcbN, conn), self.peer_pcb)
                .put_u64(offset_of!(XunpcbN, gencnt), self.generation)
                .put(offset_of!(XunpcbN, au), sockaddr_un(self.path)),
            PcbList::Kctl => record(0x80, size_of::<Xkctlpcb>())
                .put_u64(offset_of!(Xkctlpcb, kctpcb), self.pcb)
                .put(offset_of!(Xkctlpcb, kctlname), self.name),
            PcbList::Kevt => record(0x100, size_of::<Xkevtpcb>())
                .put_u64(offset_of!(Xkevtpcb, evtpcb), self.pcb)
                .put_u32(offset_of!(Xkevtpcb, vendor_filter), vendor)
                .put_u32(offset_of!(Xkevtpcb, class_filter), class)
                .put_u32(offset_of!(Xkevtpcb, subclass_filter), subclass),
        };
        let buffer = |kind, waiting| {
            record(kind, size_of::<XsockbufN>()).put_u32(offset_of!(XsockbufN, cc), waiting)
        };
        let mut group = pcb.0;
        group.extend(self.xsocket_n(layout));
        group.extend(buffer(0x2, self.received).0);
        group.extend(buffer(0x4, self.sent).0);
        group.extend(record(0x8, size_of::<XsockstatN>()).0);
        if list == PcbList::Tcp {
            let [window, segment, rtt, variance] = self.tcp;
            let tcpcb = record(0x20, size_of::<XtcpcbN>())
                .put(offset_of!(XtcpcbN, state), self.tcp_state.to_le_bytes())
                .put_u32(offset_of!(XtcpcbN, snd_cwnd), window)
                .put_u32(offset_of!(XtcpcbN, maxseg), segment)
                .put_u32(offset_of!(XtcpcbN, srtt), rtt)
                .put_u32(offset_of!(XtcpcbN, rttvar), variance);
            group.extend(tcpcb.0);
        }
        group
    }

    fn xsocket_n(&self, layout: Layout) -> Vec<u8> {
        let length = match layout {
            Layout::Macos12 => offset_of!(XsocketN, gencnt),
            Layout::Macos13 => size_of::<XsocketN>(),
        };
        let socket = record(0x1, length)
            .put_u64(offset_of!(XsocketN, so), self.handle)
            .put(offset_of!(XsocketN, kind_of_socket), self.kind.to_le_bytes())
            .put_u32(offset_of!(XsocketN, options), self.options)
            .put(offset_of!(XsocketN, state), self.so_state.to_le_bytes())
            .put_u64(offset_of!(XsocketN, pcb), self.pcb)
            .put(offset_of!(XsocketN, protocol), self.protocol.to_le_bytes())
            .put(offset_of!(XsocketN, family), self.family.to_le_bytes())
            .put(offset_of!(XsocketN, qlen), self.queue[0].to_le_bytes())
            .put(offset_of!(XsocketN, incqlen), self.queue[1].to_le_bytes())
            .put(offset_of!(XsocketN, qlimit), self.queue[2].to_le_bytes())
            .put_u32(offset_of!(XsocketN, uid), self.uid)
            .put(offset_of!(XsocketN, last_pid), self.last_pid.to_le_bytes());
        match layout {
            Layout::Macos12 => socket.0,
            Layout::Macos13 => {
                socket
                    .put_u32(offset_of!(XsocketN, flags), self.flags)
                    .put_u32(offset_of!(XsocketN, flags1), self.flags1)
                    .0
            }
        }
    }

    /// The record of a descriptor of the socket.
    pub(crate) fn socket_fdinfo(&self) -> Vec<u8> {
        const PSI: usize = offset_of!(SocketFdinfo, psi);
        const PROTO: usize = PSI + offset_of!(SocketInfo, proto);
        const INET: usize = PROTO + offset_of!(TcpSockinfo, ini);
        const PROX_FDTYPE_SOCKET: u32 = 2;
        let answer = Bytes::new(size_of::<SocketFdinfo>())
            .put_u32(offset_of!(SocketFdinfo, pfi.kind), PROX_FDTYPE_SOCKET)
            .put_u64(PSI + offset_of!(SocketInfo, so), self.handle)
            .put_u64(PSI + offset_of!(SocketInfo, pcb), self.pcb)
            .put(PSI + offset_of!(SocketInfo, kind_of_socket), i32::from(self.kind).to_le_bytes())
            .put(PSI + offset_of!(SocketInfo, protocol), self.protocol.to_le_bytes())
            .put(PSI + offset_of!(SocketInfo, family), self.family.to_le_bytes())
            .put(PSI + offset_of!(SocketInfo, options), &self.options.to_le_bytes()[..2])
            .put(PSI + offset_of!(SocketInfo, state), self.so_state.to_le_bytes())
            .put(PSI + offset_of!(SocketInfo, qlen), self.queue[0].to_le_bytes())
            .put(PSI + offset_of!(SocketInfo, incqlen), self.queue[1].to_le_bytes())
            .put(PSI + offset_of!(SocketInfo, qlimit), self.queue[2].to_le_bytes())
            .put_u32(PSI + offset_of!(SocketInfo, rcv.cc), self.received)
            .put_u32(PSI + offset_of!(SocketInfo, snd.cc), self.sent)
            .put(PSI + offset_of!(SocketInfo, kind), self.soi_kind.to_le_bytes());
        let [first, second, third, fourth] = self.numbers;
        match self.soi_kind {
            1 | 2 => answer
                .put(INET + offset_of!(InSockinfo, fport), self.remote.1.to_be_bytes())
                .put(INET + offset_of!(InSockinfo, lport), self.local.1.to_be_bytes())
                .put_u64(INET + offset_of!(InSockinfo, gencnt), self.generation)
                .put(INET + offset_of!(InSockinfo, vflag), [self.vflag])
                .put(INET + offset_of!(InSockinfo, faddr), union(self.remote.0))
                .put(INET + offset_of!(InSockinfo, laddr), union(self.local.0))
                .put(PROTO + offset_of!(TcpSockinfo, state), self.tcp_state.to_le_bytes()),
            3 => answer
                .put_u64(PROTO + offset_of!(UnSockinfo, conn_so), self.peer)
                .put_u64(PROTO + offset_of!(UnSockinfo, conn_pcb), self.peer_pcb)
                .put(PROTO + offset_of!(UnSockinfo, addr), sockaddr_un(self.path)),
            4 => answer
                .put_u32(PROTO + offset_of!(NdrvInfo, if_unit), second)
                .put(PROTO + offset_of!(NdrvInfo, if_name), self.name),
            5 => answer
                .put_u32(PROTO + offset_of!(KernEventInfo, vendor), first)
                .put_u32(PROTO + offset_of!(KernEventInfo, class), second)
                .put_u32(PROTO + offset_of!(KernEventInfo, subclass), third),
            6 => answer.put(PROTO + offset_of!(KernCtlInfo, name), self.name),
            7 => answer
                .put_u32(PROTO + offset_of!(VsockSockinfo, local_cid), first)
                .put_u32(PROTO + offset_of!(VsockSockinfo, local_port), second)
                .put_u32(PROTO + offset_of!(VsockSockinfo, remote_cid), third)
                .put_u32(PROTO + offset_of!(VsockSockinfo, remote_port), fourth),
            _ => answer,
        }
        .0
    }
}

/// The header of a list, also repeated at its end.
pub(crate) fn header(list: PcbList, count: u32, generation: u64) -> Vec<u8> {
    let header = match list {
        PcbList::Kctl | PcbList::Kevt => Bytes::new(size_of::<Xsystmgen>())
            .put_u32(offset_of!(Xsystmgen, len), 32)
            .put_u64(offset_of!(Xsystmgen, count), count.into())
            .put_u64(offset_of!(Xsystmgen, gencnt), generation),
        _ => Bytes::new(size_of::<Xinpgen>())
            .put_u32(offset_of!(Xinpgen, len), 24)
            .put_u32(offset_of!(Xinpgen, count), count)
            .put_u64(offset_of!(Xinpgen, gencnt), generation),
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

/// The bytes of a file in `fixtures/xnu`, padded with zeroes up to `length` if its lines have offsets.
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
