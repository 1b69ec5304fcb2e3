//! The client of the extension manager with the stand-in core, and the refusals of the stand-in.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::io::Write;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use process_open_sockets::extension::manager::{Error, Manager};
use process_open_sockets::extension::osquery::{
    ExtensionManagerSyncClient, ExtensionRegistry, ExtensionStatus, InternalExtensionInfo,
    TExtensionManagerSyncClient, TExtensionSyncClient,
};
use support::core::{Core, socket_in};
use thrift::protocol::{TBinaryInputProtocol, TBinaryOutputProtocol};

const SHORT: Duration = Duration::from_millis(200);

fn manager(socket: &Path) -> Manager {
    Manager::new(socket, Duration::from_secs(5))
}

/// Registers another extension.
fn register(core: &Core, name: &str, sdk: &str, registry: &str, items: &[&str]) -> ExtensionStatus {
    let info = InternalExtensionInfo::new(
        name.to_owned(),
        "1.0".to_owned(),
        sdk.to_owned(),
        sdk.to_owned(),
    );
    let items = items.iter().map(|item| ((*item).to_owned(), Vec::new())).collect();
    let registry: ExtensionRegistry = [(registry.to_owned(), items)].into();
    client(core).register_extension(info, registry).unwrap()
}

fn client(core: &Core) -> impl TExtensionManagerSyncClient {
    let stream = UnixStream::connect(core.socket()).unwrap();
    let reader = TBinaryInputProtocol::new(stream.try_clone().unwrap(), true);
    ExtensionManagerSyncClient::new(reader, TBinaryOutputProtocol::new(stream, true))
}

fn refusal(message: &str) -> ExtensionStatus {
    // An absent uuid arrives as the field's default.
    ExtensionStatus::new(1, message.to_owned(), 0)
}

#[test]
fn the_core_is_listed_among_its_extensions() {
    let core = Core::stock();
    let uuid = register(&core, "other", "0.0.0", "table", &["other_table"]).uuid.unwrap();
    let listed = manager(core.socket()).extensions().unwrap();
    let names: Vec<_> =
        listed.iter().map(|(uuid, info)| (*uuid, info.name.as_deref().unwrap())).collect();
    assert_eq!(names, [(0, "core"), (uuid, "other")]);
}

#[test]
fn taken_names_are_of_core_and_extensions_in_any_case() {
    let core = Core::stock();
    register(&core, "other", "0.0.0", "table", &["Other_Table"]);
    let names = ["Process_Open_Sockets", "alt_process_open_sockets", "other_table", "it's"];
    let taken = manager(core.socket()).existing_tables(&names).unwrap();
    assert_eq!(taken.into_iter().collect::<Vec<_>>(), ["other_table", "process_open_sockets"]);
}

#[test]
fn a_query_returns_its_rows_or_the_error_of_the_core() {
    let core = Core::stock();
    let manager = manager(core.socket());
    let rows = manager.query("SELECT 1 AS one, NULL AS absent, 'x' AS text").unwrap();
    let row: Vec<_> = rows[0].iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!((rows.len(), row), (1, vec![("absent", ""), ("one", "1"), ("text", "x")]));
    let error = manager.query("SELECT * FROM nowhere").unwrap_err();
    assert!(
        matches!(&error, Error::Refused { message, .. } if message == "no such table: nowhere")
    );
}

#[test]
fn a_missing_socket_is_absent_and_named_in_the_error() {
    let dir = tempfile::tempdir().unwrap();
    let socket = socket_in(dir.path());
    let error = manager(&socket).probe().unwrap_err();
    assert!(matches!(error, Error::NotListening { .. }), "{error}");
    assert!(error.to_string().contains(&socket.display().to_string()), "{error}");
}

#[test]
fn a_socket_without_a_listener_is_absent() {
    let dir = tempfile::tempdir().unwrap();
    let socket = socket_in(dir.path());
    drop(UnixListener::bind(&socket).unwrap());
    let error = manager(&socket).extensions().unwrap_err();
    assert!(matches!(error, Error::NotListening { .. }), "{error}");
}

