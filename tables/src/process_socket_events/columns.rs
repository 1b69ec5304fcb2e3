//! The columns of the table, one row each.

use super::cells::{self, Cell};
use super::column_spec::{FILTERABLE, HIDDEN, HIDDEN_FILTERABLE, OTHER, Spec, spec};
use crate::enum_table::enum_table;
use crate::{Column, ColumnType};

use ColumnType::{BigInt, Integer, Text};

enum_table! {
    /// A column. The hidden ones follow those of `SELECT *`.
    ///
    /// `tables/process_socket_events.table` documents each column.
    pub(super) enum Field: Spec {
        Time              = spec("time",                BigInt,  FILTERABLE,        cells::time),
        Action            = spec("action",              Text,    FILTERABLE,        cells::action),
        Status            = spec("status",              Text,    OTHER,             cells::status),
        Errno             = spec("errno",               Text,    OTHER,             cells::errno),
        Pid               = spec("pid",                 Integer, FILTERABLE,        cells::pid),
        Parent            = spec("parent",              Integer, OTHER,             cells::parent),
        Uid               = spec("uid",                 BigInt,  OTHER,             cells::uid),
        Gid               = spec("gid",                 BigInt,  OTHER,             cells::gid),
        ProcessName       = spec("process_name",        Text,    OTHER,             cells::process_name),
        ProcessPath       = spec("process_path",        Text,    OTHER,             cells::process_path),
        ProcessCmdline    = spec("process_cmdline",     Text,    OTHER,             cells::process_cmdline),
        Fd                = spec("fd",                  BigInt,  OTHER,             cells::fd),
        Socket            = spec("socket",              BigInt,  OTHER,             cells::socket),
        Family            = spec("family",              Integer, OTHER,             cells::family),
        Type              = spec("type",                Integer, OTHER,             cells::kind),
        Protocol          = spec("protocol",            Integer, OTHER,             cells::protocol),
        LocalAddress      = spec("local_address",       Text,    OTHER,             cells::local_address),
        LocalPort         = spec("local_port",          Integer, FILTERABLE,        cells::local_port),
        RemoteAddress     = spec("remote_address",      Text,    OTHER,             cells::remote_address),
        RemotePort        = spec("remote_port",         Integer, FILTERABLE,        cells::remote_port),
        NetNamespace      = spec("net_namespace",       Text,    OTHER,             cells::net_namespace),
        DurationNs        = spec("duration_ns",         BigInt,  OTHER,             cells::duration_ns),
        BytesSent         = spec("bytes_sent",          BigInt,  OTHER,             cells::bytes_sent),
        BytesReceived     = spec("bytes_received",      BigInt,  OTHER,             cells::bytes_received),
        ClosedBy          = spec("closed_by",           Text,    OTHER,             cells::closed_by),
        Tid               = spec("tid",                 Integer, HIDDEN,            cells::tid),
        SocketCookie      = spec("socket_cookie",       BigInt,  HIDDEN_FILTERABLE, cells::socket_cookie),
        ProcessCgroupPath = spec("process_cgroup_path", Text,    HIDDEN,            cells::process_cgroup_path),
        ContainerId       = spec("container_id",        Text,    HIDDEN,            cells::container_id),
        PodUid            = spec("pod_uid",             Text,    HIDDEN,            cells::pod_uid),
        Attribution       = spec("attribution",         Text,    HIDDEN,            cells::attribution),
        Success           = spec("success",             Integer, HIDDEN,            cells::success),
        Ntime             = spec("ntime",               Text,    HIDDEN,            cells::ntime),
        Uptime            = spec("uptime",              BigInt,  HIDDEN,            cells::uptime),
        Eid               = spec("eid",                 BigInt,  HIDDEN,            cells::eid),
    }
}

impl Field {
    pub(super) fn column(self) -> Column {
        self.row().column()
    }

    /// The function that makes the cells.
    pub(super) fn cell(self) -> Cell {
        self.row().cell
    }
}
