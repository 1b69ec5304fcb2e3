//! The commands of the system call bpf(2) that the programs need.

use std::ffi::c_long;
use std::fmt;
use std::io;
use std::mem::offset_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::Errno;

use super::assembler::Instruction;

/// Commands, from `enum bpf_cmd` in `include/uapi/linux/bpf.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    MapCreate = 0,
    MapLookupElem = 1,
    MapUpdateElem = 2,
    MapDeleteElem = 3,
    ProgLoad = 5,
    #[cfg(test)]
    ProgGetNextId = 11,
    #[cfg(test)]
    MapGetNextId = 12,
    #[cfg(test)]
    ProgGetFdById = 13,
    #[cfg(test)]
    MapGetFdById = 14,
    ObjGetInfoByFd = 15,
    RawTracepointOpen = 17,
    BtfLoad = 18,
    LinkCreate = 28,
    #[cfg(test)]
    LinkGetFdById = 30,
    #[cfg(test)]
    LinkGetNextId = 31,
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
            Command::MapCreate => "BPF_MAP_CREATE",
            Command::MapLookupElem => "BPF_MAP_LOOKUP_ELEM",
            Command::MapUpdateElem => "BPF_MAP_UPDATE_ELEM",
            Command::MapDeleteElem => "BPF_MAP_DELETE_ELEM",
            Command::ProgLoad => "BPF_PROG_LOAD",
            Command::ObjGetInfoByFd => "BPF_OBJ_GET_INFO_BY_FD",
            Command::RawTracepointOpen => "BPF_RAW_TRACEPOINT_OPEN",
            Command::BtfLoad => "BPF_BTF_LOAD",
            Command::LinkCreate => "BPF_LINK_CREATE",
            Command::IterCreate => "BPF_ITER_CREATE",
            #[cfg(test)]
            _ => "a command of tests",
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
            (Command::MapCreate, Errno::INVAL) => {
                ": the kernel has no BPF ring buffer: socket events need Linux 5.10 or later"
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

/// `BPF_PROG_TYPE_TRACING`
const TRACING: u32 = 26;
/// `BPF_CGROUP_INET_SOCK_RELEASE`, how a program is attached to a control group.
const CGROUP_INET_SOCK_RELEASE: u32 = 34;
/// `BPF_TRACE_ITER`, how the program of an iterator is attached.
const TRACE_ITER: u32 = 28;
/// `BPF_TRACE_RAW_TP`, how a program is attached to a tracepoint.
const TRACE_RAW_TP: u32 = 23;

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
const _: () = assert!(offset_of!(ProgLoad, expected_attach_type) == 68);
const _: () = assert!(offset_of!(ProgLoad, attach_btf_id) == 108);
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

/// `union bpf_iter_link_info` for maps.
#[repr(C)]
struct MapInfo {
    map_fd: u32,
}

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

/// The start of `struct bpf_prog_info`, which the kernel fills in as far as it knows it.
#[derive(Debug)]
#[repr(C)]
pub(super) struct ProgramInfo {
    _other: [u64; 26],
    /// How many runs the kernel skipped; since Linux 5.12.
    pub(super) recursion_misses: u64,
}
const _: () = assert!(offset_of!(ProgramInfo, recursion_misses) == 208);

/// The part of `union bpf_attr` that `BPF_MAP_CREATE` takes.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct MapCreate {
    pub(super) map_type: u32,
    pub(super) key_size: u32,
    pub(super) value_size: u32,
    pub(super) max_entries: u32,
    pub(super) map_flags: u32,
    pub(super) inner_map_fd: u32,
    pub(super) numa_node: u32,
    pub(super) map_name: [u8; 16],
    pub(super) map_ifindex: u32,
    /// The types of keys and values, which maps of socket storage need.
    pub(super) btf_fd: u32,
    pub(super) btf_key_type_id: u32,
    pub(super) btf_value_type_id: u32,
}
const _: () = assert!(offset_of!(MapCreate, map_name) == 28);
const _: () = assert!(offset_of!(MapCreate, btf_fd) == 48);
const _: () = assert!(size_of::<MapCreate>() == 60);

