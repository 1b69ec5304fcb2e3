//! Requests of osquery and their answers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Instant;

use tables::Table;
use thrift::protocol::{TInputProtocol, TMessageIdentifier, TMessageType, TOutputProtocol, TType};
use thrift::{ApplicationError, ApplicationErrorKind};

use super::answer::{self, Answer, failure, success, write_response};
use super::event::Event;
use super::limiter::{Kind, ScanLimiter};
use super::names::NamedTables;
use super::omitted_rows_warning::OmittedRowsWarning;
use super::osquery::{ExtensionPluginRequest, ExtensionResponse};
use super::{context, routes};

/// A request of a client.
pub(super) struct Request {
    /// The client's sequence number; the answer repeats it.
    number: i32,
    method: Method,
}

enum Method {
    Ping,
    Shutdown,
    Call { registry: String, item: String, request: ExtensionPluginRequest },
    Unknown(String),
}

impl Request {
    /// Reads one whole message.
    ///
    /// # Errors
    /// If it is not a valid request. No further request can be read from the stream then.
    pub(super) fn read(input: &mut dyn TInputProtocol) -> thrift::Result<Request> {
        let message = input.read_message_begin()?;
        if !matches!(message.message_type, TMessageType::Call | TMessageType::OneWay) {
            return Err(application(
                ApplicationErrorKind::InvalidMessageType,
                format!("{} is not a request", message.message_type),
            ));
        }
        let method = if message.name == "call" {
            read_call(input)?
        } else {
            input.skip(TType::Struct)?;
            match &*message.name {
                "ping" => Method::Ping,
                "shutdown" => Method::Shutdown,
                _ => Method::Unknown(message.name),
            }
        };
        input.read_message_end()?;
        Ok(Request { number: message.sequence_number, method })
    }
}

fn read_call(input: &mut dyn TInputProtocol) -> thrift::Result<Method> {
    let (mut registry, mut item, mut request) = Default::default();
    input.read_struct_begin()?;
    loop {
        let field = input.read_field_begin()?;
        match (field.id, field.field_type) {
            (_, TType::Stop) => break,
            (Some(1), TType::String) => registry = input.read_string()?,
            (Some(2), TType::String) => item = input.read_string()?,
            (Some(3), TType::Map) => request = read_strings(input)?,
            (_, kind) => input.skip(kind)?,
        }
        input.read_field_end()?;
    }
    input.read_struct_end()?;
    Ok(Method::Call { registry, item, request })
}

fn read_strings(input: &mut dyn TInputProtocol) -> thrift::Result<ExtensionPluginRequest> {
    let map = input.read_map_begin()?;
    let string = Some(TType::String);
    if map.size > 0 && (map.key_type != string || map.value_type != string) {
        let message = "a request is a map of strings to strings".to_owned();
        return Err(application(ApplicationErrorKind::ProtocolError, message));
    }
    let mut strings = BTreeMap::new();
    for _ in 0..map.size {
        strings.insert(input.read_string()?, input.read_string()?);
    }
    input.read_map_end()?;
    Ok(strings)
}

fn application(kind: ApplicationErrorKind, message: String) -> thrift::Error {
    thrift::Error::Application(ApplicationError { kind, message })
}

/// Answers requests.
pub struct Requests {
    tables: NamedTables,
    limiter: Arc<ScanLimiter>,
    events: Sender<Event>,
    omitted: OmittedRowsWarning,
}

impl Requests {
    /// Answers requests for these tables. The limiter bounds their queries; a call of `shutdown` becomes an
    /// event.
    pub fn new(tables: NamedTables, limiter: Arc<ScanLimiter>, events: Sender<Event>) -> Self {
        Requests { tables, limiter, events, omitted: OmittedRowsWarning::default() }
    }

