//! The constraints of a query, as conditions on sockets and holders.

use super::cells::{UNHELD, net_namespace_text};
use super::columns::{self, Field};
use crate::condition::{NumberCondition, TextCondition};
use crate::model::holders::Holder;
use crate::model::{
    ExtendedFields, Families, NetNamespace, NetNamespaceNames, ProcessFields, Socket,
};
use crate::{ColumnsUsed, QueryContext};

/// The conditions of a query on rows.
#[derive(Clone, Debug)]
pub(crate) struct Filter {
    pid: NumberCondition,
    fd: NumberCondition,
    pub(super) socket: NumberCondition,
    pub(super) family: NumberCondition,
    pub(super) protocol: NumberCondition,
    pub(super) local_port: NumberCondition,
    pub(super) remote_port: NumberCondition,
    pub(super) state: TextCondition,
    pub(super) net_namespace: TextCondition,
    pub(super) net_namespace_name: TextCondition,
    net_namespace_names: NetNamespaceNames,
    columns_used: ColumnsUsed,
    #[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "only Linux asks for them"))]
    extended_fields: ExtendedFields,
    pub(super) families: Families,
    is_lookup: bool,
}

/// The columns about the processes that hold sockets.
const PROCESS_FIELDS: [(Field, ProcessFields); 11] = [
    (Field::ProcessName, ProcessFields::NAME),
    (Field::ProcessPath, ProcessFields::PATH),
    (Field::ProcessCmdline, ProcessFields::CMDLINE),
    (Field::ProcessParent, ProcessFields::PARENT),
    (Field::ProcessUid, ProcessFields::UIDS),
    (Field::ProcessEuid, ProcessFields::UIDS),
    (Field::ProcessStartTime, ProcessFields::START_TIME),
    (Field::ProcessCgroupPath, ProcessFields::CGROUP_PATH),
    (Field::ContainerId, ProcessFields::CONTAINER),
    (Field::ContainerRuntime, ProcessFields::CONTAINER),
    (Field::PodUid, ProcessFields::CONTAINER),
];

impl Filter {
    /// Makes the filter of a query of these families.
    pub(crate) fn new(query: &QueryContext, families: Families) -> Filter {
        let of = |field: Field| {
            let index = field.index();
            query.constraints.iter().filter(move |constraint| Some(constraint.column) == index)
        };
        let number = |field| NumberCondition::new(of(field));
        let text = |field| TextCondition::new(of(field));
        Filter {
            pid: number(Field::Pid),
            fd: number(Field::Fd),
            socket: number(Field::Socket),
            family: number(Field::Family),
            protocol: number(Field::Protocol),
            local_port: number(Field::LocalPort),
            remote_port: number(Field::RemotePort),
            state: text(Field::State),
            net_namespace: text(Field::NetNamespace),
            net_namespace_name: text(Field::NetNamespaceName),
            net_namespace_names: NetNamespaceNames::default(),
            columns_used: query.columns_used,
            extended_fields: columns::extended_fields(query.columns_used),
            families,
            is_lookup: query.constraints.iter().all(|constraint| {
                let lookup = [Field::Pid, Field::Fd, Field::Socket].map(Field::index);
                lookup.contains(&Some(constraint.column))
            }),
        }
    }

    /// Whether the query reads this column.
    pub(crate) fn shows(&self, field: Field) -> bool {
        field.index().is_some_and(|index| self.columns_used.contains(index))
    }

    /// Whether the query reads bytes that sockets have sent or received.
    pub(super) fn shows_bytes(&self) -> bool {
        self.shows(Field::BytesSent) || self.shows(Field::BytesReceived)
    }

    /// Reads the socket cookies, too, with which the bytes of datagram sockets are found.
    pub(super) fn read_cookies(&mut self) {
        self.extended_fields |= ExtendedFields::COOKIE;
    }

    /// What the query reads of the processes that hold sockets.
    pub(crate) fn process_fields(&self) -> ProcessFields {
        let fields = PROCESS_FIELDS.iter().filter(|(field, _)| self.shows(*field));
        fields.map(|&(_, read)| read).collect()
    }

    /// Whether the query reads the containers of sockets.
    #[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "only Linux has containers"))]
    pub(crate) fn shows_container(&self) -> bool {
        self.process_fields().contains(ProcessFields::CONTAINER)
    }

