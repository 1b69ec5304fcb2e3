//! The columns of the table, one row each.

use std::sync::LazyLock;

use super::cells::{self, Cell};
use crate::enum_table::enum_table;
use crate::model::ExtendedFields;
use crate::{Column, ColumnOptions, ColumnType, ColumnsUsed};

use Cell::{OfRow, OfSocket};
use ColumnType::{BigInt, Integer, Text};
use Platforms::{All, Linux, Macos};

/// The specification of a column.
struct Spec {
    name: &'static str,
    kind: ColumnType,
    options: ColumnOptions,
    platforms: Platforms,
    cell: Cell,
}

/// The platforms that have a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Platforms {
    All,
    Linux,
    Macos,
}

/// A column on which a constraint saves work. On the others, a constraint would only cause a request for each
/// value that a join compares with.
const FILTERABLE: ColumnOptions = ColumnOptions::ADDITIONAL.union(ColumnOptions::OPTIMIZED);
const OTHER: ColumnOptions = ColumnOptions::OPTIMIZED;
/// A column that osquery's own table lacks: only queries that name it read it.
const HIDDEN: ColumnOptions = OTHER.union(ColumnOptions::HIDDEN);
const HIDDEN_FILTERABLE: ColumnOptions = FILTERABLE.union(ColumnOptions::HIDDEN);

