//! The cells of UNIX sockets: the process at the other end, and the file of the bound path.

use super::number;
use crate::Value;
use crate::model::{ExtendedDetails, FileId, Socket};

fn of(socket: &Socket) -> Option<&ExtendedDetails> {
    socket.details.extended.as_deref()
}

pub(in super::super) fn peer_pid(socket: &Socket) -> Value<'_> {
    number(of(socket).and_then(|extended| extended.peer_pid))
}

pub(in super::super) fn peer_uid(socket: &Socket) -> Value<'_> {
    number(of(socket).and_then(|extended| extended.peer_uid))
}

fn file(socket: &Socket) -> Option<FileId> {
    of(socket)?.bound_file
}

pub(in super::super) fn path_inode(socket: &Socket) -> Value<'_> {
    number(file(socket).map(|file| file.inode.cast_signed()))
}

pub(in super::super) fn path_device(socket: &Socket) -> Value<'_> {
    number(file(socket).map(|file| file.device.cast_signed()))
}
