//! The kernel's structures in their C layout. `xnu_records` writes fields at these offsets, and the tests parse the
//! result. So the offsets of the parsers are checked against this module, and this module against sizes and
//! offsets from a C compiler.
//!
//! Both 64-bit systems of macOS and Linux have the same layout, so this holds on all systems that run the tests.
//! Names are those of `bsd/sys/{proc_info,socketvar,unpcb,kern_control,kern_event}.h` and
//! `bsd/netinet/{in_pcb,tcp_var}.h` of XNU.

#![allow(dead_code, reason = "unread fields set the offset of the next one")]

use std::mem::{ManuallyDrop, offset_of};

#[repr(C)]
pub(crate) struct ProcFileinfo {
    pub(crate) openflags: u32,
    pub(crate) status: u32,
    pub(crate) offset: i64,
    pub(crate) kind: i32,
    pub(crate) guardflags: u32,
}

#[repr(C)]
pub(crate) struct VinfoStat {
    pub(crate) dev: u32,
    pub(crate) mode: u16,
    pub(crate) nlink: u16,
    pub(crate) ino: u64,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) times: [i64; 8],
    pub(crate) size: i64,
    pub(crate) blocks: i64,
    pub(crate) blksize: i32,
    pub(crate) flags: u32,
    pub(crate) generation: u32,
    pub(crate) rdev: u32,
    pub(crate) qspare: [i64; 2],
}

#[repr(C)]
pub(crate) struct SockbufInfo {
    pub(crate) cc: u32,
    pub(crate) hiwat: u32,
    pub(crate) mbcnt: u32,
    pub(crate) mbmax: u32,
    pub(crate) lowat: u32,
    pub(crate) flags: i16,
    pub(crate) timeo: i16,
}

#[repr(C)]
pub(crate) struct InSockinfo {
    pub(crate) fport: i32,
    pub(crate) lport: i32,
    pub(crate) gencnt: u64,
    pub(crate) flags: u32,
    pub(crate) flow: u32,
    pub(crate) vflag: u8,
    pub(crate) ip_ttl: u8,
    pub(crate) rfu_1: u32,
    /// `union { in4in6_addr, in6_addr }`, of words.
    pub(crate) faddr: [u32; 4],
    pub(crate) laddr: [u32; 4],
    pub(crate) v4_tos: u8,
    pub(crate) v6: In6,
}

#[repr(C)]
pub(crate) struct In6 {
    pub(crate) hlim: u8,
    pub(crate) cksum: i32,
    pub(crate) ifindex: u16,
    pub(crate) hops: i16,
}

#[repr(C)]
pub(crate) struct TcpSockinfo {
    pub(crate) ini: InSockinfo,
    pub(crate) state: i32,
    pub(crate) timer: [i32; 4],
    pub(crate) mss: i32,
    pub(crate) flags: u32,
    pub(crate) rfu_1: u32,
    pub(crate) tp: u64,
}

#[repr(C)]
pub(crate) struct UnSockinfo {
    pub(crate) conn_so: u64,
    pub(crate) conn_pcb: u64,
    /// `union { sockaddr_un, char[SOCK_MAXADDRLEN] }`.
    pub(crate) addr: [u8; 255],
    pub(crate) caddr: [u8; 255],
}

#[repr(C)]
pub(crate) struct KernCtlInfo {
    pub(crate) id: u32,
    pub(crate) reg_unit: u32,
    pub(crate) flags: u32,
    pub(crate) recvbufsize: u32,
    pub(crate) sendbufsize: u32,
    pub(crate) unit: u32,
    pub(crate) name: [u8; 96],
}

#[repr(C)]
pub(crate) struct KernEventInfo {
    pub(crate) vendor: u32,
    pub(crate) class: u32,
    pub(crate) subclass: u32,
}

#[repr(C)]
pub(crate) struct VsockSockinfo {
    pub(crate) local_cid: u32,
    pub(crate) local_port: u32,
    pub(crate) remote_cid: u32,
    pub(crate) remote_port: u32,
}

#[repr(C)]
pub(crate) struct NdrvInfo {
    pub(crate) if_family: u32,
    pub(crate) if_unit: u32,
    pub(crate) if_name: [u8; 16],
}

#[repr(C)]
pub(crate) union Protocol {
    pub(crate) inet: ManuallyDrop<InSockinfo>,
    pub(crate) tcp: ManuallyDrop<TcpSockinfo>,
    pub(crate) un: ManuallyDrop<UnSockinfo>,
    pub(crate) ndrv: ManuallyDrop<NdrvInfo>,
    pub(crate) kern_event: ManuallyDrop<KernEventInfo>,
    pub(crate) kern_ctl: ManuallyDrop<KernCtlInfo>,
    pub(crate) vsock: ManuallyDrop<VsockSockinfo>,
}

#[repr(C)]
pub(crate) struct SocketInfo {
    pub(crate) stat: VinfoStat,
    pub(crate) so: u64,
    pub(crate) pcb: u64,
    pub(crate) kind_of_socket: i32,
    pub(crate) protocol: i32,
    pub(crate) family: i32,
    pub(crate) options: i16,
    pub(crate) linger: i16,
    pub(crate) state: i16,
    pub(crate) qlen: i16,
    pub(crate) incqlen: i16,
    pub(crate) qlimit: i16,
    pub(crate) timeo: i16,
    pub(crate) error: u16,
    pub(crate) oobmark: u32,
    pub(crate) rcv: SockbufInfo,
    pub(crate) snd: SockbufInfo,
    pub(crate) kind: i32,
    pub(crate) rfu_1: u32,
    pub(crate) proto: Protocol,
}

