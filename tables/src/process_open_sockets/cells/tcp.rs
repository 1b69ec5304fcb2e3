//! The cells of TCP connections.

use super::number;
use crate::Value;
use crate::model::{Socket, TcpDetails};

pub(super) fn of(socket: &Socket) -> Option<&TcpDetails> {
    socket.details.extended.as_deref()?.tcp.as_ref()
}

/// The number of 64 bits as a signed one.
pub(super) fn wide(value: Option<u64>) -> Value<'static> {
    number(value.map(u64::cast_signed))
}

pub(in super::super) fn bytes_retransmitted(socket: &Socket) -> Value<'_> {
    wide(of(socket).and_then(|tcp| tcp.bytes_retransmitted))
}

pub(in super::super) fn rtt_us(socket: &Socket) -> Value<'_> {
    number(of(socket).and_then(|tcp| tcp.rtt_us))
}

pub(in super::super) fn rtt_variance_us(socket: &Socket) -> Value<'_> {
    number(of(socket).and_then(|tcp| tcp.rtt_variance_us))
}

pub(in super::super) fn min_rtt_us(socket: &Socket) -> Value<'_> {
    number(of(socket).and_then(|tcp| tcp.min_rtt_us))
}

pub(in super::super) fn retransmits(socket: &Socket) -> Value<'_> {
    number(of(socket).and_then(|tcp| tcp.retransmits))
}

pub(in super::super) fn lost(socket: &Socket) -> Value<'_> {
    number(of(socket).and_then(|tcp| tcp.lost))
}

pub(in super::super) fn congestion_algorithm(socket: &Socket) -> Value<'_> {
    let algorithm = of(socket).and_then(|tcp| tcp.congestion_algorithm.as_ref());
    algorithm
        .map_or(Value::Null, |algorithm| Value::Text(String::from_utf8_lossy(algorithm.name())))
}

pub(in super::super) fn congestion_window(socket: &Socket) -> Value<'_> {
    number(of(socket).and_then(|tcp| tcp.congestion_window))
}

pub(in super::super) fn send_mss(socket: &Socket) -> Value<'_> {
    number(of(socket).and_then(|tcp| tcp.send_mss))
}

pub(in super::super) fn last_sent_ms(socket: &Socket) -> Value<'_> {
    number(of(socket).and_then(|tcp| tcp.last_sent_ms))
}

pub(in super::super) fn last_received_ms(socket: &Socket) -> Value<'_> {
    number(of(socket).and_then(|tcp| tcp.last_received_ms))
}

pub(in super::super) fn delivery_rate(socket: &Socket) -> Value<'_> {
    wide(of(socket).and_then(|tcp| tcp.delivery_rate))
}

pub(in super::super) fn busy_time_us(socket: &Socket) -> Value<'_> {
    wide(of(socket).and_then(|tcp| tcp.busy_time_us))
}