    /// The extended details of sockets that the query reads.
    #[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "only Linux asks for them"))]
    pub(crate) fn extended_fields(&self) -> ExtendedFields {
        self.extended_fields
    }

    /// Whether the query selects rows of unheld sockets.
    pub(crate) fn admits_unheld(&self) -> bool {
        self.pid.admits(UNHELD) && self.fd.admits(UNHELD)
    }

    /// The only processes that the query selects; None if the constraints list none.
    pub(crate) fn listed_pids(&self) -> Option<Vec<i32>> {
        let listed = self.pid.any_of.as_ref()?.iter();
        Some(listed.filter_map(|&pid| i32::try_from(pid).ok()).filter(|&pid| pid > 0).collect())
    }

    pub(crate) fn admits_pid(&self, pid: i32) -> bool {
        self.pid.admits(pid.into())
    }

    /// Whether the query selects rows of this holder.
    pub(crate) fn admits_holder(&self, holder: &Holder) -> bool {
        self.pid.admits(holder.pid.into()) && self.fd.admits(holder.fd.into())
    }

    pub(crate) fn admits_inode(&self, inode: u64) -> bool {
        self.socket.admits(inode.cast_signed())
    }

    /// Whether the query selects rows of this socket.
    pub(crate) fn admits_socket(&self, socket: &Socket) -> bool {
        self.admits_inode(socket.inode)
            && socket.family().is_none_or(|family| self.family.admits(family.into()))
            && socket.protocol().is_none_or(|protocol| self.protocol.admits(protocol.into()))
            && self.local_port.admits(socket.local_port().into())
            && self.remote_port.admits(socket.remote_port().into())
            && self.state.admits(socket.state())
            && self.admits_net_namespace(socket.net_namespace)
    }

    /// Whether the query has constraints on holder and inode only: they do not change while the socket is held.
    #[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "only Linux caches sockets"))]
    pub(crate) fn is_lookup(&self) -> bool {
        self.is_lookup
    }

    /// Whether the user has selected all these families.
    pub(crate) fn admits_families(&self, families: Families) -> bool {
        self.families.contains(families)
    }

    /// Whether the query selects rows without ports.
    pub(super) fn admits_no_ports(&self) -> bool {
        self.local_port.admits(0) && self.remote_port.admits(0)
    }

    /// Whether the query selects sockets of this namespace.
    pub(crate) fn admits_net_namespace(&self, namespace: Option<NetNamespace>) -> bool {
        (self.net_namespace.is_open() || self.net_namespace.admits(&net_namespace_text(namespace)))
            && (self.net_namespace_name.is_open()
                || self.net_namespace_name.admits(self.net_namespace_names.of(namespace)))
    }

    /// Whether the query reads the names of namespaces, in a cell or a constraint.
    #[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "macOS has no namespaces"))]
    pub(crate) fn reads_net_namespace_names(&self) -> bool {
        self.shows(Field::NetNamespaceName) || !self.net_namespace_name.is_open()
    }

    /// The filter of a scan that read these names.
    #[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "macOS has no namespaces"))]
    pub(crate) fn with_net_namespace_names(self, names: NetNamespaceNames) -> Filter {
        Filter { net_namespace_names: names, ..self }
    }

    #[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "macOS has no namespaces"))]
    pub(crate) fn net_namespace_names(&self) -> &NetNamespaceNames {
        &self.net_namespace_names
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Constraint, Operator};

    fn constraint(field: Field, operator: Operator, text: &str) -> Constraint {
        Constraint { column: field as usize, operator, text: text.into() }
    }

    #[test]
    fn listed_pids_are_those_a_process_can_have() {
        let filter = |texts: &[&str]| {
            let constraints =
                texts.iter().map(|text| constraint(Field::Pid, Operator::Equals, text)).collect();
            let query = QueryContext { constraints, ..Default::default() };
            Filter::new(&query, Families::default())
        };
        assert_eq!(filter(&["7", "-1", "0", "99999999999", "7"]).listed_pids(), Some(vec![7]));
        assert!(filter(&["7", "-1"]).admits_unheld());
        assert!(!filter(&["7"]).admits_unheld());
        assert_eq!(filter(&[]).listed_pids(), None);
    }
}