#[repr(C)]
pub(crate) struct SocketFdinfo {
    pub(crate) pfi: ProcFileinfo,
    pub(crate) psi: SocketInfo,
}

/// Of `#pragma pack(4)`.
#[repr(C, packed(4))]
pub(crate) struct XinpcbN {
    pub(crate) len: u32,
    pub(crate) kind: u32,
    pub(crate) inpp: u64,
    pub(crate) fport: u16,
    pub(crate) lport: u16,
    pub(crate) ppcb: u64,
    pub(crate) gencnt: u64,
    pub(crate) flags: i32,
    pub(crate) flow: u32,
    pub(crate) vflag: u8,
    pub(crate) ip_ttl: u8,
    pub(crate) ip_p: u8,
    pub(crate) faddr: [u32; 4],
    pub(crate) laddr: [u32; 4],
    pub(crate) v4_tos: u8,
    pub(crate) v6: In6,
    pub(crate) flowhash: u32,
    pub(crate) flags2: u32,
}

/// The form of macOS 12 ends before `gencnt`.
#[repr(C, packed(4))]
pub(crate) struct XsocketN {
    pub(crate) len: u32,
    pub(crate) kind: u32,
    pub(crate) so: u64,
    pub(crate) kind_of_socket: i16,
    pub(crate) options: u32,
    pub(crate) linger: i16,
    pub(crate) state: i16,
    pub(crate) pcb: u64,
    pub(crate) protocol: i32,
    pub(crate) family: i32,
    pub(crate) qlen: i16,
    pub(crate) incqlen: i16,
    pub(crate) qlimit: i16,
    pub(crate) timeo: i16,
    pub(crate) error: u16,
    pub(crate) pgid: i32,
    pub(crate) oobmark: u32,
    pub(crate) uid: u32,
    pub(crate) last_pid: i32,
    pub(crate) e_pid: i32,
    pub(crate) gencnt: u64,
    pub(crate) flags: u32,
    pub(crate) flags1: u32,
    pub(crate) usecount: i32,
    pub(crate) retaincnt: i32,
    pub(crate) filter_flags: u32,
}

#[repr(C, packed(4))]
pub(crate) struct XsockbufN {
    pub(crate) len: u32,
    pub(crate) kind: u32,
    pub(crate) cc: u32,
    pub(crate) hiwat: u32,
    pub(crate) mbcnt: u32,
    pub(crate) mbmax: u32,
    pub(crate) lowat: i32,
    pub(crate) flags: i16,
    pub(crate) timeo: i16,
}

#[repr(C, packed(4))]
pub(crate) struct XsockstatN {
    pub(crate) len: u32,
    pub(crate) kind: u32,
    /// Packets and bytes of four kinds, received and sent.
    pub(crate) tc_stats: [[u64; 4]; 4],
}

/// The fields after the state have 32 bits, a few 8.
#[repr(C, packed(4))]
pub(crate) struct XtcpcbN {
    pub(crate) len: u32,
    pub(crate) kind: u32,
    pub(crate) segq: u64,
    pub(crate) dupacks: i32,
    pub(crate) timer: [i32; 4],
    pub(crate) state: i32,
    /// From the flags to the windows.
    pub(crate) sequence: [u32; 15],
    pub(crate) snd_cwnd: u32,
    pub(crate) times: [u32; 7],
    pub(crate) maxseg: u32,
    pub(crate) srtt: i32,
    pub(crate) rttvar: i32,
    pub(crate) others: [u32; 15],
}

/// `struct xunpcb_n`; each union has a `struct sockaddr_un` and padding.
#[repr(C, packed(4))]
pub(crate) struct XunpcbN {
    pub(crate) len: u32,
    pub(crate) kind: u32,
    pub(crate) unpp: u64,
    pub(crate) vnode: u64,
    pub(crate) ino: u64,
    pub(crate) conn: u64,
    pub(crate) refs: u64,
    pub(crate) reflink: u64,
    pub(crate) cc: i32,
    pub(crate) mbcnt: i32,
    pub(crate) flags: i32,
    pub(crate) gencnt: u64,
    pub(crate) au: [u8; 256],
    pub(crate) cau: [u8; 256],
}

#[repr(C)]
pub(crate) struct Xkctlpcb {
    pub(crate) len: u32,
    pub(crate) kind: u32,
    pub(crate) kctpcb: u64,
    pub(crate) unit: u32,
    pub(crate) kctlid: u32,
    pub(crate) kctlref: u64,
    pub(crate) kctlname: [u8; 96],
}

#[repr(C)]
pub(crate) struct Xkevtpcb {
    pub(crate) len: u32,
    pub(crate) kind: u32,
    pub(crate) evtpcb: u64,
    pub(crate) vendor_filter: u32,
    pub(crate) class_filter: u32,
    pub(crate) subclass_filter: u32,
}

/// `struct xunpgen` is the same.
#[repr(C, packed(4))]
pub(crate) struct Xinpgen {
    pub(crate) len: u32,
    pub(crate) count: u32,
    pub(crate) gencnt: u64,
    pub(crate) sogen: u64,
}

#[repr(C)]
pub(crate) struct Xsystmgen {
    pub(crate) len: u32,
    pub(crate) count: u64,
    pub(crate) gencnt: u64,
    pub(crate) sogen: u64,
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
    assert!(offset_of!(XtcpcbN, snd_cwnd) == 100);
    assert!(offset_of!(XtcpcbN, maxseg) == 132);
    assert!(offset_of!(XtcpcbN, srtt) == 136);
    assert!(offset_of!(XtcpcbN, rttvar) == 140);
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
