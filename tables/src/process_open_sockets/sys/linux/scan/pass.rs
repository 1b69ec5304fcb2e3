//! What BPF tells in a full scan beside the holders: of sockets that were read from files the holders'
//! records know more, and what is held in a namespace that nothing leads to comes with its holder alone.

use std::collections::{HashMap, HashSet};

use super::super::netns::{Namespace, Namespaces};
use super::super::tables::Teller;
use super::Scan;
use super::all::Run;
use crate::process_open_sockets::model::{NetNamespace, Socket};
use crate::process_open_sockets::socket_table::SocketTable;

/// What is kept of it.
#[derive(Default)]
pub(super) struct Pass {
    /// Which tables with sockets in them were read from files.
    files: HashSet<(Option<NetNamespace>, SocketTable)>,
    /// Held sockets of these tables, by inode.
    known: HashMap<(SocketTable, u64), Socket>,
    /// The namespaces that were found; None if the number of one could not be read.
    namespaces: Option<HashSet<NetNamespace>>,
    /// Held sockets of other namespaces, by inode.
    elsewhere: HashMap<u64, Socket>,
}

impl Pass {
    /// Begins another pass: what the last one told of is told again.
    pub(super) fn begin(&mut self, namespaces: &Namespaces, runs: &[Run]) {
        self.known.clear();
        self.elsewhere.clear();
        self.namespaces = namespaces.iter().map(Namespace::number).collect();
        let is_file = |run: &&Run| run.teller == Teller::ProcNet && !run.sockets.is_empty();
        let files = runs.iter().filter(is_file);
        let number = |run: &Run| namespaces.iter().nth(run.namespace)?.number();
        self.files = files.map(|run| (number(run), run.table)).collect();
    }

    /// Whether any socket was read from a file.
    pub(super) fn has_files(&self) -> bool {
        !self.files.is_empty()
    }

    /// Keeps one that was read before, if that was from a file.
    pub(super) fn keep_known(&mut self, table: SocketTable, socket: Socket) {
        if self.files.contains(&(socket.net_namespace, table)) {
            self.known.insert((table, socket.inode), socket);
        }
    }

    /// Whether that namespace was not found.
    pub(super) fn is_elsewhere(&self, number: NetNamespace) -> bool {
        self.namespaces.as_ref().is_some_and(|namespaces| !namespaces.contains(&number))
    }

    /// Keeps one of a namespace that was not found.
    pub(super) fn keep_elsewhere(&mut self, socket: Socket) {
        self.elsewhere.insert(socket.inode, socket);
    }
}

impl Scan<'_> {
    /// Replaces what files tell of held sockets by what came with the holders, and adds what only that tells
    /// of; returns the inodes of these. What is in a queue, where that is not known, stays.
    pub(super) fn complete(
        &mut self,
        namespaces: &Namespaces,
        runs: &[Run],
        pass: Pass,
    ) -> Vec<u64> {
        let Pass { mut known, elsewhere, .. } = pass;
        if known.is_empty() && elsewhere.is_empty() {
            return Vec::new();
        }
        for run in runs.iter().filter(|run| run.teller == Teller::ProcNet) {
            for socket in self.sockets.get_mut(run.sockets.clone()).unwrap_or_default() {
                if let Some(mut known) = known.remove(&(run.table, socket.inode)) {
                    let queue = known.details.receive_queue.or(socket.details.receive_queue);
                    known.details.receive_queue = queue;
                    *socket = known;
                }
            }
        }
        // A later round may have found the namespace, and its sockets in it.
        let is_found = |number| namespaces.iter().any(|namespace| namespace.number() == number);
        let elsewhere = elsewhere.into_values();
        let first = self.sockets.len();
        self.sockets.extend(elsewhere.filter(|socket| !is_found(socket.net_namespace)));
        self.name_interfaces(0, namespaces);
        let added = self.sockets.get(first..).unwrap_or_default();
        added.iter().map(|socket| socket.inode).collect()
    }
}
