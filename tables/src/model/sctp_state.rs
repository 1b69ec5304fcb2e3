//! States of SCTP sockets.

use super::tcp_state::TcpState;

/// State of an SCTP socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum SctpState {
    /// Of an endpoint, with TCP's numbers (`enum sctp_sock_state` in `include/net/sctp/constants.h`).
    Endpoint(TcpState),
    /// Of an association: a number of `enum sctp_state` there.
    Association(u8),
}

impl SctpState {
    pub(crate) fn name(self) -> &'static str {
        match self {
            SctpState::Endpoint(state) => state.name(),
            SctpState::Association(0) => "CLOSED",
            SctpState::Association(1) => "COOKIE_WAIT",
            SctpState::Association(2) => "COOKIE_ECHOED",
            SctpState::Association(3) => "ESTABLISHED",
            SctpState::Association(4) => "SHUTDOWN_PENDING",
            SctpState::Association(5) => "SHUTDOWN_SENT",
            SctpState::Association(6) => "SHUTDOWN_RECEIVED",
            SctpState::Association(7) => "SHUTDOWN_ACK_SENT",
            SctpState::Association(_) => "UNKNOWN",
        }
    }
}
