//! IP addresses as text (inet_ntop(3)).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address as glibc's `inet_ntop` prints it.
///
/// It differs from Rust's `Display` where six zero words are followed by one that is not zero:
/// glibc takes the rest for an IPv4 address (`::1.2.3.4`).
pub(crate) fn inet_ntop(address: IpAddr) -> String {
    match address {
        IpAddr::V6(v6) => match v6.segments() {
            [0, 0, 0, 0, 0, 0, high, _] if high != 0 => format!("::{}", embedded_ipv4(v6)),
            _ => v6.to_string(),
        },
        IpAddr::V4(v4) => ipv4_text(v4),
    }
}

/// Without the machinery of formatting, since a large answer has hundreds of thousands of these.
fn ipv4_text(address: Ipv4Addr) -> String {
    let mut text = String::with_capacity("255.255.255.255".len());
    let digit = |number: u8| char::from(b'0' + number % 10);
    for (index, octet) in address.octets().into_iter().enumerate() {
        if index > 0 {
            text.push('.');
        }
        if octet >= 100 {
            text.push(digit(octet / 100));
        }
        if octet >= 10 {
            text.push(digit(octet / 10));
        }
        text.push(digit(octet));
    }
    text
}

fn embedded_ipv4(address: Ipv6Addr) -> Ipv4Addr {
    let [.., a, b, c, d] = address.octets();
    [a, b, c, d].into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_printed_like_glibc_where_rust_differs() {
        for (segments, text) in [
            ([0, 0, 0, 0, 0, 0, 0x0102, 0x0304], "::1.2.3.4"),
            ([0, 0, 0, 0, 0, 0, 1, 2], "::0.1.0.2"),
            ([0, 0, 0, 0, 0, 0xffff, 0x7f00, 1], "::ffff:127.0.0.1"),
            ([0, 0, 0, 0, 0, 0, 0, 0x0304], "::304"),
            ([0, 0, 0, 0, 0, 0, 0, 1], "::1"),
            ([0, 0, 0, 0, 0, 0, 0, 0], "::"),
            ([0xfe80, 0, 0, 0, 1, 0, 0, 1], "fe80::1:0:0:1"),
            ([0x2001, 0xdb8, 0, 1, 1, 1, 1, 1], "2001:db8:0:1:1:1:1:1"),
        ] {
            assert_eq!(inet_ntop(IpAddr::V6(segments.into())), text);
        }
    }

    #[test]
    fn every_octet_of_an_ipv4_address_is_printed_in_decimal() {
        for octet in 0..=255 {
            let address = Ipv4Addr::new(octet, 0, 255 - octet, octet);
            assert_eq!(inet_ntop(address.into()), address.to_string());
        }
    }

    #[test]
    fn addresses_print_as_the_c_library_prints_them() {
        let samples = include_str!("../../fixtures/inet_ntop/glibc-2.36.txt");
        let mut compared = 0;
        for line in samples.lines().filter(|line| !line.starts_with('#')) {
            let (hex, text) = line.split_once(' ').unwrap();
            let address = Ipv6Addr::from_bits(u128::from_str_radix(hex, 16).unwrap());
            assert_eq!(inet_ntop(IpAddr::V6(address)), text, "for {hex}");
            compared += 1;
        }
        assert_eq!(compared, 600);
    }
}
