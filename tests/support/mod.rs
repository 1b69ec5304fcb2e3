//! What the tests stand on: a stand-in for osquery's core, and the extension launched as osquery
//! launches it.

// Each test binary uses its part.
#![allow(dead_code)]

pub(crate) mod context;
pub(crate) mod core;
pub(crate) mod native;
pub(crate) mod osquery;
pub(crate) mod process;
pub(crate) mod remote;
pub(crate) mod sql;
