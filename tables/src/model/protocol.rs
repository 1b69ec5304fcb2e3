//! Numbers of protocols and of socket types.

pub(crate) const IPPROTO_IP: u16 = 0;
pub(crate) const IPPROTO_ICMP: u16 = 1;
pub(crate) const IPPROTO_TCP: u16 = 6;
pub(crate) const IPPROTO_UDP: u16 = 17;
pub(crate) const IPPROTO_ICMPV6: u16 = 58;
pub(crate) const IPPROTO_SCTP: u16 = 132;
pub(crate) const IPPROTO_UDPLITE: u16 = 136;
pub(crate) const IPPROTO_RAW: u16 = 255;
pub(crate) const IPPROTO_MPTCP: u16 = 262;

pub(crate) const SOCK_STREAM: u8 = 1;
pub(crate) const SOCK_DGRAM: u8 = 2;
pub(crate) const SOCK_RAW: u8 = 3;
/// The old form of a packet socket.
pub(crate) const SOCK_PACKET: u8 = 10;

/// The type of a protocol's sockets (SOCK_*); 0 if the protocol has several.
pub(crate) fn socket_type(protocol: u16) -> u8 {
    match protocol {
        IPPROTO_TCP | IPPROTO_MPTCP => SOCK_STREAM,
        IPPROTO_RAW => SOCK_RAW,
        IPPROTO_SCTP => 0,
        _ => SOCK_DGRAM,
    }
}
