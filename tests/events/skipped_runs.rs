//! What skipped runs of the programs explain. From Linux 7 on, the kernel skips a run that preempts another one.

use std::collections::BTreeSet;

/// The cells of a flow that are compared.
pub const CELLS: [&str; 12] = [
    "socket_cookie",
    "direction",
    "result",
    "family",
    "protocol",
    "pid",
    "local_port",
    "remote_port",
    "bytes_sent",
    "bytes_received",
    "messages_sent",
    "messages_received",
];

/// A flow: the cells with `|` between.
struct Flow<'a>(Vec<&'a str>);

impl<'a> Flow<'a> {
    fn new(cells: &'a str) -> Flow<'a> {
        Flow(cells.split('|').collect())
    }

    fn cell(&self, name: &str) -> &'a str {
        self.0[CELLS.iter().position(|it| *it == name).unwrap()]
    }

    fn number(&self, name: &str) -> u64 {
        self.cell(name).parse().unwrap()
    }

    fn is_tcp(&self) -> bool {
        self.cell("protocol") == "6"
    }

    /// Whether the flows have the same cells besides these.
    fn is_same_besides(&self, other: &Flow<'_>, names: &[&str]) -> bool {
        CELLS.iter().all(|name| names.contains(name) || self.cell(name) == other.cell(name))
    }
}

/// The least number of skipped runs with which these flows are shown; None: skipped runs do not explain them. Both are
/// sorted. On one socket, all messages of a direction have the same size.
pub fn runs_that_explain(shown: &[String], expected: &[String]) -> Option<u64> {
    let mut shown = shown.iter().map(|flow| Flow::new(flow)).peekable();
    let mut listeners = BTreeSet::new();
    let mut runs = 0;
    for expected in expected.iter().map(|flow| Flow::new(flow)) {
        let cookie = expected.cell("socket_cookie");
        runs += match shown.next_if(|shown| shown.cell("socket_cookie") == cookie) {
            Some(shown) if expected.is_tcp() => runs_of_tcp(&shown, &expected, &mut listeners)?,
            Some(shown) => runs_of_udp(&shown, &expected)?,
            None if expected.is_tcp() => 1,
            // Each run begins the flow if there is none.
            None => expected.number("messages_sent") + expected.number("messages_received"),
        };
    }
    shown.next().is_none().then_some(runs + listeners.len() as u64)
}

/// Without the begin of a connection, the direction or the process is unknown, without its end the bytes; without the
/// begin of a listener, the process of all its connections.
fn runs_of_tcp<'a>(
    shown: &Flow<'a>,
    expected: &Flow<'_>,
    listeners: &mut BTreeSet<&'a str>,
) -> Option<u64> {
    let [direction, pid] = ["direction", "pid"].map(|name| shown.cell(name));
    let has_direction = direction == expected.cell("direction");
    let has_pid = pid == expected.cell("pid");
    let bytes = ["bytes_sent", "bytes_received"];
    let has_end = !bytes.iter().all(|name| shown.cell(name).is_empty());
    let mut unknown = vec!["direction", "pid"];
    if !has_end {
        unknown.extend(bytes);
    }
    if !shown.is_same_besides(expected, &unknown)
        || !(has_direction || direction.is_empty())
        || !(has_pid || pid == "-1")
    {
        return None;
    }
    let is_of_listener = direction == "inbound" && !has_pid;
    if is_of_listener {
        listeners.insert(shown.cell("local_port"));
    }
    let has_begin = has_direction && has_pid || is_of_listener;
    Some(u64::from(!has_begin) + u64::from(!has_end))
}

