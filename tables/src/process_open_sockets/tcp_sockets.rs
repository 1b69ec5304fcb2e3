//! The TCP sockets of the host, for the tables of events.

use std::collections::HashSet;

use super::columns::Field;
use super::filter::Filter;
use super::sys::Collector;
use crate::model::omission::OmissionKind;
use crate::model::socket_table::IPPROTO_TCP;
use crate::model::{Families, Family, HolderUnknown, OpenTcpSockets};
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
    if omissions.has_missing_sockets()
        || omissions.has_missing_namespaces()
        || omissions.has(OmissionKind::Line)
    {
        return None;
    }
    // In a PID namespace, the network namespaces of other processes of the host are unknown.
    let is_whole = !omissions.has(OmissionKind::PidNamespace);
    let mut namespaces = HashSet::new();
    let mut cookies = HashSet::new();
    for socket in &snapshot.sockets {
        namespaces.extend(socket.net_namespace);
        // It has the cookie of the connection that has ended.
        if socket.why_without_file() == Some(HolderUnknown::TimeWait) {
            continue;
        }
        // A source without cookies shows nothing about the sockets.
        let cookie = socket.details.extended.as_deref().and_then(|it| it.cookie)?;
        cookies.insert(cookie.get());
    }
    Some(OpenTcpSockets { cookies, namespaces: (!is_whole).then_some(namespaces) })
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    use rustix::net::sockopt::socket_cookie;

    use super::*;
    use crate::Options;
    use crate::linux::quiet::in_quiet_namespace;

    #[test]
    fn sockets_are_listed_until_they_are_closed() {
        let test = "sockets_are_listed_until_they_are_closed";
        in_quiet_namespace(module_path!(), test, || {
            let collector = Collector::new(Options::default());
            for address in ["127.0.0.1:0", "[::1]:0"] {
                let listener = TcpListener::bind(address).unwrap();
                let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
                let (server, _) = listener.accept().unwrap();
                let sockets = [listener.as_fd(), client.as_fd(), server.as_fd()];
                let cookies = sockets.map(|socket| socket_cookie(socket).unwrap());
                let listed = read(&collector).expect("a whole list");
                assert!(cookies.iter().all(|cookie| listed.cookies.contains(cookie)));
                // The end that closes first is then in TIME_WAIT.
                drop(client);
                drop((server, listener));
                let listed = read(&collector).expect("a whole list");
                assert!(!cookies.iter().any(|cookie| listed.cookies.contains(cookie)));
            }
        });
    }
}
