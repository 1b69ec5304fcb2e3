//! Counters and estimates of a TCP connection.

/// Counters and estimates of a TCP connection. What the kernel does not report, or has not measured yet, is None.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TcpDetails {
    /// Bytes of payload that were sent, each once.
    pub(crate) bytes_sent: Option<u64>,
    /// Bytes of payload that arrived, each once.
    pub(crate) bytes_received: Option<u64>,
    /// Bytes of payload that were sent again.
    pub(crate) bytes_retransmitted: Option<u64>,
    /// The smoothed round-trip time.
    pub(crate) rtt_us: Option<u32>,
    /// The mean deviation of the round-trip time.
    pub(crate) rtt_variance_us: Option<u32>,
    /// The least round-trip time of the last minutes.
    pub(crate) min_rtt_us: Option<u32>,
    /// Segments that were sent again since the connection began.
    pub(crate) retransmits: Option<u32>,
    /// Segments that the kernel takes for lost now.
    pub(crate) lost: Option<u32>,
    pub(crate) congestion_algorithm: Option<CongestionAlgorithm>,
    /// In segments.
    pub(crate) congestion_window: Option<u32>,
    /// Bytes of payload in a segment.
    pub(crate) send_mss: Option<u32>,
    /// Milliseconds since payload was sent,
    pub(crate) last_sent_ms: Option<u32>,
    /// and since it arrived.
    pub(crate) last_received_ms: Option<u32>,
    /// Bytes a second at which the peer last acknowledged payload.
    pub(crate) delivery_rate: Option<u64>,
    /// Microseconds in which payload was in flight or waited.
    pub(crate) busy_time_us: Option<u64>,
}

impl TcpDetails {
    /// What `/proc/net/tcp` has.
    pub(crate) fn with_window(segments: u32) -> TcpDetails {
        TcpDetails { congestion_window: Some(segments), ..TcpDetails::default() }
    }

    pub(crate) fn has_only_window(&self) -> bool {
        self.congestion_window.map(TcpDetails::with_window).as_ref() == Some(self)
    }
}

/// The name of a congestion control algorithm, filled up with NUL: `TCP_CA_NAME_MAX` of Linux.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CongestionAlgorithm([u8; 16]);

impl CongestionAlgorithm {
    /// The bytes up to the first NUL, and no more than fit; None if there are none.
    pub(crate) fn new(bytes: &[u8]) -> Option<CongestionAlgorithm> {
        let mut name = [0; 16];
        let bytes = bytes.split(|&byte| byte == 0).next()?;
        for (to, from) in name.iter_mut().zip(bytes) {
            *to = *from;
        }
        (name != [0; 16]).then_some(CongestionAlgorithm(name))
    }

    pub(crate) fn name(&self) -> &[u8] {
        self.0.split(|&byte| byte == 0).next().unwrap_or_default()
    }
}
