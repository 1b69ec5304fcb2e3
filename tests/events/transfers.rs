//! Transfers as monitors of networks are judged by them: fast and slow, in both directions, few and many. The flows have
//! exactly the bytes and messages that this process counts.

use std::io::sink;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::thread::scope;

use rustix::net::sockopt::socket_cookie;

use crate::flows::{free_slots, is_counting_or_report};
use crate::skipped_runs::{CELLS, runs_that_explain};
use crate::support::isolated::in_own_namespaces;
use crate::support::other_end::OtherEnd;
use crate::*;

/// How the bytes of a transfer are spread over time and over connections.
#[derive(Clone, Copy, Debug)]
struct Shape {
    connections: usize,
    /// Of each connection.
    messages: usize,
    size: usize,
    /// After each message.
    pause: Duration,
}

const BURST: Shape = Shape { connections: 1, messages: 3_000, size: 1_200, pause: Duration::ZERO };
const PACED: Shape = Shape { messages: 300, pause: Duration::from_millis(1), ..BURST };
/// It lasts longer than 10 s, the time between two sweeps of the flows.
const SLOW: Shape =
    Shape { connections: 1, messages: 2_400, size: 1, pause: Duration::from_millis(5) };
const MANY: Shape = Shape { connections: 200, messages: 1, size: 40, pause: Duration::ZERO };

/// The receive buffer of a UDP socket has room for as many messages: none is lost.
const WINDOW: usize = 32;

#[derive(Clone, Copy, Debug)]
struct Case<'a> {
    shape: Shape,
    protocol: u8,
    /// The client sends; otherwise it receives.
    is_upload: bool,
    /// Of the server.
    address: IpAddr,
    /// The namespace of the server; None: that of the client.
    there: Option<&'a OtherEnd>,
}

/// What this process has sent and received on a socket.
#[derive(Default)]
struct Counted {
    bytes: [usize; 2],
    messages: [usize; 2],
}

impl Counted {
    fn sent(&mut self, bytes: usize) {
        self.bytes[0] += bytes;
        self.messages[0] += 1;
    }

    fn received(&mut self, bytes: usize) {
        self.bytes[1] += bytes;
        self.messages[1] += 1;
    }
}

impl Case<'_> {
    fn in_namespace_of_server<T: Send>(&self, make: impl FnOnce() -> T + Send) -> T {
        match self.there {
            Some(there) => there.inside(make),
            None => make(),
        }
    }

    /// Transfers the bytes and closes all sockets; returns the expected flows.
    fn run(&self) -> Vec<String> {
        match self.protocol {
            6 => self.transfer_by_tcp(),
            _ => self.transfer_by_udp(),
        }
    }

    /// The cells of the flow of a socket.
    fn flow(
        &self,
        socket: impl AsFd,
        direction: &str,
        ports: [u16; 2],
        counted: &Counted,
    ) -> String {
        let (family, protocol) = (if self.address.is_ipv4() { 2 } else { 10 }, self.protocol);
        let (cookie, pid) = (socket_cookie(socket).unwrap(), std::process::id());
        let ([local, remote], [sent, received]) = (ports, counted.bytes);
        let messages = match self.protocol {
            6 => "|".to_owned(),
            _ => counted.messages.map(|number| number.to_string()).join("|"),
        };
        format!(
            "{cookie}|{direction}|closed|{family}|{protocol}|{pid}|{local}|{remote}|{sent}|{received}|{messages}"
        )
    }

    fn transfer_by_tcp(&self) -> Vec<String> {
        let address = SocketAddr::new(self.address, 0);
        let listener = self.in_namespace_of_server(|| TcpListener::bind(address).unwrap());
        let port = listener.local_addr().unwrap().port();
        let mut flows = Vec::new();
        for _ in 0..self.shape.connections {
            let client = TcpStream::connect((self.address, port)).unwrap();
            let (server, peer) = listener.accept().unwrap();
            let [mut of_client, mut of_server] = [(); 2].map(|()| Counted::default());
            if self.is_upload {
                self.stream(&client, &server, [&mut of_client, &mut of_server]);
            } else {
                self.stream(&server, &client, [&mut of_server, &mut of_client]);
            }
            flows.push(self.flow(&client, "outbound", [peer.port(), port], &of_client));
            flows.push(self.flow(&server, "inbound", [port, peer.port()], &of_server));
        }
        flows
    }

    fn stream(&self, mut from: &TcpStream, mut to: &TcpStream, counted: [&mut Counted; 2]) {
        let [sent, received] = counted;
        from.set_nodelay(true).unwrap();
        scope(|scope| {
            let receiver = scope.spawn(|| std::io::copy(&mut to, &mut sink()).unwrap());
            let bytes = vec![7; self.shape.size];
            for _ in 0..self.shape.messages {
                from.write_all(&bytes).unwrap();
                sent.sent(bytes.len());
                std::thread::sleep(self.shape.pause);
            }
            from.shutdown(Shutdown::Write).unwrap();
            received.received(receiver.join().unwrap() as usize);
        });
    }

    fn transfer_by_udp(&self) -> Vec<String> {
        let bind = |address| {
            let socket = UdpSocket::bind(SocketAddr::new(address, 0)).unwrap();
            socket.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
            socket
        };
        let server = self.in_namespace_of_server(|| bind(self.address));
        let port = server.local_addr().unwrap().port();
        let (mut flows, mut of_server) = (Vec::new(), Counted::default());
        let any = match self.address {
            IpAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        for _ in 0..self.shape.connections {
            let (client, mut of_client) = (bind(any), Counted::default());
            client.connect((self.address, port)).unwrap();
            if self.is_upload {
                self.datagrams([&client, &server], None, [&mut of_client, &mut of_server]);
            } else {
                // The request, from which the server has the address of the client.
                of_client.sent(client.send(b"request").unwrap());
                let (length, peer) = server.recv_from(&mut [0; 100]).unwrap();
                of_server.received(length);
                self.datagrams([&server, &client], Some(peer), [&mut of_server, &mut of_client]);
            }
            let local = client.local_addr().unwrap().port();
            flows.push(self.flow(&client, "outbound", [local, port], &of_client));
        }
        flows.push(self.flow(&server, "inbound", [port, 0], &of_server));
        flows
    }

    /// Sends without waiting as many datagrams as fit into the receive buffer, and receives them.
    fn datagrams(
        &self,
        [from, to]: [&UdpSocket; 2],
        peer: Option<SocketAddr>,
        [sent, received]: [&mut Counted; 2],
    ) {
        let bytes = vec![7; self.shape.size];
        let mut buffer = vec![0; self.shape.size + 1];
        let mut left = self.shape.messages;
        while left > 0 {
            let count = left.min(WINDOW);
            for _ in 0..count {
                let length = match peer {
                    Some(peer) => from.send_to(&bytes, peer),
                    None => from.send(&bytes),
                };
                sent.sent(length.unwrap());
                std::thread::sleep(self.shape.pause);
            }
            for _ in 0..count {
                received.received(to.recv(&mut buffer).unwrap());
            }
            left -= count;
        }
    }
}

