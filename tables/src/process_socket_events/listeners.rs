//! Which process listens on a port.

use std::net::IpAddr;
use std::sync::Arc;

use super::event::{Ends, Process};
use super::number_hash::NumberMap;
use crate::model::NetNamespace;
use crate::model::tcp_event::SocketKey;

/// The listening sockets, by network namespace and port.
#[derive(Debug, Default)]
pub(super) struct Listeners(NumberMap<(NetNamespace, u16), Vec<Listener>>);

#[derive(Debug)]
struct Listener {
    socket: SocketKey,
    address: IpAddr,
    process: Arc<Process>,
}

impl Listeners {
    pub(super) fn insert(&mut self, socket: SocketKey, ends: &Ends, process: &Arc<Process>) {
        let key = (ends.net_namespace, ends.local.port);
        let listeners = self.0.entry(key).or_default();
        listeners.retain(|listener| listener.socket != socket);
        let (address, process) = (ends.local.address, Arc::clone(process));
        listeners.push(Listener { socket, address, process });
    }

    pub(super) fn remove(&mut self, socket: SocketKey, ends: &Ends) {
        let key = (ends.net_namespace, ends.local.port);
        if let Some(listeners) = self.0.get_mut(&key) {
            listeners.retain(|listener| listener.socket != socket);
            if listeners.is_empty() {
                self.0.remove(&key);
            }
        }
    }

    /// The process that listens on the local end. None if there is none, or several: which of the sockets with
    /// SO_REUSEPORT gets a connection is not recorded.
    pub(super) fn process(&self, ends: &Ends) -> Option<&Arc<Process>> {
        let listeners = self.0.get(&(ends.net_namespace, ends.local.port))?;
        let address = ends.local.address;
        // The kernel prefers a socket that is bound to the address (`inet_lookup_listener`).
        let is_wildcard = |it: &&Listener| {
            it.address.is_unspecified() && it.address.is_ipv4() == address.is_ipv4()
        };
        only(listeners.iter().filter(|it| it.address == address))
            .or_else(|| only(listeners.iter().filter(is_wildcard)))
            .flatten()
    }
}

/// The process of these listeners if they have the same one; the outer None if there is no listener.
fn only<'a>(mut listeners: impl Iterator<Item = &'a Listener>) -> Option<Option<&'a Arc<Process>>> {
    let first = &listeners.next()?.process;
    let is_same = |it: &Listener| {
        it.process.pid == first.pid && it.process.image.start_ns == first.image.start_ns
    };
    Some(listeners.all(is_same).then_some(first))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Endpoint;
    use crate::process_socket_events::event::{Image, TextBytes};

    fn ends(address: &str, namespace: u64) -> Ends {
        let local = Endpoint { address: address.parse().unwrap(), port: 80 };
        let net_namespace = NetNamespace(namespace);
        Ends { local, remote: local, net_namespace, family: 2, kind: 1, protocol: 6 }
    }

    fn process(pid: i32) -> Arc<Process> {
        let image = Image::new(pid, 1, 0, &TextBytes::default());
        let (tid, parent, uid, gid, comm, cgroup) = (None, None, None, None, None, None);
        Arc::new(Process { pid, tid, parent, uid, gid, comm, image, cgroup })
    }

    fn listeners(of: &[(u64, &str, i32)]) -> Listeners {
        let mut listeners = Listeners::default();
        for (cookie, address, pid) in of {
            listeners.insert(SocketKey::Cookie(*cookie), &ends(address, 1), &process(*pid));
        }
        listeners
    }

    fn found(of: &Listeners, address: &str) -> Option<i32> {
        of.process(&ends(address, 1)).map(|process| process.pid)
    }

    #[test]
    fn a_listener_on_the_address_is_preferred_to_one_on_all() {
        let listeners = listeners(&[(1, "0.0.0.0", 10), (2, "127.0.0.2", 20), (3, "::", 30)]);
        assert_eq!(found(&listeners, "127.0.0.1"), Some(10));
        assert_eq!(found(&listeners, "127.0.0.2"), Some(20));
        assert_eq!(found(&listeners, "::ffff:127.0.0.1"), Some(30));
        assert!(listeners.process(&ends("127.0.0.1", 2)).is_none());
    }

    #[test]
    fn two_processes_on_one_address_are_no_listener() {
        assert_eq!(found(&listeners(&[(1, "0.0.0.0", 10), (2, "0.0.0.0", 11)]), "127.0.0.1"), None);
        assert_eq!(
            found(
                &listeners(&[(1, "127.0.0.1", 10), (2, "127.0.0.1", 11), (3, "0.0.0.0", 12)]),
                "127.0.0.1"
            ),
            None
        );
        assert_eq!(
            found(&listeners(&[(1, "0.0.0.0", 10), (2, "0.0.0.0", 10)]), "127.0.0.1"),
            Some(10)
        );
    }

    #[test]
    fn a_closed_listener_is_no_listener() {
        let mut listeners = listeners(&[(1, "0.0.0.0", 10)]);
        listeners.remove(SocketKey::Cookie(2), &ends("0.0.0.0", 1));
        assert_eq!(found(&listeners, "127.0.0.1"), Some(10));
        listeners.remove(SocketKey::Cookie(1), &ends("0.0.0.0", 1));
        assert_eq!(found(&listeners, "127.0.0.1"), None);
        assert!(listeners.0.is_empty());
    }
}
