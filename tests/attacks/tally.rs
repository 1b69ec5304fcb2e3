//! Counts of the answers that have an attacker's socket.

use super::scan::{BPF, NamedSource, Row, SCANS};

/// What one answer has of a socket.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sighting {
    pub(super) socket: bool,
    /// A row of the socket has the pid.
    pub(super) pid: bool,
}

impl Sighting {
    /// The sighting of a socket with these cells that this process holds.
    pub(super) fn of(rows: &[Row], cells: &[(&str, &str)], pid: i64) -> Sighting {
        Sighting::with_holder(rows, cells, |row| row.number("pid") == pid)
    }

    /// The sighting of a socket with a changing holder.
    pub(super) fn of_any_holder(rows: &[Row], cells: &[(&str, &str)]) -> Sighting {
        Sighting::with_holder(rows, cells, |row| row.number("pid") > 0)
    }

    fn with_holder(
        rows: &[Row],
        cells: &[(&str, &str)],
        is_held: impl Fn(&Row) -> bool,
    ) -> Sighting {
        let shown: Vec<&Row> = rows.iter().filter(|row| row.has(cells)).collect();
        Sighting { socket: !shown.is_empty(), pid: shown.into_iter().any(is_held) }
    }

    /// The answer has both or none.
    pub(super) fn whole(is_seen: bool) -> Sighting {
        Sighting { socket: is_seen, pid: is_seen }
    }
}

/// The sources with which an answer must have the pid.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum PidPromise {
    Always,
    WithBpf,
    Never,
}

/// One query of a socket with one source.
struct Count {
    name: String,
    source: NamedSource,
    pid: PidPromise,
    answers: usize,
    with_socket: usize,
    with_pid: usize,
}

impl Count {
    /// Whether there were too few answers, or an answer lacked the socket or a required pid.
    fn is_short(&self) -> bool {
        let needs_pid = match self.pid {
            PidPromise::Always => true,
            PidPromise::WithBpf => self.source == BPF,
            PidPromise::Never => false,
        };
        let Count { answers, with_socket, with_pid, .. } = *self;
        answers < SCANS || with_socket < answers || needs_pid && with_pid < answers
    }
}

impl std::fmt::Display for Count {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Count { name, source: (source, _), answers, with_socket, with_pid, .. } = self;
        write!(
            f,
            "{name}, {source}: of {answers} answers {with_socket} with the socket, {with_pid} with the \
             pid"
        )
    }
}

/// The sightings of all sockets of a test.
#[derive(Default)]
pub(super) struct Tally(Vec<Count>);

impl Tally {
    /// Counts an answer about the socket of that name, and of that query.
    pub(super) fn add(
        &mut self,
        name: &str,
        source: NamedSource,
        pid: PidPromise,
        sighting: Sighting,
    ) {
        let is_same = |count: &Count| count.name == name && count.source == source;
        let index = self.0.iter().position(is_same).unwrap_or_else(|| {
            let (name, [answers, with_socket, with_pid]) = (name.to_owned(), [0; 3]);
            self.0.push(Count { name, source, pid, answers, with_socket, with_pid });
            self.0.len() - 1
        });
        let count = &mut self.0[index];
        count.answers += 1;
        count.with_socket += usize::from(sighting.socket);
        count.with_pid += usize::from(sighting.pid);
    }

    /// Prints a line for each socket, query and source, and asserts that no answer lacked the socket or a
    /// required pid.
    #[track_caller]
    pub(super) fn check(self) {
        self.0.iter().for_each(|count| println!("{count}"));
        assert!(!self.0.is_empty(), "nothing was counted");
        let short = self.0.iter().filter(|count| count.is_short()).map(Count::to_string);
        assert_eq!(short.collect::<Vec<_>>(), [""; 0], "answers without the socket or the pid");
    }
}
