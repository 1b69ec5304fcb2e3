//! Fuzzes a parser; `tables::process_open_sockets::fuzz::event_record` documents the checks.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tables::process_open_sockets::fuzz;

fuzz_target!(|bytes: &[u8]| fuzz::event_record(bytes));
