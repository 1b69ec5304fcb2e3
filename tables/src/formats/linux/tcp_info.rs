//! The kernel's numbers of a TCP socket, as `tcp_get_info` in `net/ipv4/tcp.c` makes them.

use crate::formats::take;
use crate::model::{CongestionAlgorithm, TcpDetails, TcpState};

/// The members of `struct tcp_info` (`include/uapi/linux/tcp.h`) that the table shows. Older kernels have a shorter
/// structure; the members that it lacks are None.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TcpInfo {
    pub(crate) send_mss: Option<u32>,
    pub(crate) lost: Option<u32>,
    pub(crate) last_sent_ms: Option<u32>,
    pub(crate) last_received_ms: Option<u32>,
    pub(crate) rtt_us: Option<u32>,
    pub(crate) rtt_variance_us: Option<u32>,
    pub(crate) congestion_window: Option<u32>,
    pub(crate) retransmits: Option<u32>,
    pub(crate) bytes_received: Option<u64>,
    pub(crate) min_rtt_us: Option<u32>,
    pub(crate) delivery_rate: Option<u64>,
    pub(crate) busy_time_us: Option<u64>,
    pub(crate) bytes_sent: Option<u64>,
    pub(crate) bytes_retransmitted: Option<u64>,
}

impl TcpInfo {
    /// Reads a `struct tcp_info` of any kernel.
    pub(crate) fn parse(bytes: &[u8]) -> TcpInfo {
        let at = |offset: usize| bytes.get(offset..);
        let u32_at = |offset| at(offset).and_then(|mut it| take(&mut it)).map(u32::from_ne_bytes);
        let u64_at = |offset| at(offset).and_then(|mut it| take(&mut it)).map(u64::from_ne_bytes);
        TcpInfo {
            send_mss: u32_at(16),
            lost: u32_at(32),
            last_sent_ms: u32_at(44),
            last_received_ms: u32_at(52),
            rtt_us: u32_at(68),
            rtt_variance_us: u32_at(72),
            congestion_window: u32_at(80),
            retransmits: u32_at(100),
            bytes_received: u64_at(128),
            min_rtt_us: u32_at(148),
            delivery_rate: u64_at(160),
            busy_time_us: u64_at(168),
            bytes_sent: u64_at(200),
            bytes_retransmitted: u64_at(208),
        }
    }

    /// The details of a socket in this state. A listener has a congestion window, for its connections, and no other
    /// of these numbers.
    pub(crate) fn details(
        self,
        state: TcpState,
        congestion_algorithm: Option<CongestionAlgorithm>,
    ) -> TcpDetails {
        let congestion_window = self.congestion_window;
        if state == TcpState::Listen {
            let of_all =
                TcpDetails { congestion_algorithm, congestion_window, ..Default::default() };
            return of_all;
        }
        // Until the handshake, the kernel counts the times from 0.
        let is_begun = state != TcpState::SynSent;
        let since = |milliseconds: Option<u32>| milliseconds.filter(|_| is_begun);
        let measured = |microseconds: Option<u32>| microseconds.filter(|&it| it != 0);
        let rtt_us = measured(self.rtt_us);
        // The kernel counts every segment in the one, and those that it sent again also in the other.
        let bytes_sent = self.bytes_sent.zip(self.bytes_retransmitted);
        TcpDetails {
            bytes_sent: bytes_sent.map(|(all, again)| all.saturating_sub(again)),
            bytes_received: self.bytes_received.and_then(|bytes| payload(bytes, state)),
            bytes_retransmitted: self.bytes_retransmitted,
            rtt_us,
            rtt_variance_us: self.rtt_variance_us.filter(|_| rtt_us.is_some()),
            min_rtt_us: measured(self.min_rtt_us).filter(|&it| it != u32::MAX),
            retransmits: self.retransmits,
            lost: self.lost,
            congestion_algorithm,
            congestion_window,
            send_mss: self.send_mss,
            last_sent_ms: since(self.last_sent_ms),
            last_received_ms: since(self.last_received_ms),
            delivery_rate: self.delivery_rate.filter(|&rate| rate != 0),
            busy_time_us: self.busy_time_us,
        }
    }
}

/// The payload among the received bytes: the kernel counts a FIN as a byte. None if the state does not show whether a
/// FIN came.
fn payload(bytes: u64, state: TcpState) -> Option<u64> {
    match state {
        TcpState::CloseWait | TcpState::LastAck | TcpState::Closing => {
            Some(bytes.saturating_sub(1))
        }
        TcpState::Closed if bytes != 0 => None,
        _ => Some(bytes),
    }
}

/// A time in ticks of the kernel in milliseconds: `jiffies_to_msecs` in `kernel/time/time.c`.
pub(crate) fn milliseconds(ticks: u32, ticks_per_second: u32) -> Option<u32> {
    let scaled = u64::from(ticks) * 1000;
    let milliseconds = scaled.checked_next_multiple_of(ticks_per_second.into())?;
    // The kernel cuts it to 32 bits, too.
    Some((milliseconds / u64::from(ticks_per_second)) as u32)
}

/// `tcp_compute_delivery_rate`: segments that were delivered in this interval, as bytes a second.
pub(crate) fn delivery_rate(delivered: u32, mss: u32, interval_us: u32) -> u64 {
    let bytes = u128::from(delivered) * u128::from(mss) * 1_000_000;
    let rate = bytes.checked_div(interval_us.into()).unwrap_or_default();
    u64::try_from(rate).unwrap_or(u64::MAX)
}