    /// Writes the answer to the request.
    pub(super) fn answer(
        &self,
        Request { number, method }: Request,
        to: &mut dyn TOutputProtocol,
    ) -> thrift::Result<()> {
        match method {
            Method::Ping => {
                answer::reply("ping", number, to, |to| answer::write_result(&success(), to))
            }
            Method::Shutdown => {
                // Reply before the event: the process may exit soon after it.
                let replied = answer::reply("shutdown", number, to, |_| Ok(()));
                let replied = replied.and_then(|()| to.flush());
                // Send the event even if the reply fails: osquery may not wait for the reply.
                let _ = self.events.send(Event::Shutdown);
                replied
            }
            Method::Call { registry, item, request } => {
                let table = self.tables.get(&item).filter(|_| registry == "table");
                match (table, request.get("action").map_or("", String::as_str)) {
                    (Some(table), "generate") => {
                        self.generate(number, &item, &**table, request, to)
                    }
                    (Some(table), "columns") => {
                        let routes = routes::routes(table.columns());
                        write_response(number, &ExtensionResponse::new(success(), routes), to)
                    }
                    (_, action) => {
                        let message = self.unknown_target(&registry, &item, action);
                        write_response(number, &failure(message), to)
                    }
                }
            }
            Method::Unknown(name) => {
                let exception = TMessageType::Exception;
                to.write_message_begin(&TMessageIdentifier::new(name, exception, number))?;
                let error = ApplicationError {
                    kind: ApplicationErrorKind::UnknownMethod,
                    message: "an extension has the methods ping, call and shutdown".to_owned(),
                };
                thrift::Error::write_application_error_to_out_protocol(&error, to)?;
                to.write_message_end()
            }
        }
    }

    fn unknown_target(&self, registry: &str, item: &str, action: &str) -> String {
        if registry != "table" {
            format!("unknown registry '{registry}' (available: table)")
        } else if !self.tables.contains_key(item) {
            let names: Vec<&str> = self.tables.keys().map(String::as_str).collect();
            format!("unknown table '{item}' (available: {})", names.join(", "))
        } else {
            format!("unknown action '{action}' of table {item} (available: columns, generate)")
        }
    }

    fn generate(
        &self,
        number: i32,
        name: &str,
        table: &dyn Table,
        request: ExtensionPluginRequest,
        to: &mut dyn TOutputProtocol,
    ) -> thrift::Result<()> {
        // Held until the answer is sent: a client that reads slowly holds this permit, but no scan permit.
        let query_permit = match self.limiter.try_acquire_query() {
            Ok(permit) => permit,
            Err(message) => return write_response(number, &failure(message), to),
        };
        let columns = table.columns();
        let query = context::read_request(&request, columns);
        // It can hold a list of thousands of pids: free it while the query waits.
        drop(request);
        let kind = if table.scans(&query) { Kind::Scan } else { Kind::Lookup };
        let scan_permit = query_permit.acquire_scan(kind);
        let rows = table.generate(&query);
        drop(scan_permit);
        match rows {
            Ok(rows) => {
                let answer = Answer::new(rows, columns, query.columns_used);
                for line in self.omitted.lines(&answer.omitted(), Instant::now()) {
                    log::warn!("{name}: {line}");
                }
                answer.write(number, to)
            }
            Err(error) => {
                log::error!("{name}: {error}");
                write_response(number, &failure(error.to_string()), to)
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::io::{self, Write};
    use std::sync::mpsc::{Receiver, channel};
    use thrift::protocol::TBinaryOutputProtocol;

    /// Records at each flush whether an event has been sent.
    struct EventsAtFlush<'a> {
        events: &'a Receiver<Event>,
        at_flush: Vec<Option<Event>>,
    }

    impl Write for EventsAtFlush<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            self.at_flush.push(self.events.try_recv().ok());
            Ok(())
        }
    }

    #[test]
    fn the_reply_to_shutdown_is_sent_before_the_event() {
        let (send, events) = channel();
        let requests = Requests::new(NamedTables::new(), Arc::default(), send);
        let request = Request { number: 1, method: Method::Shutdown };
        let mut output = EventsAtFlush { events: &events, at_flush: Vec::new() };
        let mut to = TBinaryOutputProtocol::new(&mut output, true);
        requests.answer(request, &mut to).unwrap();
        assert_eq!(output.at_flush, [None]);
        assert_eq!(events.try_recv(), Ok(Event::Shutdown));
    }
}
