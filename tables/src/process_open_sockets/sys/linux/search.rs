//! The sockets that certain descriptors hold, wherever they are listed.

use std::collections::HashMap;

use super::fds;
use super::proc_root::ProcRoot;
use super::tables::Teller;
use crate::process_open_sockets::model::{FdOwner, GapKind, Gaps, Owners, Socket};
use crate::process_open_sockets::parse::proc_net::ProcNetFile;
use crate::process_open_sockets::parse::proto_name::Files;

/// What is looked for.
pub(super) struct Search<'a> {
    root: &'a ProcRoot,
    owners: &'a Owners,
    /// By inode, the files that may list it; None as long as its protocol was not asked for.
    missing: HashMap<u64, Option<Files>>,
    /// How many of these each file may list.
    counts: [usize; ProcNetFile::ALL.len()],
}

/// How many sockets are asked for their protocols. It costs as much as some ten sockets of a table
/// do, so for more of them the tables are read whole.
const MOST_ASKED: usize = 32;

impl<'a> Search<'a> {
    /// For all sockets that these hold.
    pub(super) fn of(root: &'a ProcRoot, owners: &'a Owners) -> Self {
        let mut search = Search { root, owners, missing: HashMap::new(), counts: [0; _] };
        let inodes: Vec<u64> = owners.inodes().collect();
        let asks = inodes.len() <= MOST_ASKED;
        for inode in inodes {
            let files = if asks { ask(root, owners.of(inode), Files::of_protocol) } else { None };
            let files = files.flatten();
            search.count(files, 1);
            search.missing.insert(inode, files);
        }
        search
    }

    /// Whether the file may list something that was not found yet.
    pub(super) fn is_on_for(&self, file: ProcNetFile) -> bool {
        self.counts.get(file as usize).is_some_and(|&count| count > 0)
    }

    /// Whether nothing is left that any file may list.
    pub(super) fn is_over(&self) -> bool {
        self.counts.iter().all(|&count| count == 0)
    }

    /// What was not found yet and the file may list.
    pub(super) fn missing_in(&self, file: ProcNetFile) -> Vec<u64> {
        let may_be = |files: &Option<Files>| files.is_none_or(|files| files.contains(file));
        self.missing.iter().filter(|(_, files)| may_be(files)).map(|(inode, _)| *inode).collect()
    }

    /// Whether the socket, as this file tells of it, is one that was missing.
    pub(super) fn finds(
        &mut self,
        socket: &Socket,
        file: ProcNetFile,
        teller: Teller,
        gaps: &mut Gaps,
    ) -> bool {
        let Some(&files) = self.missing.get(&socket.inode) else { return false };
        let is_other = match files {
            _ if !teller.may_tell_of_others(file) => false,
            Some(files) => !files.contains(file),
            None => is_of_another_file(self.root, self.owners.of(socket.inode), file, teller),
        };
        if is_other {
            note_forged(socket.inode, file, gaps);
            return false;
        }
        if !teller.may_be_deceived_about(file) {
            self.count(files, -1);
            self.missing.remove(&socket.inode);
        }
        true
    }

    fn count(&mut self, files: Option<Files>, by: isize) {
        for (file, count) in ProcNetFile::ALL.into_iter().zip(&mut self.counts) {
            if files.is_none_or(|files| files.contains(file)) {
                *count = count.saturating_add_signed(by);
            }
        }
    }
}

/// What `read` says of the socket's protocol; None if none of the holders tells it.
fn ask<T>(root: &ProcRoot, holders: &[FdOwner], read: impl Fn(&[u8]) -> T) -> Option<T> {
    const HOLDERS: usize = 3;
    holders.iter().take(HOLDERS).find_map(|holder| fds::protocol_name(root, holder, &read))
}

/// Whether what is told as this file is about a socket that its holders say is none of that file's.
pub(super) fn is_of_another_file(
    root: &ProcRoot,
    holders: &[FdOwner],
    file: ProcNetFile,
    teller: Teller,
) -> bool {
    let lists = |name: &[u8]| Files::of_protocol(name).is_some_and(|files| files.contains(file));
    teller.may_tell_of_others(file) && ask(root, holders, lists) == Some(false)
}

/// Counts a socket that a file was made to tell of.
pub(super) fn note_forged(inode: u64, file: ProcNetFile, gaps: &mut Gaps) {
    if file == ProcNetFile::Unix {
        gaps.add(GapKind::Forged, || format!("socket:[{inode}] in {}", file.name()));
    }
}
