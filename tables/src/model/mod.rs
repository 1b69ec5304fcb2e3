//! Sockets, holders and omissions, in the terms of the kernel.

mod binding;
mod container;
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "only Linux counts datagrams"))]
mod datagram_bytes;
#[cfg(target_os = "linux")]
mod datagram_slots;
mod details;
mod endpoint;
mod extended_details;
mod families;
mod family;
mod holder_unknown;
pub(crate) mod holders;
mod net_namespace;
pub(crate) mod omission;
#[cfg(target_os = "linux")]
mod open_tcp_sockets;
pub(crate) mod process;
pub(crate) mod protocol;
#[cfg(target_os = "linux")]
pub(crate) mod report;
mod sctp_state;
mod snapshot;
mod socket;
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "only Linux reads tables"))]
pub(crate) mod socket_table;
mod source;
mod tcp_details;
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "only Linux has events"))]
pub(crate) mod tcp_event;
mod tcp_state;
mod uids;
mod user;
mod work;

pub(crate) use self::binding::Binding;
pub(crate) use self::container::{Container, ContainerRuntime};
#[cfg_attr(not(target_os = "linux"), allow(unused_imports, reason = "only Linux has it"))]
pub(crate) use self::datagram_bytes::DatagramBytes;
pub(crate) use self::datagram_bytes::{COUNTED_FAMILIES, COUNTED_TYPES, DatagramCounter};
#[cfg(target_os = "linux")]
pub(crate) use self::datagram_slots::DatagramSlots;
pub(crate) use self::details::{DarwinDetails, Details, Presence};
pub(crate) use self::endpoint::{Endpoint, VsockAddress};
pub(crate) use self::extended_details::{ExtendedDetails, ExtendedFields, FileId, Interface};
pub use self::families::Families;
pub(crate) use self::family::Family;
pub(crate) use self::holder_unknown::HolderUnknown;
pub(crate) use self::net_namespace::{NetNamespace, NetNamespaceNames};
#[cfg(target_os = "linux")]
pub(crate) use self::open_tcp_sockets::OpenTcpSockets;
pub(crate) use self::process::{Process, ProcessFields, Processes};
pub(crate) use self::protocol::{SOCK_DGRAM, SOCK_RAW, SOCK_STREAM, socket_type};
pub(crate) use self::sctp_state::SctpState;
pub(crate) use self::snapshot::Snapshot;
pub(crate) use self::socket::Socket;
pub use self::source::Source;
pub(crate) use self::tcp_details::{CongestionAlgorithm, TcpDetails};
pub(crate) use self::tcp_state::TcpState;
pub(crate) use self::uids::Uids;
pub use self::user::User;
pub(crate) use self::work::Work;
