//! The columns of the table, one row each.

use super::super::cells::{self as of_event, Cell};
use super::super::column_spec::{FILTERABLE, HIDDEN, HIDDEN_FILTERABLE, OTHER, Spec, spec};
use super::cells;
use crate::enum_table::enum_table;
use crate::{Column, ColumnType};

use ColumnType::{BigInt, Integer, Text};

enum_table! {
    /// A column. The hidden ones follow those of `SELECT *`.
    ///
    /// `tables/process_socket_flows.table` documents each column.
    pub(super) enum Field: Spec {
        Time               = spec("time",                BigInt,  FILTERABLE,        of_event::time),
        StartTime          = spec("start_time",          BigInt,  OTHER,             cells::start_time),
        EndTime            = spec("end_time",            BigInt,  OTHER,             cells::end_time),
        DurationNs         = spec("duration_ns",         BigInt,  OTHER,             of_event::duration_ns),
        Pid                = spec("pid",                 Integer, FILTERABLE,        cells::pid),
        ProcessName        = spec("process_name",        Text,    OTHER,             cells::process_name),
        ProcessPath        = spec("process_path",        Text,    OTHER,             cells::process_path),
        Uid                = spec("uid",                 BigInt,  OTHER,             cells::uid),
        CloserPid          = spec("closer_pid",          Integer, OTHER,             cells::closer_pid),
        Direction          = spec("direction",           Text,    OTHER,             cells::direction),
        Result             = spec("result",              Text,    OTHER,             cells::result),
        Family             = spec("family",              Integer, OTHER,             of_event::family),
        Type               = spec("type",                Integer, OTHER,             of_event::kind),
        Protocol           = spec("protocol",            Integer, OTHER,             of_event::protocol),
        LocalAddress       = spec("local_address",       Text,    OTHER,             of_event::local_address),
        LocalPort          = spec("local_port",          Integer, FILTERABLE,        of_event::local_port),
        RemoteAddress      = spec("remote_address",      Text,    OTHER,             of_event::remote_address),
        RemotePort         = spec("remote_port",         Integer, FILTERABLE,        of_event::remote_port),
        NetNamespace       = spec("net_namespace",       Text,    OTHER,             of_event::net_namespace),
        BytesSent          = spec("bytes_sent",          BigInt,  OTHER,             of_event::bytes_sent),
        BytesReceived      = spec("bytes_received",      BigInt,  OTHER,             of_event::bytes_received),
        MessagesSent       = spec("messages_sent",       BigInt,  OTHER,             cells::messages_sent),
        MessagesReceived   = spec("messages_received",   BigInt,  OTHER,             cells::messages_received),
        BytesRetransmitted = spec("bytes_retransmitted", BigInt,  OTHER,             cells::bytes_retransmitted),
        RttUs              = spec("rtt_us",              BigInt,  OTHER,             cells::rtt_us),
        MinRttUs           = spec("min_rtt_us",          BigInt,  HIDDEN,            cells::min_rtt_us),
        ProcessCmdline     = spec("process_cmdline",     Text,    HIDDEN,            cells::process_cmdline),
        CloserName         = spec("closer_name",         Text,    HIDDEN,            cells::closer_name),
        CloserPath         = spec("closer_path",         Text,    HIDDEN,            cells::closer_path),
        ClosedBy           = spec("closed_by",           Text,    HIDDEN,            of_event::closed_by),
        Errno              = spec("errno",               Text,    HIDDEN,            of_event::errno),
        SocketCookie       = spec("socket_cookie",       BigInt,  HIDDEN_FILTERABLE, of_event::socket_cookie),
        ProcessCgroupPath  = spec("process_cgroup_path", Text,    HIDDEN,            cells::process_cgroup_path),
        ContainerId        = spec("container_id",        Text,    HIDDEN,            cells::container_id),
        PodUid             = spec("pod_uid",             Text,    HIDDEN,            cells::pod_uid),
        Attribution        = spec("attribution",         Text,    HIDDEN,            cells::attribution),
        Eid                = spec("eid",                 BigInt,  HIDDEN,            of_event::eid),
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
