//! The query's constraints as conditions on what is to be collected.

use super::cells::{UNOWNED, net_namespace_text};
use super::columns::Field;
use super::condition::{NumberCondition, TextCondition};
use crate::formats::linux::sock_diag::{Request, States};
use crate::formats::macos::pcblist_n::PcbList;
use crate::model::holders::Holder;
use crate::model::socket_table::SocketTable;
use crate::model::{Families, NetNamespace, Socket, TcpState};
use crate::{ColumnsUsed, QueryContext};

/// What a row must be like to be asked for.
#[derive(Clone, Debug)]
pub(crate) struct Filter {
    pid: NumberCondition,
    fd: NumberCondition,
    socket: NumberCondition,
    family: NumberCondition,
    protocol: NumberCondition,
    local_port: NumberCondition,
    remote_port: NumberCondition,
    state: TextCondition,
    net_namespace: TextCondition,
    columns_used: ColumnsUsed,
    families: Families,
    is_lookup: bool,
}

impl Filter {
    /// Of all rows of these families.
    pub(crate) fn new(query: &QueryContext, families: Families) -> Filter {
        let of = |field: Field| {
            let place = field.place();
            query.constraints.iter().filter(move |constraint| Some(constraint.column) == place)
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
            columns_used: query.columns_used,
            families,
            is_lookup: query.constraints.iter().all(|constraint| {
                let lookup = [Field::Pid, Field::Fd, Field::Socket].map(Field::place);
                lookup.contains(&Some(constraint.column))
            }),
        }
    }

    /// Whether the query looks at this column.
    pub(crate) fn shows(&self, field: Field) -> bool {
        field.place().is_some_and(|place| self.columns_used.contains(place))
    }

    /// Whether rows of sockets that nobody holds are asked for.
    pub(crate) fn admits_unowned(&self) -> bool {
        self.pid.admits(UNOWNED) && self.fd.admits(UNOWNED)
    }

    /// The only processes that are asked for; None if the constraints list none.
    pub(crate) fn listed_pids(&self) -> Option<Vec<i32>> {
        let listed = self.pid.any_of.as_ref()?.iter();
        Some(listed.filter_map(|&pid| i32::try_from(pid).ok()).filter(|&pid| pid > 0).collect())
    }

    pub(crate) fn admits_pid(&self, pid: i32) -> bool {
        self.pid.admits(pid.into())
    }

    /// Whether a row that shows this holder is asked for.
    pub(crate) fn admits_holder(&self, holder: &Holder) -> bool {
        self.pid.admits(holder.pid.into()) && self.fd.admits(holder.fd.into())
    }

    pub(crate) fn admits_inode(&self, inode: u64) -> bool {
        self.socket.admits(inode.cast_signed())
    }

    /// Whether rows of this socket are asked for.
    pub(crate) fn admits_socket(&self, socket: &Socket) -> bool {
        self.admits_inode(socket.inode)
            && socket.family().is_none_or(|family| self.family.admits(family.into()))
            && socket.protocol().is_none_or(|protocol| self.protocol.admits(protocol.into()))
            && self.local_port.admits(socket.local_port().into())
            && self.remote_port.admits(socket.remote_port().into())
            && self.state.admits(socket.state())
            && self.admits_net_namespace(socket.net_namespace)
    }

    /// Whether a TCP socket in that state, with these ports, can be in the answer.
    pub(crate) fn admits_tcp(&self, state: TcpState, local_port: u16, remote_port: u16) -> bool {
        self.state.admits(state.name())
            && self.local_port.admits(local_port.into())
            && self.remote_port.admits(remote_port.into())
    }

    /// Whether all that the query says is about who holds a socket, and about the socket's number: none
    /// of that changes as long as the socket is held.
    pub(crate) fn is_lookup(&self) -> bool {
        self.is_lookup
    }

    /// Whether sockets are asked for that are in no table of the kernel.
    pub(crate) fn admits_unlisted(&self) -> bool {
        self.families.contains(Families::UNLISTED)
            && self.state.admits("")
            && self.local_port.admits(0)
            && self.remote_port.admits(0)
            && self.admits_net_namespace(None)
    }

    /// The dump of all sockets of a table; None if there is none of it. What a user asked to see who
    /// asked for everything is in it although `/proc/net` does not list it.
    pub(crate) fn whole(&self, table: SocketTable) -> Option<Request> {
        let request = Request::of(table)?;
        let bound_only = self.families.contains(Families::UNLISTED);
        Some(if bound_only {
            request.in_states(States::LISTED.and_bound_inactive())
        } else {
            request
        })
    }