enum_table! {
    /// A column. Not every platform has all. The hidden ones follow those of `SELECT *`.
    ///
    /// `tables/process_open_sockets.table` documents each column.
    pub(super) enum Field: Spec {
        Pid           = spec("pid",            Integer, FILTERABLE, All,   OfRow(cells::pid)),
        Fd            = spec("fd",             BigInt,  FILTERABLE, All,   OfRow(cells::fd)),
        Socket        = spec("socket",         BigInt,  FILTERABLE, All,   OfSocket(cells::socket)),
        Family        = spec("family",         Integer, FILTERABLE, All,   OfSocket(cells::family)),
        Protocol      = spec("protocol",       Integer, FILTERABLE, All,   OfSocket(cells::protocol)),
        LocalAddress  = spec("local_address",  Text,    OTHER,      All,   OfSocket(cells::local_address)),
        RemoteAddress = spec("remote_address", Text,    OTHER,      All,   OfSocket(cells::remote_address)),
        LocalPort     = spec("local_port",     Integer, FILTERABLE, All,   OfSocket(cells::local_port)),
        RemotePort    = spec("remote_port",    Integer, FILTERABLE, All,   OfSocket(cells::remote_port)),
        Path          = spec("path",           Text,    OTHER,      All,   OfSocket(cells::path)),
        State         = spec("state",          Text,    FILTERABLE, All,   OfSocket(cells::state)),
        NetNamespace  = spec("net_namespace",  Text,    FILTERABLE, Linux, OfSocket(cells::net_namespace)),
        Tid           = spec("tid",            Integer, HIDDEN,     Linux, OfRow(cells::tid)),
        HolderUnknown  = spec("holder_unknown",  Text,    HIDDEN,     All,   OfRow(cells::holder_unknown)),
        SocketType    = spec("socket_type",           Integer, HIDDEN,     All,   OfSocket(cells::socket_type)),
        SocketUid     = spec("socket_uid",            BigInt,  HIDDEN,     All,   OfSocket(cells::socket_uid)),
        PeerSocket    = spec("peer_socket",    BigInt,  HIDDEN,     All,   OfRow(cells::peer_socket)),
        RxQueue       = spec("rx_queue",       BigInt,  HIDDEN,     All,   OfSocket(cells::rx_queue)),
        TxQueue       = spec("tx_queue",       BigInt,  HIDDEN,     All,   OfSocket(cells::tx_queue)),
        BoundInterface = spec("bound_interface",      Text,    HIDDEN,     All,   OfSocket(cells::bound_interface)),
        SocketCgroupPath = spec("socket_cgroup_path",    Text,    HIDDEN,     Linux, OfRow(cells::socket_cgroup_path)),
        Scope         = spec("scope",          Integer, HIDDEN,     Linux, OfRow(cells::scope)),
        LastPid       = spec("last_pid",       Integer, HIDDEN,     Macos, OfRow(cells::last_pid)),
        Control       = spec("control",        Text,    HIDDEN,     Macos, OfSocket(cells::control)),
        Descriptors   = spec("descriptors",    Integer, HIDDEN,     All,   OfRow(cells::descriptors)),
        Listening     = spec("listening",      Integer, HIDDEN,     All,   OfSocket(cells::listening)),
        NetNamespaceName = spec("net_namespace_name", Text, HIDDEN_FILTERABLE, Linux, OfRow(cells::net_namespace_name)),
        RowsOmitted   = spec("rows_omitted",   BigInt,  HIDDEN,     All,   OfRow(cells::rows_omitted)),
        ProcessName   = spec("process_name",   Text,    HIDDEN,     All,   OfRow(cells::process::name)),
        ProcessPath   = spec("process_path",   Text,    HIDDEN,     All,   OfRow(cells::process::path)),
        ProcessCmdline = spec("process_cmdline", Text,  HIDDEN,     All,   OfRow(cells::process::cmdline)),
        ProcessParent = spec("process_parent", BigInt,  HIDDEN,     All,   OfRow(cells::process::parent)),
        ProcessUid    = spec("process_uid",    BigInt,  HIDDEN,     All,   OfRow(cells::process::uid)),
        ProcessEuid   = spec("process_euid",   BigInt,  HIDDEN,     All,   OfRow(cells::process::euid)),
        ProcessStartTime = spec("process_start_time", BigInt, HIDDEN, All, OfRow(cells::process::start_time)),
        ProcessCgroupPath = spec("process_cgroup_path", Text, HIDDEN, Linux, OfRow(cells::process::cgroup_path)),
        ContainerId   = spec("container_id",   Text,    HIDDEN,     Linux, OfRow(cells::container::id)),
        ContainerRuntime = spec("container_runtime", Text, HIDDEN,  Linux, OfRow(cells::container::runtime)),
        PodUid        = spec("pod_uid",        Text,    HIDDEN,     Linux, OfRow(cells::container::pod_uid)),
        BytesSent     = spec("bytes_sent",     BigInt,  HIDDEN,     All,   OfRow(cells::bytes::sent)),
        BytesReceived = spec("bytes_received", BigInt,  HIDDEN,     All,   OfRow(cells::bytes::received)),
        BytesRetransmitted = spec("bytes_retransmitted", BigInt, HIDDEN, All, OfSocket(cells::tcp::bytes_retransmitted)),
        RttUs         = spec("rtt_us",         BigInt,  HIDDEN,     All,   OfSocket(cells::tcp::rtt_us)),
        RttVarianceUs = spec("rtt_variance_us", BigInt, HIDDEN,     All,   OfSocket(cells::tcp::rtt_variance_us)),
        MinRttUs      = spec("min_rtt_us",     BigInt,  HIDDEN,     All,   OfSocket(cells::tcp::min_rtt_us)),
        Retransmits   = spec("retransmits",    BigInt,  HIDDEN,     All,   OfSocket(cells::tcp::retransmits)),
        Lost          = spec("lost",           BigInt,  HIDDEN,     All,   OfSocket(cells::tcp::lost)),
        CongestionAlgorithm = spec("congestion_algorithm", Text, HIDDEN, All, OfSocket(cells::tcp::congestion_algorithm)),
        CongestionWindow = spec("congestion_window", BigInt, HIDDEN, All,  OfSocket(cells::tcp::congestion_window)),
        SendMss       = spec("send_mss",       BigInt,  HIDDEN,     All,   OfSocket(cells::tcp::send_mss)),
        LastSentMs    = spec("last_sent_ms",   BigInt,  HIDDEN,     All,   OfSocket(cells::tcp::last_sent_ms)),
        LastReceivedMs = spec("last_received_ms", BigInt, HIDDEN,   All,   OfSocket(cells::tcp::last_received_ms)),
        DeliveryRate  = spec("delivery_rate",  BigInt,  HIDDEN,     All,   OfSocket(cells::tcp::delivery_rate)),
        BusyTimeUs    = spec("busy_time_us",   BigInt,  HIDDEN,     All,   OfSocket(cells::tcp::busy_time_us)),
        PeerPid       = spec("peer_pid",       BigInt,  HIDDEN,     All,   OfSocket(cells::unix::peer_pid)),
        PeerUid       = spec("peer_uid",       BigInt,  HIDDEN,     All,   OfSocket(cells::unix::peer_uid)),
        PathInode     = spec("path_inode",     BigInt,  HIDDEN,     All,   OfSocket(cells::unix::path_inode)),
        PathDevice    = spec("path_device",    BigInt,  HIDDEN,     All,   OfSocket(cells::unix::path_device)),
        SocketCookie  = spec("socket_cookie",  BigInt,  HIDDEN,     Linux, OfSocket(cells::socket_cookie)),
    }
}