#[test]
fn a_path_that_is_too_long_for_a_socket_is_no_absent_core() {
    let error = manager(Path::new(&"/x".repeat(100))).probe().unwrap_err();
    assert!(matches!(error, Error::Connect { .. }), "{error}");
}

#[test]
fn a_silent_core_does_not_block_the_client() {
    let dir = tempfile::tempdir().unwrap();
    let socket = socket_in(dir.path());
    let _listener = UnixListener::bind(&socket).unwrap();
    let start = Instant::now();
    let error = Manager::new(&socket, SHORT).extensions().unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }), "{error}");
    assert!(start.elapsed() < Duration::from_secs(10));
}

// On other systems, connect(2) fails at once if the accept queue is full.
#[cfg(target_os = "linux")]
#[test]
fn a_full_accept_queue_does_not_block_the_client() {
    let dir = tempfile::tempdir().unwrap();
    let socket = socket_in(dir.path());
    let _listener = UnixListener::bind(&socket).unwrap();
    let manager = Manager::new(&socket, SHORT);
    let start = Instant::now();
    let mut waiting = Vec::new();
    loop {
        let stream =
            socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
        stream.set_nonblocking(true).unwrap();
        if stream.connect(&socket2::SockAddr::unix(&socket).unwrap()).is_err() {
            break;
        }
        waiting.push(stream);
    }
    let error = manager.extensions().unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }), "{error}");
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[test]
fn an_answer_of_another_protocol_is_garbled() {
    let dir = tempfile::tempdir().unwrap();
    let socket = socket_in(dir.path());
    let listener = UnixListener::bind(&socket).unwrap();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
        stream
    });
    let error = manager(&socket).extensions().unwrap_err();
    assert!(matches!(error, Error::Protocol { .. }), "{error}");
    server.join().unwrap();
}

#[test]
fn a_core_that_hangs_up_is_garbled() {
    let dir = tempfile::tempdir().unwrap();
    let socket = socket_in(dir.path());
    let listener = UnixListener::bind(&socket).unwrap();
    let server = thread::spawn(move || drop(listener.accept().unwrap()));
    let error = manager(&socket).extensions().unwrap_err();
    assert!(matches!(error, Error::Protocol { .. }), "{error}");
    server.join().unwrap();
}

#[test]
fn the_stand_in_refuses_as_the_core_does() {
    let core = Core::stock();
    let conflict = "Failed adding registry: Registry item process_open_sockets conflicts with \
                    another item of the same name.";
    assert_eq!(
        register(&core, "a", "0.0.0", "table", &["fine", "process_open_sockets"]),
        refusal(conflict)
    );
    assert_eq!(core.extensions().len(), 0);
    assert_eq!(
        register(&core, "a", "0.0.0", "tables", &[]),
        refusal("Failed adding registry: Unknown registry: tables")
    );
    assert_eq!(
        register(&core, "a", "1.7.6", "table", &[]),
        refusal("Incompatible extension SDK version")
    );
    for (name, sdk) in [("a", "1.7.7"), ("b", "5.0.0"), ("c", "0.0.0"), ("d", "Unknown")] {
        assert_eq!(register(&core, name, sdk, "table", &[name]).code, Some(0), "{sdk}");
    }
    assert_eq!(
        register(&core, "a", "1.7.7", "table", &[]),
        refusal("Duplicate extension registered")
    );
    assert_eq!(
        register(&core, "e", "1.7.7", "table", &["d"]),
        refusal(
            "Failed adding registry: Registry item d conflicts with another item of the same name."
        )
    );
    assert_eq!(client(&core).deregister_extension(9).unwrap(), refusal("No extension UUID found"));
}

#[test]
fn the_stand_in_answers_the_rest_of_the_interface() {
    let core = Core::stock();
    let mut client = client(&core);
    assert_eq!(client.ping().unwrap().code, Some(0));
    assert_eq!(client.options().unwrap()["extensions_interval"].value.as_deref(), Some("3"));
    let columns = client.get_query_columns("SELECT pid, name FROM processes".to_owned()).unwrap();
    let expected = vec![
        [("pid".to_owned(), "UNKNOWN".to_owned())].into(),
        [("name".to_owned(), "UNKNOWN".to_owned())].into(),
    ];
    assert_eq!(columns.response, Some(expected));
}
