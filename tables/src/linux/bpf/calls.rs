//! The system call bpf(2), for as much as is needed of it.

use std::ffi::c_long;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use super::assembler::Instruction;

/// Commands, from `enum bpf_cmd` in `include/uapi/linux/bpf.h`.
#[derive(Clone, Copy)]
enum Command {
    ProgLoad = 5,
    LinkCreate = 28,
    IterCreate = 33,
}

/// `BPF_TRACE_ITER`, how the program is attached.
const TRACE_ITER: u32 = 28;

/// The part of `union bpf_attr` that `BPF_PROG_LOAD` takes. Pointers are numbers in it.
#[derive(Default)]
#[repr(C)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
    prog_btf_fd: u32,
    func_info_rec_size: u32,
    func_info: u64,
    func_info_cnt: u32,
    line_info_rec_size: u32,
    line_info: u64,
    line_info_cnt: u32,
    attach_btf_id: u32,
}
const _: () = assert!(size_of::<ProgLoad>() == 112);
const _: () = assert!(std::mem::offset_of!(ProgLoad, expected_attach_type) == 68);
const _: () = assert!(std::mem::offset_of!(ProgLoad, attach_btf_id) == 108);
const _: () = assert!(size_of::<Instruction>() == 8);

/// The part that `BPF_LINK_CREATE` takes.
#[derive(Default)]
#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
    iter_info: u64,
    iter_info_len: u32,
    padding: u32,
}
const _: () = assert!(size_of::<LinkCreate>() == 32);

/// `union bpf_iter_link_info` for tasks.
#[repr(C)]
struct TaskInfo {
    tid: u32,
    pid: u32,
    pid_fd: u32,
    padding: u32,
}

/// The part that `BPF_ITER_CREATE` takes.
#[derive(Default)]
#[repr(C)]
struct IterCreate {
    link_fd: u32,
    flags: u32,
}

/// Has the kernel check and keep a program that is run by an iterator; `function` is the number of the one
/// that it takes the place of. What the check says goes into `log`, NUL at the end.
pub(super) fn load(program: &[Instruction], function: u32, log: &mut [u8]) -> io::Result<OwnedFd> {
    const PROG_TYPE_TRACING: u32 = 26;
    // To look into sockets is for programs under a licence that goes with the GPL.
    const LICENCE: &[u8; 13] = b"Dual MIT/GPL\0";
    let mut prog_name = [0; 16];
    for (to, from) in prog_name.iter_mut().zip(*b"open_sockets") {
        *to = from;
    }
    let too_long = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let attributes = ProgLoad {
        prog_type: PROG_TYPE_TRACING,
        insn_cnt: u32::try_from(program.len()).map_err(too_long)?,
        insns: program.as_ptr().expose_provenance() as u64,
        license: LICENCE.as_ptr().expose_provenance() as u64,
        log_level: u32::from(!log.is_empty()),
        log_size: u32::try_from(log.len()).map_err(too_long)?,
        log_buf: if log.is_empty() { 0 } else { log.as_mut_ptr().expose_provenance() as u64 },
        prog_name,
        expected_attach_type: TRACE_ITER,
        attach_btf_id: function,
        ..ProgLoad::default()
    };
    // The check is given up where a signal comes.
    const TRIED: usize = 5;
    for _ in 1..TRIED {
        match call(Command::ProgLoad, &attributes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            done => return done,
        }
    }
    call(Command::ProgLoad, &attributes)
}

/// What the kernel's check says of a program that was refused.
pub(super) fn why_refused(program: &[Instruction], function: u32) -> String {
    const MOST: usize = 1 << 20;
    let mut log = vec![0; MOST];
    match load(program, function, &mut log) {
        Ok(_) => "the kernel took the program the second time".into(),
        Err(error) => {
            let end = log.iter().position(|&byte| byte == 0).unwrap_or_default();
            let text = String::from_utf8_lossy(log.get(..end).unwrap_or_default());
            format!("the kernel's check of the program: {error}\n{text}")
        }
    }
}

/// Ties a program to an iterator over the descriptors of all tasks, or of one process.
pub(super) fn link(program: BorrowedFd<'_>, pid: Option<i32>) -> io::Result<OwnedFd> {
    let task =
        TaskInfo { tid: 0, pid: pid.unwrap_or_default().cast_unsigned(), pid_fd: 0, padding: 0 };
    let mut attributes =
        LinkCreate { prog_fd: number(program), attach_type: TRACE_ITER, ..LinkCreate::default() };
    if pid.is_some() {
        attributes.iter_info = (&raw const task).expose_provenance() as u64;
        attributes.iter_info_len = size_of::<TaskInfo>() as u32;
    }
    call(Command::LinkCreate, &attributes)
}

/// A file that runs the program while it is read, and gives what the program writes.
pub(super) fn iterator(link: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    call(Command::IterCreate, &IterCreate { link_fd: number(link), flags: 0 })
}

fn number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

/// Does what the command says and returns the file that it makes, which is closed on exec.
#[allow(unsafe_code)]
fn call<T>(command: Command, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: the kernel reads as many bytes of the attributes as it is told they have, and reads and
    // writes what they point to, which lives in the callers above until the call is over, and whose
    // pointers these have exposed.
    let made = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as c_long,
            std::ptr::from_ref(attributes),
            size_of::<T>(),
        )
    };
    if made < 0 {
        return Err(io::Error::last_os_error());
    }
    let made = RawFd::try_from(made).map_err(io::Error::other)?;
    // SAFETY: each of these commands returns a new file descriptor, which nobody else knows.
    Ok(unsafe { OwnedFd::from_raw_fd(made) })
}
