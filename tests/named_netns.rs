//! Network namespaces with a name, as `ip netns add` makes them.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;

use rusqlite::Connection;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use support::conditions::database;
use support::left_out::report_left_out;
use support::own::inode;
use tables::process_open_sockets::ProcessOpenSockets;
use tables::{Options, Source};

/// A named network namespace, and a listener in it.
struct Named {
    name: String,
    listener: TcpListener,
}

impl Named {
    fn new(test: &str) -> Option<Named> {
        if !rustix::process::geteuid().is_root() {
            report_left_out(test, "needs root: a network namespace needs CAP_SYS_ADMIN");
            return None;
        }
        let name = format!("{}-{test}", std::process::id());
        let added = Command::new("ip").args(["netns", "add", &name]).status();
        assert!(added.unwrap().success(), "ip, of iproute2, adds a namespace");
        let listener = std::thread::scope(|scope| {
            let listen = || {
                let namespace = File::open(Path::new("/run/netns").join(&name)).unwrap();
                let kind = Some(LinkNameSpaceType::Network);
                move_into_link_name_space(namespace.as_fd(), kind).unwrap();
                // Without the interface lo being up, only the wildcard address can be bound.
                TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap()
            };
            scope.spawn(listen).join().unwrap()
        });
        Some(Named { name, listener })
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).status();
    }
}

fn table(source: Source) -> ProcessOpenSockets {
    ProcessOpenSockets::new(Options { source, ..Options::default() })
}

/// The inodes that the query selects from `mounted`.
fn inodes(connection: &Connection, condition: &str) -> Vec<String> {
    let sql = format!("SELECT CAST(socket AS TEXT) FROM mounted WHERE {condition}");
    let mut statement = connection.prepare(&sql).unwrap();
    let cells = statement.query_map([], |row| row.get(0)).unwrap();
    cells.collect::<Result<_, _>>().unwrap()
}

#[test]
fn a_socket_shows_the_name_of_its_namespace() {
    let Some(named) = Named::new("a_socket_shows_the_name_of_its_namespace") else { return };
    let here = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    for source in [Source::Auto, Source::Netlink, Source::Procfs, Source::Bpf] {
        let connection = database(table(source));
        let name = |socket: &TcpListener| -> String {
            let sql = "SELECT net_namespace_name FROM mounted WHERE socket = ?";
            connection.query_row(sql, [inode(socket)], |row| row.get(0)).unwrap()
        };
        assert_eq!((name(&named.listener), name(&here)), (named.name.clone(), String::new()));
    }
}

#[test]
fn a_constraint_on_the_name_selects_its_sockets_only() {
    let test = "a_constraint_on_the_name_selects_its_sockets_only";
    let Some(named) = Named::new(test) else { return };
    let pid = std::process::id();
    for source in [Source::Auto, Source::Netlink, Source::Procfs, Source::Bpf] {
        let connection = database(table(source));
        let (name, socket) = (&named.name, inode(&named.listener));
        for condition in [
            format!("net_namespace_name = '{name}'"),
            format!("net_namespace_name = '{name}' AND pid = {pid}"),
            format!("net_namespace_name IN ('{name}', 'another') AND state = 'LISTEN'"),
        ] {
            assert_eq!(
                inodes(&connection, &condition),
                std::slice::from_ref(&socket),
                "{condition}"
            );
        }
        for condition in [
            format!("net_namespace_name <> '{name}' AND pid = {pid}"),
            format!("net_namespace_name = '' AND pid = {pid}"),
            format!("net_namespace_name = '{name}x'"),
        ] {
            assert!(!inodes(&connection, &condition).contains(&socket), "{condition}");
        }
    }
}
