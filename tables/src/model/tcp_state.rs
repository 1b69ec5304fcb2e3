//! States of TCP sockets.

/// State of a TCP socket: `include/net/tcp_states.h` on Linux, `bsd/netinet/tcp_fsm.h` on macOS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum TcpState {
    Established,
    SynSent,
    SynRecv,
    FinWait1,
    FinWait2,
    TimeWait,
    Closed,
    CloseWait,
    LastAck,
    Listen,
    Closing,
    /// Only on macOS (`TSI_S_RESERVED`), without documentation.
    Reserved,
    /// A number without a name.
    Unknown(u8),
}

/// The numbers of Linux; macOS has others.
impl From<u8> for TcpState {
    fn from(number: u8) -> Self {
        match number {
            1 => TcpState::Established,
            2 => TcpState::SynSent,
            3 => TcpState::SynRecv,
            4 => TcpState::FinWait1,
            5 => TcpState::FinWait2,
            6 => TcpState::TimeWait,
            7 => TcpState::Closed,
            8 => TcpState::CloseWait,
            9 => TcpState::LastAck,
            10 => TcpState::Listen,
            11 => TcpState::Closing,
            other => TcpState::Unknown(other),
        }
    }
}

impl TcpState {
    /// The name that osquery prints.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            TcpState::Established => "ESTABLISHED",
            TcpState::SynSent => "SYN_SENT",
            TcpState::SynRecv => "SYN_RECV",
            TcpState::FinWait1 => "FIN_WAIT1",
            TcpState::FinWait2 => "FIN_WAIT2",
            TcpState::TimeWait => "TIME_WAIT",
            TcpState::Closed => "CLOSED",
            TcpState::CloseWait => "CLOSE_WAIT",
            TcpState::LastAck => "LAST_ACK",
            TcpState::Listen => "LISTEN",
            TcpState::Closing => "CLOSING",
            TcpState::Reserved => "RESERVED",
            TcpState::Unknown(_) => "UNKNOWN",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_tcp_states_keep_their_number_and_print_like_osquery() {
        assert_eq!(TcpState::from(13), TcpState::Unknown(13));
        assert_eq!(TcpState::from(13).name(), "UNKNOWN");
        assert_eq!(TcpState::from(0).name(), "UNKNOWN");
    }
}
