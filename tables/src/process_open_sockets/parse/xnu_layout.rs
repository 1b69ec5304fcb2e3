//! The kernel's structures as C lays them out. `xnu_records` puts its fields where these have them, and the
//! parsers are tested with what it writes: so their offsets are held to this, and this to the sizes and offsets
//! that were found with C's own compiler.
//!
//! Both 64-bit systems of macOS lay them out alike, and Linux does too, so that holds where the tests run.
//! Names are those of `bsd/sys/{proc_info,socketvar,unpcb,kern_control,kern_event}.h` and
//! `bsd/netinet/{in_pcb,tcp_var}.h` of XNU.

#![allow(dead_code, reason = "fields that nobody asks for make the place of the next")]

use std::mem::{ManuallyDrop, offset_of};

#[repr(C)]
pub(super) struct ProcFileinfo {
    pub(super) openflags: u32,
    pub(super) status: u32,
    pub(super) offset: i64,
    pub(super) kind: i32,
    pub(super) guardflags: u32,
}

#[repr(C)]
pub(super) struct VinfoStat {
    pub(super) dev: u32,
    pub(super) mode: u16,
    pub(super) nlink: u16,
    pub(super) ino: u64,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) times: [i64; 8],
    pub(super) size: i64,
    pub(super) blocks: i64,
    pub(super) blksize: i32,
    pub(super) flags: u32,
    pub(super) generation: u32,
    pub(super) rdev: u32,
    pub(super) qspare: [i64; 2],
}

#[repr(C)]
pub(super) struct SockbufInfo {
    pub(super) cc: u32,
    pub(super) hiwat: u32,
    pub(super) mbcnt: u32,
    pub(super) mbmax: u32,
    pub(super) lowat: u32,
    pub(super) flags: i16,
    pub(super) timeo: i16,
}

#[repr(C)]
pub(super) struct InSockinfo {
    pub(super) fport: i32,
    pub(super) lport: i32,
    pub(super) gencnt: u64,
    pub(super) flags: u32,
    pub(super) flow: u32,
    pub(super) vflag: u8,
    pub(super) ip_ttl: u8,
    pub(super) rfu_1: u32,
    /// `union { in4in6_addr, in6_addr }`, of words.
    pub(super) faddr: [u32; 4],
    pub(super) laddr: [u32; 4],
    pub(super) v4_tos: u8,
    pub(super) v6: In6,
}

#[repr(C)]
pub(super) struct In6 {
    pub(super) hlim: u8,
    pub(super) cksum: i32,
    pub(super) ifindex: u16,
    pub(super) hops: i16,
}

#[repr(C)]
pub(super) struct TcpSockinfo {
    pub(super) ini: InSockinfo,
    pub(super) state: i32,
    pub(super) timer: [i32; 4],
    pub(super) mss: i32,
    pub(super) flags: u32,
    pub(super) rfu_1: u32,
    pub(super) tp: u64,
}

#[repr(C)]
pub(super) struct UnSockinfo {
    pub(super) conn_so: u64,
    pub(super) conn_pcb: u64,
    /// `union { sockaddr_un, char[SOCK_MAXADDRLEN] }`.
    pub(super) addr: [u8; 255],
    pub(super) caddr: [u8; 255],
}

#[repr(C)]
pub(super) struct KernCtlInfo {
    pub(super) id: u32,
    pub(super) reg_unit: u32,
    pub(super) flags: u32,
    pub(super) recvbufsize: u32,
    pub(super) sendbufsize: u32,
    pub(super) unit: u32,
    pub(super) name: [u8; 96],
}

#[repr(C)]
pub(super) struct KernEventInfo {
    pub(super) vendor: u32,
    pub(super) class: u32,
    pub(super) subclass: u32,
}

#[repr(C)]
pub(super) struct VsockSockinfo {
    pub(super) local_cid: u32,
    pub(super) local_port: u32,
    pub(super) remote_cid: u32,
    pub(super) remote_port: u32,
}

#[repr(C)]
pub(super) struct NdrvInfo {
    pub(super) if_family: u32,
    pub(super) if_unit: u32,
    pub(super) if_name: [u8; 16],
}

#[repr(C)]
pub(super) union Protocol {
    pub(super) inet: ManuallyDrop<InSockinfo>,
    pub(super) tcp: ManuallyDrop<TcpSockinfo>,
    pub(super) un: ManuallyDrop<UnSockinfo>,
    pub(super) ndrv: ManuallyDrop<NdrvInfo>,
    pub(super) kern_event: ManuallyDrop<KernEventInfo>,
    pub(super) kern_ctl: ManuallyDrop<KernCtlInfo>,
    pub(super) vsock: ManuallyDrop<VsockSockinfo>,
}

