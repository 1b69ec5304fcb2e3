//! Attributes the descriptors of a pass to processes and threads.

use std::collections::HashMap;

use crate::formats::linux::bpf_record::Descriptor;
use crate::model::holders::Holder;

/// The file descriptor tables that a pass has visited so far. Each counts once, however many threads share it.
#[derive(Default)]
pub(super) struct DescriptorTables {
    /// Tables other than that of the first task of a process, each with the first thread that showed it.
    of_threads: HashMap<(i32, u64), i32>,
    /// The table of each process's first task; if that task has ended, the table used instead.
    of_processes: HashMap<i32, u64>,
    /// The last process whose first task was visited.
    last: Option<i32>,
}

impl DescriptorTables {
    /// The holder with this descriptor; None if another thread already showed it, or if it is in the table of a
    /// thread and those are not read.
    pub(super) fn holder(&mut self, descriptor: &Descriptor, threads: bool) -> Option<Holder> {
        let Descriptor { pid, tid, fd, inode, files, leader_files, .. } = *descriptor;
        // The first task can end while the others are visited.
        let of_process =
            |tables: &mut DescriptorTables| *tables.of_processes.entry(pid).or_insert(files);
        let is_first = tid == pid || files == leader_files;
        if is_first && self.last != Some(pid) {
            self.of_processes.insert(pid, files);
            self.last = Some(pid);
        }
        let is_process = is_first || (leader_files == 0 && of_process(self) == files);
        let tid = if is_process {
            None
        } else if threads && *self.of_threads.entry((pid, files)).or_insert(tid) == tid {
            Some(tid)
        } else {
            return None;
        };
        Some(Holder { inode, pid, fd, tid })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The process and thread that each descriptor counts for, visited one after the other: pid, thread, its
    /// table, the table of the first thread.
    fn holders(threads: bool, visited: &[(i32, i32, u64, u64)]) -> Vec<Option<(i32, Option<i32>)>> {
        let mut tables = DescriptorTables::default();
        let holder = |&(pid, tid, files, leader_files): &(i32, i32, u64, u64)| {
            let descriptor =
                Descriptor { pid, tid, fd: 3, inode: 9, level: 0, files, leader_files };
            tables.holder(&descriptor, threads).map(|holder| (holder.pid, holder.tid))
        };
        visited.iter().map(holder).collect()
    }

    #[test]
    fn the_table_of_a_thread_counts_once_and_only_if_selected() {
        let visited = [(7, 7, 1, 1), (7, 8, 2, 1), (7, 9, 2, 1), (7, 10, 3, 1)];
        assert_eq!(holders(false, &visited), [Some((7, None)), None, None, None]);
        assert_eq!(holders(true, &[(7, 7, 1, 1), (7, 8, 1, 1)]), [Some((7, None)); 2]);
        let each = [Some((7, None)), Some((7, Some(8))), None, Some((7, Some(10)))];
        assert_eq!(holders(true, &visited), each);
    }

    #[test]
    fn the_first_table_is_the_processs_if_the_first_thread_ended() {
        let visited = [(7, 8, 2, 0), (7, 9, 2, 0), (7, 10, 3, 0), (6, 11, 4, 0)];
        let each = [Some((7, None)), Some((7, None)), None, Some((6, None))];
        assert_eq!(holders(false, &visited), each);
        let each = [Some((7, None)), Some((7, None)), Some((7, Some(10))), Some((6, None))];
        assert_eq!(holders(true, &visited), each);
    }

    #[test]
    fn the_table_of_a_first_thread_that_ends_stays_the_processs() {
        let visited = [(7, 7, 1, 1), (7, 8, 2, 0), (7, 9, 1, 0)];
        let each = [Some((7, None)), Some((7, Some(8))), Some((7, None))];
        assert_eq!(holders(true, &visited), each);
        assert_eq!(holders(false, &visited), [Some((7, None)), None, Some((7, None))]);
    }
}