const fn spec(
    name: &'static str,
    kind: ColumnType,
    options: ColumnOptions,
    platforms: Platforms,
    cell: Cell,
) -> Spec {
    Spec { name, kind, options, platforms, cell }
}

impl Field {
    /// The columns of this platform, in the order of the table.
    pub(super) fn here() -> &'static [Field] {
        static HERE: LazyLock<Vec<Field>> = LazyLock::new(|| {
            Field::on(if cfg!(target_os = "macos") { Macos } else { Linux }).collect()
        });
        &HERE
    }

    fn on(platform: Platforms) -> impl Iterator<Item = Field> {
        let is_there = move |field: &Field| [All, platform].contains(&field.row().platforms);
        Field::ALL.into_iter().filter(is_there)
    }

    /// The index of the column, for queries; None if this platform does not have it.
    pub(super) fn index(self) -> Option<usize> {
        Field::here().iter().position(|&field| field == self)
    }

    pub(super) fn column(self) -> Column {
        let &Spec { name, kind, options, .. } = self.row();
        Column { name, kind, options }
    }

    /// The extended details of a socket that the cells of this column come from.
    fn extended_fields(self) -> ExtendedFields {
        match self {
            Field::BytesSent
            | Field::BytesReceived
            | Field::BytesRetransmitted
            | Field::RttUs
            | Field::RttVarianceUs
            | Field::MinRttUs
            | Field::Retransmits
            | Field::Lost
            | Field::CongestionAlgorithm
            | Field::CongestionWindow
            | Field::SendMss
            | Field::LastSentMs
            | Field::LastReceivedMs
            | Field::DeliveryRate
            | Field::BusyTimeUs => ExtendedFields::TCP,
            Field::PeerPid | Field::PeerUid => ExtendedFields::PEER,
            Field::PathInode | Field::PathDevice => ExtendedFields::BOUND_FILE,
            Field::SocketCookie => ExtendedFields::COOKIE,
            _ => ExtendedFields::empty(),
        }
    }

    /// The function that makes the cells.
    pub(super) fn cell(self) -> Cell {
        self.row().cell
    }
}

/// The extended details that a query with these columns reads.
pub(super) fn extended_fields(columns_used: ColumnsUsed) -> ExtendedFields {
    let columns = Field::here().iter().enumerate();
    let used = columns.filter(|(index, _)| columns_used.contains(*index));
    used.map(|(_, field)| field.extended_fields()).collect()
}

#[cfg(test)]
impl Field {
    /// The columns on macOS.
    pub(super) fn on_macos() -> Vec<Field> {
        Field::on(Macos).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Name, type and options of each `Column(…)` line.
    fn stated(specification: &str) -> impl Iterator<Item = (&str, &str, ColumnOptions)> {
        let lines = specification.lines().map(str::trim);
        lines.filter_map(|line| line.strip_prefix("Column(\"")).map(|column| {
            let (name, rest) = column.split_once("\", ").unwrap();
            let (kind, rest) = rest.split_once(", \"").unwrap();
            let (_, flags) = rest.rsplit_once("\", ").unwrap();
            let options = [
                ("additional=True", ColumnOptions::ADDITIONAL),
                ("optimized=True", ColumnOptions::OPTIMIZED),
                ("hidden=True", ColumnOptions::HIDDEN),
            ];
            let set = options.into_iter().filter(|(flag, _)| flags.contains(flag));
            (name, kind, set.map(|(_, option)| option).collect())
        })
    }

    #[test]
    fn each_platform_has_the_columns_of_its_specification() {
        let specification = include_str!("../../process_open_sockets.table");
        let (common, rest) = specification.split_once("extended_schema(LINUX").unwrap();
        let (linux, macos) = rest.split_once("extended_schema(DARWIN").unwrap();
        for (platform, extended) in [(Linux, linux), (Macos, macos)] {
            let columns: Vec<Column> = Field::on(platform).map(Field::column).collect();
            let coded = columns.iter().map(|it| (it.name, it.kind.name(), it.options));
            let stated = stated(common).chain(stated(extended));
            assert_eq!(coded.collect::<Vec<_>>(), stated.collect::<Vec<_>>());
        }
    }
}
