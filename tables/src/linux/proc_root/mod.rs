//! A mount of proc (proc(5)) and the processes in it.

mod entries;
mod mount;
mod process;
mod root;

pub(crate) use self::entries::{first_number, for_each_number, read_link};
pub(crate) use self::process::{Process, is_gone};
pub(crate) use self::root::ProcRoot;
