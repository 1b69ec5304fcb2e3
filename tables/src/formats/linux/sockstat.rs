//! `/proc/<pid>/net/sockstat` and `sockstat6` (proc_pid_net(5)): how many sockets a namespace has.

/// The number of TCP sockets in use or in TIME_WAIT; 0 if the text does not have it.
pub(crate) fn tcp_sockets(text: &[u8]) -> u64 {
    let text = String::from_utf8_lossy(text);
    let tcp = text
        .lines()
        .find_map(|line| line.strip_prefix("TCP: ").or_else(|| line.strip_prefix("TCP6: ")));
    let mut words = tcp.unwrap_or_default().split_ascii_whitespace();
    let mut sum = 0u64;
    while let Some(name) = words.next() {
        let count: u64 = words.next().and_then(|number| number.parse().ok()).unwrap_or_default();
        if matches!(name, "inuse" | "tw") {
            sum = sum.saturating_add(count);
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    // Printed by Linux 6.18.
    const SOCKSTAT: &[u8] = b"sockets: used 11\nTCP: inuse 100 orphan 7 tw 50000 alloc 1 mem 57\n\
                              UDP: inuse 3 mem 0\nUDPLITE: inuse 0\nRAW: inuse 0\n";

    #[test]
    fn tcp_sockets_are_those_in_use_and_those_in_time_wait() {
        assert_eq!(tcp_sockets(SOCKSTAT), 50_100);
        assert_eq!(tcp_sockets(b"TCP6: inuse 12\nUDP6: inuse 3\n"), 12);
    }

    #[test]
    fn a_missing_or_truncated_line_counts_nothing() {
        for text in [&b""[..], b"TCP:", b"TCP: inuse", b"TCP: inuse x tw", b"UDP: inuse 3\n"] {
            assert_eq!(tcp_sockets(text), 0);
        }
    }
}
