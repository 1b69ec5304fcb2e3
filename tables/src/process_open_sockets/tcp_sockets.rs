//! The TCP sockets of the host, for the tables of events.

use std::collections::HashSet;

use super::columns::Field;
use super::filter::Filter;
use super::sys::Collector;
use crate::model::omission::OmissionKind;
use crate::model::socket_table::IPPROTO_TCP;
use crate::model::{Families, Family, OpenTcpSockets};
use crate::{ColumnsUsed, Constraint, Operator, QueryContext};

/// Lists the sockets; None if some of a known namespace could not be read.
pub(super) fn read(collector: &Collector) -> Option<OpenTcpSockets> {
    let equals = |field: Field, number: u16| {
        let (column, text) = (field.index()?, number.to_string());
        Some(Constraint { column, operator: Operator::Equals, text })
    };
    let constraints = [
        equals(Field::Family, Family::Inet as u16),
        equals(Field::Family, Family::Inet6 as u16),
        equals(Field::Protocol, IPPROTO_TCP),
    ];
    let columns = [Field::SocketCookie, Field::NetNamespace];
    let query = QueryContext {
        constraints: constraints.into_iter().flatten().collect(),
        columns_used: ColumnsUsed(
            columns.iter().filter_map(|it| it.index()).map(|it| 1 << it.min(63)).sum(),
        ),
    };
    let snapshot = collector.collect(&Filter::new(&query, Families::default())).ok()?;
    let omissions = &snapshot.omissions;
    if omissions.has_missing_sockets() || omissions.has(OmissionKind::Line) {
        return None;
    }
    let is_whole =
        !omissions.has_missing_namespaces() && !omissions.has(OmissionKind::PidNamespace);
    let mut namespaces = HashSet::new();
    let mut cookies = HashSet::new();
    for socket in &snapshot.sockets {
        namespaces.extend(socket.net_namespace);
        // A source without cookies shows nothing about the sockets.
        let cookie = socket.details.extended.as_deref().and_then(|it| it.cookie)?;
        cookies.insert(cookie.get());
    }
    Some(OpenTcpSockets { cookies, namespaces: (!is_whole).then_some(namespaces) })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use rustix::net::sockopt::socket_cookie;

    use super::*;
    use crate::Options;

    #[test]
    fn the_sockets_that_exist_are_listed() {
        let collector = Collector::new(Options::default());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let cookie = socket_cookie(&listener).unwrap();
        // Other sockets of the host can end while they are read.
        let listed = (0..20).find_map(|_| read(&collector)).expect("a whole list");
        assert!(listed.cookies.contains(&cookie));
        drop(listener);
        let listed = (0..20).find_map(|_| read(&collector)).expect("a whole list");
        assert!(!listed.cookies.contains(&cookie));
    }
}