/// A skipped run costs a datagram. Without its first one, a flow can begin in the other direction, with a peer.
fn runs_of_udp(shown: &Flow<'_>, expected: &Flow<'_>) -> Option<u64> {
    let runs = |direction: &str| {
        let [messages, bytes] = ["messages", "bytes"].map(|count| {
            let name = format!("{count}_{direction}");
            (expected.number(&name).checked_sub(shown.number(&name)), expected.number(&name))
        });
        let is_of_messages = bytes.0? * messages.1 == messages.0? * bytes.1;
        messages.0.filter(|_| is_of_messages)
    };
    let (sent, received) = (runs("sent")?, runs("received")?);
    let mut unknown = vec!["bytes_sent", "bytes_received", "messages_sent", "messages_received"];
    match expected.cell("direction") {
        "outbound" if sent > 0 => unknown.push("direction"),
        "inbound" if received > 0 => unknown.extend(["direction", "remote_port"]),
        _ => {}
    }
    shown.is_same_besides(expected, &unknown).then_some(sent + received)
}

#[test]
fn only_skipped_runs_explain_differences() {
    const UDP: &str = "1|outbound|closed|2|17|7|1|2|30|0|3|0";
    const SERVER: &str = "2|inbound|closed|2|17|7|2|0|5|30|1|3";
    const FIRST: &str = "3|inbound|closed|2|6|7|80|5|0|9||";
    const SECOND: &str = "4|inbound|closed|2|6|7|80|6|0|9||";
    let runs = |shown: [&str; 4]| {
        let shown = shown.iter().filter(|flow| !flow.is_empty()).map(|flow| (*flow).to_owned());
        runs_that_explain(
            &shown.collect::<Vec<_>>(),
            &[UDP, SERVER, FIRST, SECOND].map(str::to_owned),
        )
    };
    assert_eq!(runs([UDP, SERVER, FIRST, SECOND]), Some(0));
    assert_eq!(runs(["1|outbound|closed|2|17|7|1|2|10|0|1|0", SERVER, FIRST, SECOND]), Some(2));
    assert_eq!(runs(["1|inbound|closed|2|17|7|1|2|20|0|2|0", SERVER, FIRST, SECOND]), Some(1));
    assert_eq!(runs(["", SERVER, FIRST, SECOND]), Some(3));
    assert_eq!(runs([UDP, "2|outbound|closed|2|17|7|2|1|5|20|1|2", FIRST, SECOND]), Some(1));
    assert_eq!(runs([UDP, SERVER, "", SECOND]), Some(1));
    let without_begin = "3||closed|2|6|-1|80|5|0|9||";
    assert_eq!(runs([UDP, SERVER, without_begin, SECOND]), Some(1));
    assert_eq!(runs([UDP, SERVER, "3|inbound|closed|2|6|7|80|5||||", SECOND]), Some(1));
    let of_listener = ["3|inbound|closed|2|6|-1|80|5|0|9||", "4|inbound|closed|2|6|-1|80|6|0|9||"];
    assert_eq!(runs([UDP, SERVER, of_listener[0], of_listener[1]]), Some(1));
    for wrong in [
        "1|outbound|closed|2|17|7|1|2|40|0|4|0",
        "1|outbound|closed|2|17|7|1|2|20|0|3|0",
        "1|outbound|closed|2|17|7|1|2|19|0|2|0",
        "1|outbound|closed|2|17|8|1|2|30|0|3|0",
        "1|outbound|closed|2|17|7|1|3|20|0|2|0",
        "1|inbound|closed|2|17|7|1|2|30|0|3|0",
        "5|outbound|closed|2|17|7|1|2|30|0|3|0",
    ] {
        assert_eq!(runs([wrong, SERVER, FIRST, SECOND]), None, "{wrong}");
    }
    for wrong in ["2|outbound|closed|2|17|7|2|1|5|30|1|3", "2|inbound|idle|2|17|7|2|0|5|20|1|2"] {
        assert_eq!(runs([UDP, wrong, FIRST, SECOND]), None, "{wrong}");
    }
    for wrong in [
        "3|outbound|closed|2|6|7|80|5|0|9||",
        "3|inbound|closed|2|6|8|80|5|0|9||",
        "3|inbound|closed|2|6|7|80|5|0|8||",
        "3|inbound|closed|2|6|7|80|5||9||",
        "3|inbound|failed|2|6|7|80|5|0|9||",
    ] {
        assert_eq!(runs([UDP, SERVER, wrong, SECOND]), None, "{wrong}");
    }
}