/// The part that `BPF_BTF_LOAD` takes.
#[repr(C)]
struct BtfLoad {
    btf: u64,
    log: u64,
    btf_size: u32,
    log_size: u32,
    log_level: u32,
    padding: u32,
}
const _: () = assert!(offset_of!(BtfLoad, btf_size) == 16);

/// The part that `BPF_MAP_LOOKUP_ELEM` takes.
#[repr(C)]
struct MapElement {
    map_fd: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// The part that `BPF_OBJ_GET_INFO_BY_FD` takes.
#[repr(C)]
struct ObjectInfo {
    fd: u32,
    length: u32,
    info: u64,
}

/// The part that `BPF_RAW_TRACEPOINT_OPEN` takes.
#[repr(C)]
struct RawTracepoint {
    name: u64,
    prog_fd: u32,
    padding: u32,
}

/// A program to load.
#[derive(Clone, Copy, Debug)]
pub(super) struct Program<'a> {
    pub(super) name: [u8; 16],
    pub(super) instructions: &'a [Instruction],
    prog_type: u32,
    attach_type: u32,
    /// The BTF number of what it is attached to; 0 if it has none.
    target: u32,
}

impl Program<'_> {
    /// A program for an iterator; `function` is the BTF number of the function that it replaces.
    pub(super) fn iterator(
        name: [u8; 16],
        instructions: &[Instruction],
        function: u32,
    ) -> Program<'_> {
        Program {
            name,
            instructions,
            prog_type: TRACING,
            attach_type: TRACE_ITER,
            target: function,
        }
    }

    /// A program for a tracepoint; `typedef` is the BTF number of its type.
    pub(super) fn tracepoint(
        name: [u8; 16],
        instructions: &[Instruction],
        typedef: u32,
    ) -> Program<'_> {
        Program {
            name,
            instructions,
            prog_type: TRACING,
            attach_type: TRACE_RAW_TP,
            target: typedef,
        }
    }

    /// A program for the release of sockets of a control group.
    pub(super) fn release(name: [u8; 16], instructions: &[Instruction]) -> Program<'_> {
        const CGROUP_SOCK: u32 = 9;
        let (prog_type, attach_type) = (CGROUP_SOCK, CGROUP_INET_SOCK_RELEASE);
        Program { name, instructions, prog_type, attach_type, target: 0 }
    }

    /// Loads the program. The report of the verifier goes into `log`, with NUL at the end.
    pub(super) fn load(&self, log: &mut [u8]) -> Result<OwnedFd, CallError> {
        // Only programs with a GPL-compatible licence can read sockets.
        const LICENCE: &[u8; 13] = b"Dual MIT/GPL\0";
        /// The kernel stops verifying when a signal comes.
        const ATTEMPTS: usize = 5;
        let command = Command::ProgLoad;
        let too_long = |_| CallError { command, errno: Errno::TOOBIG };
        let attributes = ProgLoad {
            prog_type: self.prog_type,
            insn_cnt: u32::try_from(self.instructions.len()).map_err(too_long)?,
            insns: self.instructions.as_ptr().expose_provenance() as u64,
            license: LICENCE.as_ptr().expose_provenance() as u64,
            log_level: u32::from(!log.is_empty()),
            log_size: u32::try_from(log.len()).map_err(too_long)?,
            log_buf: if log.is_empty() { 0 } else { log.as_mut_ptr().expose_provenance() as u64 },
            prog_name: self.name,
            expected_attach_type: self.attach_type,
            attach_btf_id: self.target,
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

    /// Loads the program. If the kernel refuses it, the verifier's reason is logged at level debug.
    pub(super) fn load_or_log(&self) -> Result<OwnedFd, CallError> {
        self.load(&mut []).inspect_err(|_| {
            if log::log_enabled!(log::Level::Debug) {
                log::debug!("{}", self.verifier_log());
            }
        })
    }

    /// The report of the verifier about a rejected program.
    fn verifier_log(&self) -> String {
        const SIZE: usize = 1 << 20;
        let mut log = vec![0; SIZE];
        match self.load(&mut log) {
            Ok(_) => "the kernel takes the program the second time".into(),
            Err(error) => {
                let end = log.iter().position(|&byte| byte == 0).unwrap_or_default();
                let text = String::from_utf8_lossy(log.get(..end).unwrap_or_default());
                format!("{error}\n{text}")
            }
        }
    }
}

const OPEN_SOCKETS: [u8; 16] = *b"open_sockets\0\0\0\0";

/// Loads a program for an iterator; `function` is the BTF number of the function that it replaces. The report of
/// the verifier goes into `log`, with NUL at the end.
pub(super) fn load(
    program: &[Instruction],
    function: u32,
    log: &mut [u8],
) -> Result<OwnedFd, CallError> {
    Program::iterator(OPEN_SOCKETS, program, function).load(log)
}

/// The report of the verifier about a rejected program.
pub(super) fn verifier_log(program: &[Instruction], function: u32) -> String {
    Program::iterator(OPEN_SOCKETS, program, function).verifier_log()
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

/// Attaches a program to an iterator over the sockets that have storage in this map.
pub(super) fn link_storage(
    program: BorrowedFd<'_>,
    map: BorrowedFd<'_>,
) -> Result<OwnedFd, CallError> {
    let map = MapInfo { map_fd: number(map) };
    let attributes = LinkCreate {
        prog_fd: number(program),
        attach_type: TRACE_ITER,
        iter_info: (&raw const map).expose_provenance() as u64,
        iter_info_len: size_of::<MapInfo>() as u32,
        ..LinkCreate::default()
    };
    call(Command::LinkCreate, &attributes)
}

/// Attaches a program for the release of sockets to a control group, and those below it. The kernel detaches it when the
/// descriptor is closed.
pub(super) fn link_release(
    program: BorrowedFd<'_>,
    group: BorrowedFd<'_>,
) -> Result<OwnedFd, CallError> {
    let attributes = LinkCreate {
        prog_fd: number(program),
        target_fd: number(group),
        attach_type: CGROUP_INET_SOCK_RELEASE,
        ..LinkCreate::default()
    };
    call(Command::LinkCreate, &attributes)
}

/// Adds a value to the end of a queue.
pub(super) fn push(queue: BorrowedFd<'_>, value: &u32) -> Result<(), CallError> {
    let attributes = MapElement {
        map_fd: number(queue),
        padding: 0,
        key: 0,
        value: std::ptr::from_ref(value).expose_provenance() as u64,
        flags: 0,
    };
    run(Command::MapUpdateElem, &attributes).map(drop)
}

/// Deletes the entry of a map with this key, whose type must be that of the map's keys.
pub(super) fn delete<Key>(map: BorrowedFd<'_>, key: &Key) -> Result<(), CallError> {
    let attributes = MapElement {
        map_fd: number(map),
        padding: 0,
        key: std::ptr::from_ref(key).expose_provenance() as u64,
        value: 0,
        flags: 0,
    };
    run(Command::MapDeleteElem, &attributes).map(drop)
}

/// Waits until all programs that run now have ended: they are readers of RCU, and membarrier(2) waits for these. It does not
/// wait on one processor, nor with `nohz_full`, and filters of system calls can refuse it: then only the time that passes is
/// left.
#[allow(unsafe_code)]
pub(super) fn wait_for_programs() {
    const GLOBAL: std::ffi::c_int = 1;
    // SAFETY: the call takes no pointers.
    unsafe { libc::syscall(libc::SYS_membarrier, GLOBAL, 0, 0) };
}

/// Creates a file that runs the program when it is read. Its content is the output of the program.
pub(super) fn iterator(link: BorrowedFd<'_>) -> Result<OwnedFd, CallError> {
    call(Command::IterCreate, &IterCreate { link_fd: number(link), flags: 0 })
}

/// Attaches a program to its tracepoint. The kernel detaches it when the descriptor is closed.
pub(super) fn attach(program: BorrowedFd<'_>) -> Result<OwnedFd, CallError> {
    let attributes = RawTracepoint { name: 0, prog_fd: number(program), padding: 0 };
    call(Command::RawTracepointOpen, &attributes)
}

/// Makes a map.
pub(super) fn create_map(attributes: &MapCreate) -> Result<OwnedFd, CallError> {
    call(Command::MapCreate, attributes)
}

/// Makes a map of values of this type that belong to sockets: the kernel frees a value with its socket.
pub(super) fn create_socket_storage<Value>(map_name: [u8; 16]) -> Result<OwnedFd, CallError> {
    const SK_STORAGE: u32 = 24;
    const NO_PREALLOC: u32 = 1;
    let value_size = size_of::<Value>() as u32;
    let types = load_types(&StorageTypes::new(value_size))?;
    create_map(&MapCreate {
        map_type: SK_STORAGE,
        key_size: size_of::<u32>() as u32,
        value_size,
        map_flags: NO_PREALLOC,
        map_name,
        btf_fd: number(types.as_fd()),
        btf_key_type_id: StorageTypes::KEY,
        btf_value_type_id: StorageTypes::VALUE,
        ..MapCreate::default()
    })
}

/// An integer and a structure in BTF (`include/uapi/linux/btf.h`): the types of the keys and values.
#[repr(C)]
struct StorageTypes {
    magic: u16,
    version: u8,
    flags: u8,
    header_length: u32,
    types_offset: u32,
    types_length: u32,
    names_offset: u32,
    names_length: u32,
    key: Type,
    /// Follows the type of an integer.
    key_bits: u32,
    value: Type,
    names: [u8; 4],
}

/// `struct btf_type`
#[repr(C)]
struct Type {
    name: u32,
    info: u32,
    size: u32,
}

impl StorageTypes {
    // Types are counted from 1.
    const KEY: u32 = 1;
    const VALUE: u32 = 2;

    fn new(value_size: u32) -> StorageTypes {
        const INTEGER: u32 = 1 << 24;
        /// Without members.
        const STRUCTURE: u32 = 4 << 24;
        const TYPES: u32 = (offset_of!(StorageTypes, names) - offset_of!(StorageTypes, key)) as u32;
        StorageTypes {
            magic: 0xeb9f,
            version: 1,
            flags: 0,
            header_length: offset_of!(StorageTypes, key) as u32,
            types_offset: 0,
            types_length: TYPES,
            names_offset: TYPES,
            names_length: 4,
            // The name is at 1.
            key: Type { name: 1, info: INTEGER, size: 4 },
            key_bits: 32,
            value: Type { name: 1, info: STRUCTURE, size: value_size },
            names: *b"\0u\0\0",
        }
    }
}

fn load_types(types: &StorageTypes) -> Result<OwnedFd, CallError> {
    let attributes = BtfLoad {
        btf: std::ptr::from_ref(types).expose_provenance() as u64,
        log: 0,
        btf_size: size_of::<StorageTypes>() as u32,
        log_size: 0,
        log_level: 0,
        padding: 0,
    };
    call(Command::BtfLoad, &attributes)
}

/// A map with one value of N numbers, which programs add to.
#[derive(Debug)]
pub(super) struct Counters<const N: usize>(OwnedFd);

impl<const N: usize> Counters<N> {
    pub(super) fn create(map_name: [u8; 16]) -> Result<Counters<N>, CallError> {
        const MAP_TYPE_ARRAY: u32 = 2;
        create_map(&MapCreate {
            map_type: MAP_TYPE_ARRAY,
            key_size: size_of::<u32>() as u32,
            value_size: size_of::<[u64; N]>() as u32,
            max_entries: 1,
            map_name,
            ..MapCreate::default()
        })
        .map(Counters)
    }

    pub(super) fn get(&self) -> Result<[u64; N], CallError> {
        let index: u32 = 0;
        // The kernel writes as many bytes as the map's values have.
        let mut value = [0; N];
        let attributes = MapElement {
            map_fd: number(self.0.as_fd()),
            padding: 0,
            key: (&raw const index).expose_provenance() as u64,
            value: (&raw mut value).expose_provenance() as u64,
            flags: 0,
        };
        run(Command::MapLookupElem, &attributes)?;
        Ok(value)
    }
}

impl<const N: usize> AsFd for Counters<N> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The runs of a program that the kernel skipped.
pub(super) fn skipped(program: BorrowedFd<'_>) -> u64 {
    // The call does not fail for the descriptor of a program.
    program_info(program).map_or(0, |info| info.recursion_misses)
}

/// What the kernel reports about a program.
fn program_info(program: BorrowedFd<'_>) -> Result<ProgramInfo, CallError> {
    let mut info = ProgramInfo { _other: [0; 26], recursion_misses: 0 };
    let attributes = ObjectInfo {
        fd: number(program),
        length: size_of::<ProgramInfo>() as u32,
        info: (&raw mut info).expose_provenance() as u64,
    };
    run(Command::ObjGetInfoByFd, &attributes)?;
    Ok(info)
}

/// The objects of this kind in the kernel that still exist, as the kernel describes them: 64 bytes of their
/// `struct bpf_prog_info`, `bpf_map_info` or `bpf_link_info`, and more of a program's.
#[cfg(test)]
pub(super) fn objects(next: Command, open: Command) -> Vec<[u8; 80]> {
    #[repr(C)]
    struct ById {
        id: u32,
        next: u32,
        flags: u32,
    }
    let mut objects = Vec::new();
    let mut id = 0;
    loop {
        let mut attributes = ById { id, next: 0, flags: 0 };
        if run_mut(next, &mut attributes).is_err() {
            return objects;
        }
        id = attributes.next;
        // It can have ended in the meantime.
        let Ok(object) = call(open, &ById { id, next: 0, flags: 0 }) else { continue };
        let mut info = [0; 80];
        let attributes = ObjectInfo {
            fd: number(object.as_fd()),
            length: size_of_val(&info) as u32,
            info: (&raw mut info).expose_provenance() as u64,
        };
        if run(Command::ObjGetInfoByFd, &attributes).is_ok() {
            objects.push(info);
        }
    }
}

fn number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

/// Runs a command and returns the file descriptor that it makes, which is closed on exec.
#[allow(unsafe_code)]
fn call<T>(command: Command, attributes: &T) -> Result<OwnedFd, CallError> {
    let made = run(command, attributes)?;
    match RawFd::try_from(made) {
        // SAFETY: the commands that the callers above run here return a new file descriptor without another owner.
        Ok(made) => Ok(unsafe { OwnedFd::from_raw_fd(made) }),
        Err(_) => Err(CallError { command, errno: Errno::INVAL }),
    }
}

/// Runs a command that writes only behind the pointers in its attributes, and returns its result, which is not negative.
fn run<T>(command: Command, attributes: &T) -> Result<c_long, CallError> {
    run_at(command, std::ptr::from_ref(attributes))
}

/// The same with a command that writes to its attributes.
#[cfg(test)]
fn run_mut<T>(command: Command, attributes: &mut T) -> Result<c_long, CallError> {
    run_at(command, std::ptr::from_mut(attributes))
}

#[allow(unsafe_code)]
fn run_at<T>(command: Command, attributes: *const T) -> Result<c_long, CallError> {
    // SAFETY: the kernel reads as many bytes of the attributes as it is given the size of, and reads and
    // writes what they point to, which lives in the callers above until the call is over, and whose
    // pointers these have exposed.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command as c_long, attributes, size_of::<T>()) };
    if result >= 0 {
        return Ok(result);
    }
    let errno = Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::INVAL);
    Err(CallError { command, errno })
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
