//! Symbolic links, and directories of numbers.

use std::mem::MaybeUninit;
use std::ops::ControlFlow;
use std::os::fd::BorrowedFd;

use rustix::fs::{RawDir, readlinkat_raw};

use crate::formats::linux::proc_link;

/// Hands the text of a symbolic link to `read`, truncated to 64 bytes: links of sockets and namespaces are
/// shorter.
pub(crate) fn read_link<T>(
    at: BorrowedFd<'_>,
    path: impl rustix::path::Arg,
    read: impl Fn(&[u8]) -> T,
) -> rustix::io::Result<T> {
    let mut text = [MaybeUninit::<u8>::uninit(); 64];
    let (text, _) = readlinkat_raw(at, path, &mut text[..])?;
    Ok(read(text))
}

/// Calls `each` with every entry of a directory whose name is a number.
pub(crate) fn for_each_number(
    directory: BorrowedFd<'_>,
    mut each: impl FnMut(i32),
) -> rustix::io::Result<()> {
    visit_numbers(directory, |number| {
        each(number);
        ControlFlow::Continue(())
    })
}

/// The first entry of a directory whose name is a number.
pub(crate) fn first_number(directory: BorrowedFd<'_>) -> rustix::io::Result<Option<i32>> {
    let mut first = None;
    visit_numbers(directory, |number| {
        first = Some(number);
        ControlFlow::Break(())
    })?;
    Ok(first)
}

fn visit_numbers(
    directory: BorrowedFd<'_>,
    mut visit: impl FnMut(i32) -> ControlFlow<()>,
) -> rustix::io::Result<()> {
    let mut buffer = [MaybeUninit::<u8>::uninit(); 32 * 1024];
    let mut entries = RawDir::new(directory, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        if let Some(number) = proc_link::number(entry.file_name().to_bytes())
            && visit(number).is_break()
        {
            break;
        }
    }
    Ok(())
}
