//! The name of a socket's protocol (`struct proto` in the kernel), which the extended attribute
//! `system.sockprotoname` of its descriptor gives (`net/socket.c`).
//!
//! It is the one with which the socket was made. An IPv6 socket of a connection over IPv4 can be made
//! one of IPv4 later (IPV6_ADDRFORM in ipv6(7)), and keeps its name.

use super::proc_net::ProcNetFile;

/// A set of files of `/proc/<pid>/net`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Files(u16);

impl Files {
    fn of(files: &[ProcNetFile]) -> Files {
        Files(files.iter().fold(0, |bits, &file| bits | Files::bit(file)))
    }

    /// Those that may list a socket whose protocol has that name; None if it is not known here.
    pub(crate) fn of_protocol(name: &[u8]) -> Option<Files> {
        use ProcNetFile::{
            Icmp, Icmp6, Packet, Raw, Raw6, Tcp, Tcp6, Udp, Udp6, Udplite, Udplite6, Unix,
        };
        Some(Files::of(match name {
            b"TCP" => &[Tcp],
            b"TCPv6" | b"MPTCP" | b"MPTCPv6" => &[Tcp, Tcp6],
            b"UDP" => &[Udp],
            b"UDPv6" => &[Udp, Udp6],
            b"UDP-Lite" => &[Udplite],
            b"UDPLITEv6" => &[Udplite, Udplite6],
            b"RAW" => &[Raw],
            b"RAWv6" => &[Raw, Raw6],
            b"PING" => &[Icmp],
            b"PINGv6" => &[Icmp6],
            b"PACKET" => &[Packet],
            b"NETLINK" => &[],
            _ if name.starts_with(b"UNIX") => &[Unix],
            _ => return None,
        }))
    }

    pub(crate) fn contains(self, file: ProcNetFile) -> bool {
        self.0 & Files::bit(file) != 0
    }

    fn bit(file: ProcNetFile) -> u16 {
        1 << file as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(name: &[u8]) -> Option<Vec<&'static str>> {
        let files = Files::of_protocol(name)?;
        let all = ProcNetFile::ALL.into_iter();
        Some(all.filter(|&file| files.contains(file)).map(ProcNetFile::name).collect())
    }

    #[test]
    fn a_protocol_names_the_files_that_may_list_its_sockets() {
        for (name, files) in [
            ("TCP", &["tcp"][..]),
            ("TCPv6", &["tcp", "tcp6"]),
            ("MPTCP", &["tcp", "tcp6"]),
            ("UDP", &["udp"]),
            ("UDPLITEv6", &["udplite", "udplite6"]),
            ("PINGv6", &["icmp6"]),
            ("UNIX", &["unix"]),
            ("UNIX-STREAM", &["unix"]),
            ("PACKET", &["packet"]),
            ("NETLINK", &[]),
        ] {
            assert_eq!(names(name.as_bytes()).as_deref(), Some(files), "{name}");
        }
    }

    #[test]
    fn a_protocol_that_is_not_known_names_none() {
        for name in ["SCTP", "", "tcp", "XUNIX"] {
            assert_eq!(names(name.as_bytes()), None, "{name}");
        }
    }
}