/// The kernel's account of what a connection waited for (`struct tcp_sock`), in ticks.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Chrono {
    /// The times for data in flight, and for the two limits of the window.
    pub(crate) ended: [u32; 3],
    /// 1 to 3 if one of these times runs now; 0 if none does.
    pub(crate) running: u8,
    pub(crate) running_for: u32,
}

impl Chrono {
    /// `tcp_get_info_chrono_stats`: the microseconds of all three.
    pub(crate) fn busy_time_us(self, ticks_per_second: u32) -> Option<u64> {
        let tick = 1_000_000_u64.checked_div(ticks_per_second.into())?;
        let each = (1..).zip(self.ended).map(|(kind, ended)| {
            let running = if kind == self.running { self.running_for } else { 0 };
            (u64::from(ended) + u64::from(running)) * tick
        });
        Some(each.sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A `struct tcp_info` of Linux 6.18, in which each member that is read has another value.
    fn bytes() -> Vec<u8> {
        let mut bytes = vec![0xee; 248];
        let words =
            [(16, 1448), (32, 1), (44, 7), (52, 8), (68, 900), (72, 450), (80, 10), (100, 3)];
        for (offset, value) in words.into_iter().chain([(148, 850)]) {
            bytes[offset..][..4].copy_from_slice(&u32::to_ne_bytes(value));
        }
        for (offset, value) in [(128, 51), (160, 4000), (168, 6000), (200, 1100), (208, 100)] {
            bytes[offset..][..8].copy_from_slice(&u64::to_ne_bytes(value));
        }
        bytes
    }

    fn details(state: TcpState) -> TcpDetails {
        TcpInfo::parse(&bytes()).details(state, CongestionAlgorithm::new(b"cubic\0"))
    }

    #[test]
    fn the_members_of_a_connection_are_shown() {
        let expected = TcpDetails {
            bytes_sent: Some(1000),
            bytes_received: Some(51),
            bytes_retransmitted: Some(100),
            rtt_us: Some(900),
            rtt_variance_us: Some(450),
            min_rtt_us: Some(850),
            retransmits: Some(3),
            lost: Some(1),
            congestion_algorithm: CongestionAlgorithm::new(b"cubic"),
            congestion_window: Some(10),
            send_mss: Some(1448),
            last_sent_ms: Some(7),
            last_received_ms: Some(8),
            delivery_rate: Some(4000),
            busy_time_us: Some(6000),
        };
        assert_eq!(details(TcpState::Established), expected);
    }

    #[test]
    fn a_fin_is_no_payload() {
        let received = |state| details(state).bytes_received;
        for state in [TcpState::CloseWait, TcpState::LastAck, TcpState::Closing] {
            assert_eq!(received(state), Some(50), "{state:?}");
        }
        for state in [TcpState::FinWait1, TcpState::FinWait2, TcpState::SynRecv] {
            assert_eq!(received(state), Some(51), "{state:?}");
        }
        // It can have come, or not.
        assert_eq!(received(TcpState::Closed), None);
    }

    #[test]
    fn a_listener_shows_only_its_congestion_control() {
        let expected = TcpDetails {
            congestion_algorithm: CongestionAlgorithm::new(b"cubic"),
            congestion_window: Some(10),
            ..TcpDetails::default()
        };
        assert_eq!(details(TcpState::Listen), expected);
    }

    #[test]
    fn what_was_not_measured_is_null() {
        let none = TcpInfo { min_rtt_us: Some(u32::MAX), rtt_us: Some(0), ..TcpInfo::default() };
        let none = TcpInfo { rtt_variance_us: Some(250_000), delivery_rate: Some(0), ..none };
        let none = TcpInfo { last_sent_ms: Some(u32::MAX), last_received_ms: Some(9), ..none };
        assert_eq!(none.details(TcpState::SynSent, None), TcpDetails::default());
    }

    #[test]
    fn a_shorter_structure_has_the_members_that_are_in_it() {
        let whole = TcpInfo::parse(&bytes());
        // Linux 4.9, without `bytes_sent`.
        let older = TcpInfo { bytes_sent: None, bytes_retransmitted: None, ..whole };
        assert_eq!(TcpInfo::parse(&bytes()[..192]), older);
        assert_eq!(TcpInfo::parse(&bytes()[..207]), older);
        assert_eq!(TcpInfo::parse(&[]), TcpInfo::default());
    }

    #[test]
    fn ticks_become_milliseconds_as_in_the_kernel() {
        assert_eq!(milliseconds(3, 250), Some(12));
        assert_eq!(milliseconds(7, 1000), Some(7));
        // 3.33 and 0.98, rounded up.
        assert_eq!((milliseconds(1, 300), milliseconds(1, 1024)), (Some(4), Some(1)));
        // 2^32 ticks of 4 ms do not fit.
        assert_eq!(milliseconds(u32::MAX, 250), Some(u32::MAX - 3));
        assert_eq!(milliseconds(1, 0), None);
    }

    #[test]
    fn a_delivery_rate_is_in_bytes_per_second() {
        assert_eq!(delivery_rate(3, 1448, 1000), 4_344_000);
        assert_eq!(delivery_rate(3, 1448, 0), 0);
        assert_eq!(delivery_rate(u32::MAX, u32::MAX, 1), u64::MAX);
    }

    #[test]
    fn the_time_that_runs_counts_as_busy() {
        let chrono = Chrono { ended: [20, 30, 40], running: 0, running_for: 5 };
        assert_eq!(chrono.busy_time_us(250), Some(360_000));
        for running in 1..=3 {
            assert_eq!(Chrono { running, ..chrono }.busy_time_us(250), Some(380_000));
        }
        assert_eq!(chrono.busy_time_us(0), None);
    }
}
