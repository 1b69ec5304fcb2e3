//! Requests to an extension, one per connection.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use process_open_sockets::extension::osquery::{
    ExtensionPluginRequest, ExtensionPluginResponse, ExtensionSyncClient, TExtensionSyncClient,
};
use thrift::protocol::{TBinaryInputProtocol, TBinaryOutputProtocol};
use thrift::transport::{TBufferedReadTransport, TBufferedWriteTransport};

type Client = ExtensionSyncClient<
    TBinaryInputProtocol<TBufferedReadTransport<UnixStream>>,
    TBinaryOutputProtocol<TBufferedWriteTransport<UnixStream>>,
>;

/// The timeout of the core for a ping.
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// Shorter than the 300 s of the core, so that a hung test fails sooner.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);

fn client(socket: &Path, timeout: Duration) -> thrift::Result<Client> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    let reader = TBufferedReadTransport::new(stream.try_clone()?);
    let writer = TBufferedWriteTransport::new(stream);
    Ok(Client::new(
        TBinaryInputProtocol::new(reader, true),
        TBinaryOutputProtocol::new(writer, true),
    ))
}

/// Fails unless the extension answers with code 0.
pub(crate) fn ping(socket: &Path) -> Result<(), String> {
    let status = client(socket, PING_TIMEOUT)
        .and_then(|mut client| client.ping())
        .map_err(|error| error.to_string())?;
    match status.code {
        None | Some(0) => Ok(()),
        Some(code) => Err(format!("code {code}")),
    }
}

/// Waits until the extension answers.
pub(crate) fn wait_for_service(socket: &Path) {
    let start = Instant::now();
    while ping(socket).is_err() {
        assert!(start.elapsed() < Duration::from_secs(10), "it does not serve");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Calls a plugin of the registry `table`.
pub(crate) fn call(
    socket: &Path,
    table: &str,
    request: ExtensionPluginRequest,
) -> Result<ExtensionPluginResponse, String> {
    let answer = client(socket, CALL_TIMEOUT)
        .and_then(|mut client| client.call("table".to_owned(), table.to_owned(), request))
        .map_err(|error| format!("Extension call failed: {error}"))?;
    let status = answer.status.unwrap_or_default();
    match status.code {
        None | Some(0) => Ok(answer.response.unwrap_or_default()),
        Some(_) => Err(status.message.unwrap_or_default()),
    }
}

/// Sends `shutdown` to the extension.
pub(crate) fn shutdown(socket: &Path) {
    client(socket, PING_TIMEOUT).and_then(|mut client| client.shutdown()).expect("a shutdown");
}

/// The bytes of a request for a table's rows, for benchmarks that measure without a Thrift client.
pub(crate) fn request(table: &str, context: &str) -> Vec<u8> {
    let text = |text: &str| [&(text.len() as u32).to_be_bytes()[..], text.as_bytes()].concat();
    let request = [
        // A call, version 1, with the sequence number 1.
        b"\x80\x01\x00\x01".to_vec(),
        text("call"),
        vec![0, 0, 0, 1],
        // Two fields with texts: registry and item; and a map from text to text.
        [b"\x0b\x00\x01".to_vec(), text("table")].concat(),
        [b"\x0b\x00\x02".to_vec(), text(table)].concat(),
        b"\x0d\x00\x03\x0b\x0b\x00\x00\x00\x02".to_vec(),
        [text("action"), text("generate"), text("context"), text(context)].concat(),
        vec![0],
    ];
    request.concat()
}
