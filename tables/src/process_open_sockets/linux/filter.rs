//! Applies a filter to the socket tables of Linux.

use crate::condition::NumberCondition;
use crate::formats::linux::sock_diag::{Request, States};
use crate::model::socket_table::SocketTable;
use crate::model::{Families, TcpState};
use crate::process_open_sockets::filter::Filter;

impl Filter {
    /// Whether a TCP socket in that state, with these ports, can be in the answer.
    pub(crate) fn admits_tcp(&self, state: TcpState, local_port: u16, remote_port: u16) -> bool {
        self.state.admits(state.name())
            && self.local_port.admits(local_port.into())
            && self.remote_port.admits(remote_port.into())
    }

    /// Whether the query selects sockets that no table of the kernel lists.
    pub(crate) fn admits_unlisted(&self) -> bool {
        self.families.contains(Families::UNLISTED)
            && self.state.admits("")
            && self.local_port.admits(0)
            && self.remote_port.admits(0)
            && self.admits_net_namespace(None)
    }

    /// The dump of all sockets of a table; None if the table has no dump. With all families selected, it has
    /// bound-inactive sockets too, which `/proc/net` does not list.
    pub(crate) fn full_request(&self, table: SocketTable) -> Option<Request> {
        let request = Request::of(table)?.with_extended(self.extended_fields());
        let bound_only = self.families.contains(Families::UNLISTED);
        Some(if bound_only {
            request.in_states(States::LISTED.with_bound_inactive())
        } else {
            request
        })
    }

    /// The dump with the conditions of the filter that the kernel can evaluate.
    pub(crate) fn request(&self, table: SocketTable) -> Option<Request> {
        let admits = |state: TcpState| self.state.admits(state.name());
        let mut states = States::admitting(admits);
        if self.families.contains(Families::UNLISTED) && admits(TcpState::Closed) {
            states = states.with_bound_inactive();
        }
        let request = Request::of(table)?.in_states(states).with_extended(self.extended_fields());
        Some(
            request
                .with_local_ports(self.local_port.ports())
                .with_remote_ports(self.remote_port.ports()),
        )
    }

    /// Whether a full scan lists every socket of every selected table: no constraint narrows it.
    pub(crate) fn lists_all_of_tables(&self) -> bool {
        let numbers = [&self.family, &self.protocol, &self.local_port, &self.remote_port];
        numbers.into_iter().all(NumberCondition::is_open)
            && self.socket.is_open()
            && self.state.is_open()
            && self.net_namespace.is_open()
            && self.net_namespace_name.is_open()
    }

    /// Whether the user has selected the families of the table.
    pub(crate) fn admits_families_of(&self, table: SocketTable) -> bool {
        self.families.contains(table.families())
    }

    /// Whether the table can have a socket that the query selects.
    pub(crate) fn admits_table(&self, table: SocketTable) -> bool {
        self.admits_families(table.families())
            && self.family.admits(table.family() as i64)
            && table.protocol().is_none_or(|protocol| self.protocol.admits(protocol.into()))
            && table.state().is_none_or(|state| self.state.admits(state))
            && (table.has_ports() || self.admits_no_ports())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process_open_sockets::columns::Field;
    use crate::{Constraint, Operator, QueryContext};

    fn constraint(field: Field, operator: Operator, text: &str) -> Constraint {
        Constraint { column: field as usize, operator, text: text.into() }
    }

    #[test]
    fn a_table_without_matching_sockets_is_not_read() {
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
}