#[repr(C)]
pub(super) struct SocketInfo {
    pub(super) stat: VinfoStat,
    pub(super) so: u64,
    pub(super) pcb: u64,
    pub(super) kind_of_socket: i32,
    pub(super) protocol: i32,
    pub(super) family: i32,
    pub(super) options: i16,
    pub(super) linger: i16,
    pub(super) state: i16,
    pub(super) qlen: i16,
    pub(super) incqlen: i16,
    pub(super) qlimit: i16,
    pub(super) timeo: i16,
    pub(super) error: u16,
    pub(super) oobmark: u32,
    pub(super) rcv: SockbufInfo,
    pub(super) snd: SockbufInfo,
    pub(super) kind: i32,
    pub(super) rfu_1: u32,
    pub(super) proto: Protocol,
}

#[repr(C)]
pub(super) struct SocketFdinfo {
    pub(super) pfi: ProcFileinfo,
    pub(super) psi: SocketInfo,
}

/// Of `#pragma pack(4)`.
#[repr(C, packed(4))]
pub(super) struct XinpcbN {
    pub(super) len: u32,
    pub(super) kind: u32,
    pub(super) inpp: u64,
    pub(super) fport: u16,
    pub(super) lport: u16,
    pub(super) ppcb: u64,
    pub(super) gencnt: u64,
    pub(super) flags: i32,
    pub(super) flow: u32,
    pub(super) vflag: u8,
    pub(super) ip_ttl: u8,
    pub(super) ip_p: u8,
    pub(super) faddr: [u32; 4],
    pub(super) laddr: [u32; 4],
    pub(super) v4_tos: u8,
    pub(super) v6: In6,
    pub(super) flowhash: u32,
    pub(super) flags2: u32,
}

/// The form of macOS 12 ends before `gencnt`.
#[repr(C, packed(4))]
pub(super) struct XsocketN {
    pub(super) len: u32,
    pub(super) kind: u32,
    pub(super) so: u64,
    pub(super) kind_of_socket: i16,
    pub(super) options: u32,
    pub(super) linger: i16,
    pub(super) state: i16,
    pub(super) pcb: u64,
    pub(super) protocol: i32,
    pub(super) family: i32,
    pub(super) qlen: i16,
    pub(super) incqlen: i16,
    pub(super) qlimit: i16,
    pub(super) timeo: i16,
    pub(super) error: u16,
    pub(super) pgid: i32,
    pub(super) oobmark: u32,
    pub(super) uid: u32,
    pub(super) last_pid: i32,
    pub(super) e_pid: i32,
    pub(super) gencnt: u64,
    pub(super) flags: u32,
    pub(super) flags1: u32,
    pub(super) usecount: i32,
    pub(super) retaincnt: i32,
    pub(super) filter_flags: u32,
}

#[repr(C, packed(4))]
pub(super) struct XsockbufN {
    pub(super) len: u32,
    pub(super) kind: u32,
    pub(super) cc: u32,
    pub(super) hiwat: u32,
    pub(super) mbcnt: u32,
    pub(super) mbmax: u32,
    pub(super) lowat: i32,
    pub(super) flags: i16,
    pub(super) timeo: i16,
}

#[repr(C, packed(4))]
pub(super) struct XsockstatN {
    pub(super) len: u32,
    pub(super) kind: u32,
    /// Packets and bytes of four kinds, received and sent.
    pub(super) tc_stats: [[u64; 4]; 4],
}

/// What comes after the state is numbers of 32 bits, but for a few of 8.
#[repr(C, packed(4))]
pub(super) struct XtcpcbN {
    pub(super) len: u32,
    pub(super) kind: u32,
    pub(super) segq: u64,
    pub(super) dupacks: i32,
    pub(super) timer: [i32; 4],
    pub(super) state: i32,
    pub(super) others: [u32; 41],
}

/// `struct xunpcb_n`; the unions are of a `struct sockaddr_un` and what fills them up.
#[repr(C, packed(4))]
pub(super) struct XunpcbN {
    pub(super) len: u32,
    pub(super) kind: u32,
    pub(super) unpp: u64,
    pub(super) vnode: u64,
    pub(super) ino: u64,
    pub(super) conn: u64,
    pub(super) refs: u64,
    pub(super) reflink: u64,
    pub(super) cc: i32,
    pub(super) mbcnt: i32,
    pub(super) flags: i32,
    pub(super) gencnt: u64,
    pub(super) au: [u8; 256],
    pub(super) cau: [u8; 256],
}

#[repr(C)]
pub(super) struct Xkctlpcb {
    pub(super) len: u32,
    pub(super) kind: u32,
    pub(super) kctpcb: u64,
    pub(super) unit: u32,
    pub(super) kctlid: u32,
    pub(super) kctlref: u64,
    pub(super) kctlname: [u8; 96],
}

