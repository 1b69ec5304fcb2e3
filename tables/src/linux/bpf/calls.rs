//! The commands of the system call bpf(2) that the program needs.

use std::ffi::c_long;
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::Errno;

use super::assembler::Instruction;

/// Commands, from `enum bpf_cmd` in `include/uapi/linux/bpf.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    ProgLoad = 5,
    LinkCreate = 28,
    IterCreate = 33,
}

/// A command that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CallError {
    pub(crate) command: Command,
    pub(crate) errno: Errno,
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Command::ProgLoad => "BPF_PROG_LOAD",
            Command::LinkCreate => "BPF_LINK_CREATE",
            Command::IterCreate => "BPF_ITER_CREATE",
        })
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CallError { command, errno } = self;
        let hint = match (command, *errno) {
            (_, Errno::PERM) => {
                ": grant CAP_BPF and CAP_PERFMON, or CAP_SYS_ADMIN, in the first user namespace"
            }
            (_, Errno::NOSYS) => ": the kernel was built without CONFIG_BPF_SYSCALL",
            (Command::ProgLoad, Errno::ACCESS | Errno::INVAL) => {
                ": the kernel's verifier refuses the program, which needs Linux 5.11 or later, and lockdown \
                 not in its confidentiality mode; the verifier's reason is logged at level debug"
            }
            (Command::LinkCreate, Errno::TOOBIG) => {
                ": the iterator visits one process only from Linux 6.1 on"
            }
            _ => "",
        };
        write!(f, "bpf({command}) failed: {errno}{hint}")
    }
}

impl std::error::Error for CallError {}

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

/// Loads a program for an iterator; `function` is the BTF number of the function that it replaces. The report of
/// the verifier goes into `log`, with NUL at the end.
pub(super) fn load(
    program: &[Instruction],
    function: u32,
    log: &mut [u8],
) -> Result<OwnedFd, CallError> {
    const PROG_TYPE_TRACING: u32 = 26;
    // Only programs with a GPL-compatible licence can read sockets.
    const LICENCE: &[u8; 13] = b"Dual MIT/GPL\0";
    const NAME: [u8; 16] = *b"open_sockets\0\0\0\0";
    /// The kernel stops verifying when a signal comes.
    const ATTEMPTS: usize = 5;
    let command = Command::ProgLoad;
    let too_long = |_| CallError { command, errno: Errno::TOOBIG };
    let attributes = ProgLoad {
        prog_type: PROG_TYPE_TRACING,
        insn_cnt: u32::try_from(program.len()).map_err(too_long)?,
        insns: program.as_ptr().expose_provenance() as u64,
        license: LICENCE.as_ptr().expose_provenance() as u64,
        log_level: u32::from(!log.is_empty()),
        log_size: u32::try_from(log.len()).map_err(too_long)?,
        log_buf: if log.is_empty() { 0 } else { log.as_mut_ptr().expose_provenance() as u64 },
        prog_name: NAME,
        expected_attach_type: TRACE_ITER,
        attach_btf_id: function,
        ..ProgLoad::default()
    };
    let mut loaded = call(command, &attributes);
    for _ in 1..ATTEMPTS {
        if !matches!(loaded, Err(CallError { errno: Errno::AGAIN, .. })) {
            break;
        }
        loaded = call(command, &attributes);
    }
    loaded
}

/// The report of the verifier about a rejected program.
pub(super) fn verifier_log(program: &[Instruction], function: u32) -> String {
    const SIZE: usize = 1 << 20;
    let mut log = vec![0; SIZE];
    match load(program, function, &mut log) {
        Ok(_) => "the kernel takes the program the second time".into(),
        Err(error) => {
            let end = log.iter().position(|&byte| byte == 0).unwrap_or_default();
            let text = String::from_utf8_lossy(log.get(..end).unwrap_or_default());
            format!("{error}\n{text}")
        }
    }
}

/// Attaches a program to an iterator over the descriptors of all tasks, or of one process.
pub(super) fn link(program: BorrowedFd<'_>, pid: Option<i32>) -> Result<OwnedFd, CallError> {
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

/// Creates a file that runs the program when it is read. Its content is the output of the program.
pub(super) fn iterator(link: BorrowedFd<'_>) -> Result<OwnedFd, CallError> {
    call(Command::IterCreate, &IterCreate { link_fd: number(link), flags: 0 })
}

fn number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

/// Runs a command and returns the file descriptor that it makes, which is closed on exec.
#[allow(unsafe_code)]
fn call<T>(command: Command, attributes: &T) -> Result<OwnedFd, CallError> {
    // SAFETY: the kernel reads as many bytes of the attributes as it is given the size of, and reads and
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
    match RawFd::try_from(made) {
        // SAFETY: each of these commands returns a new file descriptor without another owner.
        Ok(made) if made >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(made) }),
        Ok(_) | Err(_) => {
            let errno = Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::INVAL);
            Err(CallError { command, errno })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_capability_is_named_with_the_command() {
        let error = CallError { command: Command::ProgLoad, errno: Errno::PERM };
        assert_eq!(
            error.to_string(),
            "bpf(BPF_PROG_LOAD) failed: Operation not permitted (os error 1): grant CAP_BPF and CAP_PERFMON, \
             or CAP_SYS_ADMIN, in the first user namespace"
        );
    }

    #[test]
    fn an_error_without_a_hint_has_the_command_and_the_errno() {
        let error = CallError { command: Command::IterCreate, errno: Errno::NOMEM };
        let text = "bpf(BPF_ITER_CREATE) failed: Cannot allocate memory (os error 12)";
        assert_eq!(error.to_string(), text);
    }

    #[test]
    fn a_program_without_instructions_is_refused_by_that_command() {
        let error = load(&[], 0, &mut []).unwrap_err();
        // Without the capability, before the kernel reads the program.
        assert_eq!(error.command, Command::ProgLoad);
        assert!([Errno::INVAL, Errno::TOOBIG, Errno::PERM, Errno::NOSYS].contains(&error.errno));
    }
}