    /// The dump of those of them that the kernel can tell to match.
    pub(crate) fn request(&self, table: SocketTable) -> Option<Request> {
        let admits = |state: TcpState| self.state.admits(state.name());
        let mut states = States::admitting(admits);
        if self.families.contains(Families::UNLISTED) && admits(TcpState::Closed) {
            states = states.and_bound_inactive();
        }
        let request = Request::of(table)?.in_states(states);
        Some(
            request
                .with_local_ports(self.local_port.ports())
                .with_remote_ports(self.remote_port.ports()),
        )
    }

    /// Whether a full scan lists every socket of every table that the user chose: no constraint narrows it.
    pub(crate) fn lists_all_of_tables(&self) -> bool {
        let numbers = [&self.family, &self.protocol, &self.local_port, &self.remote_port];
        numbers.into_iter().all(NumberCondition::is_open)
            && self.socket.is_open()
            && self.state.is_open()
            && self.net_namespace.is_open()
    }

    /// Whether the user has chosen to see its sockets.
    pub(crate) fn admits_families_of(&self, table: SocketTable) -> bool {
        self.families.contains(table.families())
    }

    /// Whether the table can have a socket that is asked for.
    pub(crate) fn admits_table(&self, table: SocketTable) -> bool {
        self.admits_families(table.families())
            && self.family.admits(table.family() as i64)
            && table.protocol().is_none_or(|protocol| self.protocol.admits(protocol.into()))
            && table.state().is_none_or(|state| self.state.admits(state))
            && (table.has_ports() || self.admits_no_ports())
    }

    /// Whether the user has chosen to see all of these.
    pub(crate) fn admits_families(&self, families: Families) -> bool {
        self.families.contains(families)
    }

    /// Whether the list can have a socket that is asked for.
    #[cfg_attr(not(target_os = "macos"), allow(dead_code, reason = "only macOS has these lists"))]
    pub(crate) fn admits_list(&self, list: PcbList) -> bool {
        self.admits_families(list.families())
            && list.family().iter().any(|&family| self.family.admits(family as i64))
            && list.only_protocol().is_none_or(|protocol| self.protocol.admits(protocol.into()))
            && (list == PcbList::Tcp || self.state.admits(""))
            && (list.families() == Families::INET || self.admits_no_ports())
    }

    fn admits_no_ports(&self) -> bool {
        self.local_port.admits(0) && self.remote_port.admits(0)
    }

    pub(crate) fn admits_net_namespace(&self, namespace: Option<NetNamespace>) -> bool {
        self.net_namespace.is_open() || self.net_namespace.admits(&net_namespace_text(namespace))
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
    fn a_table_whose_sockets_cannot_match_is_not_read() {
        let files = |constraints: Vec<Constraint>| -> Vec<&'static str> {
            let query = QueryContext { constraints, ..Default::default() };
            let filter = Filter::new(&query, Families::default());
            let all = SocketTable::ALL.into_iter();
            all.filter(|&table| filter.admits_table(table)).map(SocketTable::name).collect()
        };
        let equals = |field, text| constraint(field, Operator::Equals, text);
        let all = files(vec![]).len();
        assert_eq!(all, 12);
        assert_eq!(files(vec![equals(Field::Protocol, "6")]), ["tcp", "tcp6", "packet"]);
        assert_eq!(files(vec![equals(Field::State, "LISTEN")]), ["tcp", "tcp6"]);
        assert_eq!(files(vec![equals(Field::State, "NONE")]), ["tcp", "tcp6", "packet"]);
        let without_states = files(vec![equals(Field::State, "")]);
        assert_eq!(without_states.len(), all - 1);
        assert!(!without_states.contains(&"packet"));
        assert_eq!(files(vec![equals(Field::Family, "1")]), ["unix"]);
        assert_eq!(
            files(vec![equals(Field::Family, "10"), equals(Field::LocalPort, "53")]),
            ["tcp6", "udp6", "udplite6", "raw6", "icmp6"]
        );
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
        assert!(filter(&["7", "-1"]).admits_unowned());
        assert!(!filter(&["7"]).admits_unowned());
        assert_eq!(filter(&[]).listed_pids(), None);
    }
}