#[repr(C)]
pub(super) struct Xkevtpcb {
    pub(super) len: u32,
    pub(super) kind: u32,
    pub(super) evtpcb: u64,
    pub(super) vendor_filter: u32,
    pub(super) class_filter: u32,
    pub(super) subclass_filter: u32,
}

/// `struct xunpgen` is the same.
#[repr(C, packed(4))]
pub(super) struct Xinpgen {
    pub(super) len: u32,
    pub(super) count: u32,
    pub(super) gencnt: u64,
    pub(super) sogen: u64,
}

#[repr(C)]
pub(super) struct Xsystmgen {
    pub(super) len: u32,
    pub(super) count: u64,
    pub(super) gencnt: u64,
    pub(super) sogen: u64,
}

const _: () = {
    use super::socket_fdinfo::LENGTH;

    assert!(size_of::<ProcFileinfo>() == 24);
    assert!(size_of::<VinfoStat>() == 136);
    assert!(size_of::<SockbufInfo>() == 24);
    assert!(size_of::<InSockinfo>() == 80);
    assert!(size_of::<TcpSockinfo>() == 120);
    assert!(size_of::<UnSockinfo>() == 528);
    assert!(size_of::<KernCtlInfo>() == 120);
    assert!(size_of::<NdrvInfo>() == 24);
    assert!(size_of::<KernEventInfo>() == 12);
    assert!(size_of::<VsockSockinfo>() == 16);
    assert!(size_of::<SocketFdinfo>() == LENGTH);

    assert!(offset_of!(SocketFdinfo, psi.so) == 160);
    assert!(offset_of!(SocketFdinfo, psi.family) == 184);
    assert!(offset_of!(SocketFdinfo, psi.options) == 188);
    assert!(offset_of!(SocketFdinfo, psi.qlen) == 194);
    assert!(offset_of!(SocketFdinfo, psi.rcv) == 208);
    assert!(offset_of!(SocketFdinfo, psi.snd) == 232);
    assert!(offset_of!(SocketFdinfo, psi.kind) == 256);
    assert!(offset_of!(SocketFdinfo, psi.proto) == 264);
    assert!(offset_of!(InSockinfo, gencnt) == 8);
    assert!(offset_of!(InSockinfo, vflag) == 24);
    assert!(offset_of!(InSockinfo, faddr) == 32);
    assert!(offset_of!(InSockinfo, laddr) == 48);
    assert!(offset_of!(InSockinfo, v6) == 68);
    assert!(offset_of!(TcpSockinfo, state) == 80);
    assert!(offset_of!(TcpSockinfo, tp) == 112);
    assert!(offset_of!(UnSockinfo, addr) == 16);
    assert!(offset_of!(KernCtlInfo, name) == 24);
    assert!(offset_of!(NdrvInfo, if_name) == 8);

    assert!(size_of::<XinpcbN>() == 104);
    assert!(offset_of!(XinpcbN, gencnt) == 28);
    assert!(offset_of!(XinpcbN, vflag) == 44);
    assert!(offset_of!(XinpcbN, ip_p) == 46);
    assert!(offset_of!(XinpcbN, faddr) == 48);
    assert!(offset_of!(XinpcbN, laddr) == 64);
    assert!(size_of::<XsockbufN>() == 32);
    assert!(size_of::<XsockstatN>() == 136);
    assert!(size_of::<XtcpcbN>() == 204);
    assert!(offset_of!(XtcpcbN, state) == 36);
    assert!(size_of::<XunpcbN>() == 588);
    assert!(offset_of!(XunpcbN, conn) == 32);
    assert!(offset_of!(XunpcbN, gencnt) == 68);
    assert!(offset_of!(XunpcbN, au) == 76);
    assert!(size_of::<Xkctlpcb>() == 128);
    assert!(offset_of!(Xkctlpcb, kctlname) == 32);
    assert!(size_of::<Xkevtpcb>() == 32);
    assert!(offset_of!(Xkevtpcb, vendor_filter) == 16);
    assert!(size_of::<Xinpgen>() == 24);
    assert!(offset_of!(Xinpgen, gencnt) == 8);
    assert!(size_of::<Xsystmgen>() == 32);
    assert!(offset_of!(Xsystmgen, gencnt) == 16);

    assert!(size_of::<XsocketN>() == 104);
    assert!(offset_of!(XsocketN, options) == 20);
    assert!(offset_of!(XsocketN, state) == 26);
    assert!(offset_of!(XsocketN, protocol) == 36);
    assert!(offset_of!(XsocketN, qlen) == 44);
    assert!(offset_of!(XsocketN, uid) == 64);
    assert!(offset_of!(XsocketN, last_pid) == 68);
    assert!(offset_of!(XsocketN, gencnt) == 76);
    assert!(offset_of!(XsocketN, flags1) == 88);
};
