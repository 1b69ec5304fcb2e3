//! The kernel's structures as C lays them out, to hold the parsers' offsets to it: nothing of them is used,
//! and that they compile is the test.
//!
//! Both 64-bit systems lay these out alike, so the test holds on Linux too.
//! Names are those of `bsd/sys/proc_info.h`, `bsd/netinet/in_pcb.h` and `bsd/sys/socketvar.h` of XNU.

use std::mem::offset_of;

#[repr(C)]
struct ProcFileinfo {
    openflags: u32,
    status: u32,
    offset: i64,
    kind: i32,
    guardflags: u32,
}

#[repr(C)]
struct VinfoStat {
    dev: u32,
    mode: u16,
    nlink: u16,
    ino: u64,
    uid: u32,
    gid: u32,
    times: [i64; 8],
    size: i64,
    blocks: i64,
    blksize: i32,
    flags: u32,
    generation: u32,
    rdev: u32,
    qspare: [i64; 2],
}

#[repr(C)]
struct SockbufInfo {
    cc: u32,
    hiwat: u32,
    mbcnt: u32,
    mbmax: u32,
    lowat: u32,
    flags: i16,
    timeo: i16,
}

#[repr(C)]
struct InSockinfo {
    fport: i32,
    lport: i32,
    gencnt: u64,
    flags: u32,
    flow: u32,
    vflag: u8,
    ip_ttl: u8,
    rfu_1: u32,
    /// `union { in4in6_addr, in6_addr }`, of words.
    faddr: [u32; 4],
    laddr: [u32; 4],
    v4_tos: u8,
    v6: In6,
}

#[repr(C)]
struct In6 {
    hlim: u8,
    cksum: i32,
    ifindex: u16,
    hops: i16,
}

#[repr(C)]
struct TcpSockinfo {
    ini: InSockinfo,
    state: i32,
    timer: [i32; 4],
    mss: i32,
    flags: u32,
    rfu_1: u32,
    tp: u64,
}

#[repr(C)]
struct UnSockinfo {
    conn_so: u64,
    conn_pcb: u64,
    /// `union { sockaddr_un, char[SOCK_MAXADDRLEN] }`.
    addr: [u8; 255],
    caddr: [u8; 255],
}

#[repr(C)]
struct KernCtlInfo {
    id: u32,
    reg_unit: u32,
    flags: u32,
    recvbufsize: u32,
    sendbufsize: u32,
    unit: u32,
    name: [u8; 96],
}

#[repr(C)]
struct NdrvInfo {
    if_family: u32,
    if_unit: u32,
    if_name: [u8; 16],
}

#[repr(C)]
union Protocol {
    un: std::mem::ManuallyDrop<UnSockinfo>,
    tcp: std::mem::ManuallyDrop<TcpSockinfo>,
    kern_ctl: std::mem::ManuallyDrop<KernCtlInfo>,
    ndrv: std::mem::ManuallyDrop<NdrvInfo>,
}

#[repr(C)]
struct SocketInfo {
    stat: VinfoStat,
    so: u64,
    pcb: u64,
    kind_of_socket: i32,
    protocol: i32,
    family: i32,
    options: i16,
    linger: i16,
    state: i16,
    qlen: i16,
    incqlen: i16,
    qlimit: i16,
    timeo: i16,
    error: u16,
    oobmark: u32,
    rcv: SockbufInfo,
    snd: SockbufInfo,
    kind: i32,
    rfu_1: u32,
    proto: Protocol,
}

#[repr(C)]
struct SocketFdinfo {
    pfi: ProcFileinfo,
    psi: SocketInfo,
}

/// Of `#pragma pack(4)`.
#[repr(C, packed(4))]
struct XinpcbN {
    len: u32,
    kind: u32,
    inpp: u64,
    fport: u16,
    lport: u16,
    ppcb: u64,
    gencnt: u64,
    flags: i32,
    flow: u32,
    vflag: u8,
    ip_ttl: u8,
    ip_p: u8,
    faddr: [u32; 4],
    laddr: [u32; 4],
    v4_tos: u8,
    v6: In6,
    flowhash: u32,
    flags2: u32,
}

#[repr(C, packed(4))]
struct XsocketN {
    len: u32,
    kind: u32,
    so: u64,
    kind_of_socket: i16,
    options: u32,
    linger: i16,
    state: i16,
    pcb: u64,
    protocol: i32,
    family: i32,
    qlen: i16,
    incqlen: i16,
    qlimit: i16,
    timeo: i16,
    error: u16,
    pgid: i32,
    oobmark: u32,
    uid: u32,
    last_pid: i32,
    e_pid: i32,
    gencnt: u64,
    flags: u32,
    flags1: u32,
    usecount: i32,
    retaincnt: i32,
    filter_flags: u32,
}

const _: () = {
    use crate::process_open_sockets::parse::socket_fdinfo::LENGTH;

    assert!(size_of::<ProcFileinfo>() == 24);
    assert!(size_of::<VinfoStat>() == 136);
    assert!(size_of::<SockbufInfo>() == 24);
    assert!(size_of::<InSockinfo>() == 80);
    assert!(size_of::<TcpSockinfo>() == 120);
    assert!(size_of::<UnSockinfo>() == 528);
    assert!(size_of::<KernCtlInfo>() == 120);
    assert!(size_of::<NdrvInfo>() == 24);
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
    assert!(offset_of!(XinpcbN, faddr) == 48);
    assert!(offset_of!(XinpcbN, laddr) == 64);
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