/// Runs transfers of these shapes to these addresses, in both directions, by TCP and UDP, all at once.
fn assert_exact(test: &str, shapes: &[Shape], addresses: [IpAddr; 2], there: Option<&OtherEnd>) {
    let Some((core, _extension)) = collecting(test, &["--events-datagrams=count"]) else { return };
    if !is_counting_or_report(test, &core) {
        return;
    }
    let mut cases = Vec::new();
    for &shape in shapes {
        for address in addresses {
            for (protocol, is_upload) in [(6, true), (6, false), (17, true), (17, false)] {
                cases.push(Case { shape, protocol, is_upload, address, there });
            }
        }
    }
    let expected: Vec<Vec<String>> = scope(|scope| {
        let threads: Vec<_> = cases.iter().map(|case| scope.spawn(|| case.run())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let mut missing = 0;
    let end = Instant::now() + 2 * TEST_TIMEOUT;
    for (case, mut expected) in cases.iter().zip(expected) {
        let cookies: Vec<&str> =
            expected.iter().map(|flow| flow.split_once('|').unwrap().0).collect();
        let sql = format!(
            "SELECT {} FROM process_socket_flows WHERE socket_cookie IN ({})",
            CELLS.join(", "),
            cookies.join(", ")
        );
        let rows = wait_for_rows_or_skipped(&core, &sql, expected.len(), end);
        let mut shown: Vec<String> = rows.iter().map(|row| cells(row, &CELLS)).collect();
        shown.sort();
        expected.sort();
        missing += runs_that_explain(&shown, &expected)
            .unwrap_or_else(|| panic!("{case:?}: {shown:#?}, not {expected:#?}"));
    }
    // From Linux 7 on, the kernel can skip the programs under preemption.
    if missing > 0 {
        let skipped = skipped(&core);
        assert!(missing <= skipped, "{missing} are missing, but {skipped} were skipped");
        report_left_out(test, "the kernel skipped runs of the programs");
    }
}

/// The rows once there are so many, or at the end all that are there, if the kernel skipped some.
fn wait_for_rows_or_skipped(core: &Core, sql: &str, count: usize, end: Instant) -> Vec<Row> {
    loop {
        let rows = core.query(sql).unwrap();
        if rows.len() >= count {
            return rows;
        }
        if Instant::now() >= end {
            let statistics =
                core.query("SELECT kind, value, detail FROM socket_event_stats").unwrap();
            assert!(skipped(core) > 0, "{} rows of {count}: {statistics:?}", rows.len());
            return rows;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The runs of the programs that the kernel skipped.
fn skipped(core: &Core) -> u64 {
    let sql = "SELECT value FROM socket_event_stats WHERE kind = 'skipped'";
    core.query(sql).unwrap()[0]["value"].parse().unwrap()
}

const LOOPBACK: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

#[test]
fn bulk_transfers_have_exact_bytes_over_loopback() {
    let test = "bulk_transfers_have_exact_bytes_over_loopback";
    let _slots = free_slots();
    assert_exact(test, &[BURST, PACED], LOOPBACK, None);
}

#[test]
fn slow_transfers_of_single_bytes_have_exact_bytes() {
    let test = "slow_transfers_of_single_bytes_have_exact_bytes";
    let _slots = free_slots();
    assert_exact(test, &[SLOW], LOOPBACK, None);
}

#[test]
fn many_small_connections_each_have_a_flow_with_exact_bytes() {
    let test = "many_small_connections_each_have_a_flow_with_exact_bytes";
    let _slots = free_slots();
    assert_exact(test, &[MANY], LOOPBACK, None);
}

#[test]
fn transfers_have_exact_bytes_over_veth() {
    let _slots = free_slots();
    in_own_namespaces("transfers::transfers_have_exact_bytes_over_veth", || {
        let test = "transfers_have_exact_bytes_over_veth";
        let Some(there) = OtherEnd::new() else {
            return report_left_out(test, "this kernel has no veth pairs");
        };
        let shapes = [BURST, PACED, SLOW, MANY];
        assert_exact(test, &shapes, OtherEnd::addresses(), Some(&there));
    });
}
