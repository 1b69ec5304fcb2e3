//! Processes that hold sockets.

use std::cell::Cell;

use super::container::Container;

bitflags::bitflags! {
    /// What a query reads of the processes that hold sockets.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub(crate) struct ProcessFields: u8 {
        const NAME = 1;
        const PATH = 1 << 1;
        const CMDLINE = 1 << 2;
        const PARENT = 1 << 3;
        const UIDS = 1 << 4;
        const START_TIME = 1 << 5;
        const CGROUP_PATH = 1 << 6;
        const CONTAINER = 1 << 7;
    }
}

/// A process that holds a socket, as far as the query reads it. None: it could not be read. Texts are as
/// the process chose them, with U+FFFD for bytes that are not UTF-8.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) name: Option<Box<str>>,
    pub(crate) path: Option<Box<str>>,
    pub(crate) cmdline: Option<Box<str>>,
    pub(crate) parent: Option<i32>,
    /// Real and effective user.
    pub(crate) uids: Option<(u32, u32)>,
    /// In seconds since 1970.
    pub(crate) start_time: Option<i64>,
    pub(crate) cgroup_path: Option<Box<str>>,
    pub(crate) container: Option<Container>,
}

/// Processes by pid.
#[derive(Debug, Default)]
pub(crate) struct Processes {
    /// In the order of the pids.
    list: Vec<(i32, Process)>,
    /// The index of the last one that was found: rows of a process follow each other, and each has several cells.
    last: Cell<usize>,
}

impl Processes {
    pub(crate) fn get(&self, pid: i32) -> Option<&Process> {
        let at = |index| self.list.get(index).filter(|(of, _)| *of == pid);
        let found = at(self.last.get()).or_else(|| {
            let index = self.list.partition_point(|(of, _)| *of < pid);
            self.last.set(index);
            at(index)
        });
        found.map(|(_, process)| process)
    }
}

impl FromIterator<(i32, Process)> for Processes {
    fn from_iter<I: IntoIterator<Item = (i32, Process)>>(processes: I) -> Self {
        let mut list: Vec<(i32, Process)> = processes.into_iter().collect();
        list.sort_unstable_by_key(|(pid, _)| *pid);
        Processes { list, last: Cell::default() }
    }
}

/// The arguments of a process as one text, as the column `cmdline` of osquery's `processes` shows them: each NUL is a
/// blank, and blanks at both ends are removed.
pub(crate) fn joined_arguments(arguments: &[u8]) -> Box<str> {
    let joined: Vec<u8> =
        arguments.iter().map(|&byte| if byte == 0 { b' ' } else { byte }).collect();
    // U+000B is white space for the C library, not for `trim_ascii`.
    let is_blank = |byte: &u8| byte.is_ascii_whitespace() || *byte == 0x0b;
    let start = joined.iter().position(|byte| !is_blank(byte)).unwrap_or(joined.len());
    let end = joined.iter().rposition(|byte| !is_blank(byte)).map_or(start, |last| last + 1);
    lossy(joined.get(start..end).unwrap_or_default())
}

/// The text, with U+FFFD for bytes that are not UTF-8.
pub(crate) fn lossy(text: &[u8]) -> Box<str> {
    String::from_utf8_lossy(text).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(name: &str) -> Process {
        Process { name: Some(name.into()), ..Process::default() }
    }

    #[test]
    fn a_process_is_found_by_its_pid_in_any_order() {
        let processes: Processes =
            [(7, process("g")), (-1, process("x")), (300, process("z"))].into_iter().collect();
        for (pid, name) in [
            (300, Some("z")),
            (7, Some("g")),
            (7, Some("g")),
            (8, None),
            (301, None),
            (-1, Some("x")),
        ] {
            let found = processes.get(pid).and_then(|process| process.name.as_deref());
            assert_eq!(found, name, "{pid}");
        }
        assert_eq!(Processes::default().get(0), None);
    }

    #[test]
    fn arguments_are_joined_and_trimmed() {
        for (arguments, joined) in [
            (&b"sh\0-c\0a  b\0"[..], "sh -c a  b"),
            (b"\0\0x\0\0y\0\0", "x  y"),
            (b"\n\t\x0b\x0c\r a\nb \0", "a\nb"),
            (b"nginx: worker process\0\0\0", "nginx: worker process"),
            (b"a\xff\0b", "a\u{fffd} b"),
            (b"\0 \0", ""),
            (b"", ""),
        ] {
            assert_eq!(&*joined_arguments(arguments), joined, "{}", arguments.escape_ascii());
        }
    }
}
