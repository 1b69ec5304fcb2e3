//! What a query reads of the processes that hold sockets (libproc, and KERN_PROCARGS2).

use std::io;

use super::calls::{Calls, is_gone};
use crate::formats::macos::{proc_bsdinfo, procargs2};
use crate::model::omission::{OmissionKind, Omissions};
use crate::model::process::{joined_arguments, lossy};
use crate::model::{Process, ProcessFields};

/// When a process started: seconds and microseconds. With the pid, it identifies the process.
pub(crate) type StartTime = (u64, u64);

/// PROC_PIDPATHINFO_MAXSIZE.
const MAX_PATH: usize = 4096;
/// ARG_MAX, with room for the path and the alignment. The kernel returns the end of a longer value.
const MAX_VALUE: usize = 1024 * 1024 + 8192;
/// The maximum length of the arguments of a process. Longer ones are cut off.
const MAX_ARGUMENTS: usize = 32 * 1024;
/// This length of each process is kept even if [`MAX_TOTAL`] is exceeded.
const MIN_ARGUMENTS: usize = 1024;
/// The maximum length of all arguments together, besides the kept ones.
const MAX_TOTAL: usize = 32 * 1024 * 1024;

/// When the process started; None if it has ended or its information cannot be read.
pub(crate) fn start_time(calls: &Calls, pid: i32) -> Option<StartTime> {
    info(calls, pid).ok().map(|info| info.start)
}

/// Reads processes of one query.
#[derive(Debug)]
pub(crate) struct ProcessReader<'a> {
    calls: &'a Calls,
    fields: ProcessFields,
    /// The length of the arguments beyond [`MIN_ARGUMENTS`] of each process.
    arguments: usize,
    pub(crate) omissions: Omissions,
}

impl<'a> ProcessReader<'a> {
    pub(crate) fn new(calls: &'a Calls, fields: ProcessFields) -> ProcessReader<'a> {
        ProcessReader { calls, fields, arguments: 0, omissions: Omissions::default() }
    }

    /// None if the process has ended, also if another process has its pid.
    pub(crate) fn read(&mut self, pid: i32, start: StartTime) -> Option<Process> {
        let info = self.noted(pid, info(self.calls, pid))?;
        let mut process = Process::default();
        if self.fields.contains(ProcessFields::PARENT) {
            process.parent = Some(info.parent);
        }
        if self.fields.contains(ProcessFields::UIDS) {
            process.uids = Some((info.real_uid, info.effective_uid));
        }
        if self.fields.contains(ProcessFields::START_TIME) {
            process.start_time = i64::try_from(info.start.0).ok();
        }
        let mut path = None;
        if self.fields.intersects(ProcessFields::PATH | ProcessFields::NAME) {
            path = self.noted(pid, self.path(pid));
        }
        if self.fields.contains(ProcessFields::NAME) {
            // The kernel keeps 31 bytes of a name.
            let file = path.as_deref().and_then(|path| path.rsplit(|&byte| byte == b'/').next());
            process.name = Some(lossy(file.unwrap_or(&info.name)));
        }
        if self.fields.contains(ProcessFields::PATH) {
            process.path = path.as_deref().map(lossy);
        }
        if self.fields.contains(ProcessFields::CMDLINE) {
            process.cmdline = self.cmdline(pid);
        }
        // Each call takes the pid, which another process can have meanwhile.
        let now = self::info(self.calls, pid).ok()?;
        (info.start == start && now.start == start).then_some(process)
    }

    fn path(&self, pid: i32) -> io::Result<Vec<u8>> {
        let mut path = vec![0; MAX_PATH];
        let length = (self.calls.path)(pid, &mut path)?;
        path.truncate(length);
        Ok(path)
    }

    fn cmdline(&mut self, pid: i32) -> Option<Box<str>> {
        let value = self.noted(pid, self.arguments_value(pid))?;
        let arguments = procargs2::arguments(&value)?;
        let room = MAX_TOTAL.saturating_sub(self.arguments);
        let kept = arguments.get(..MAX_ARGUMENTS.min(room.max(MIN_ARGUMENTS)));
        if kept.is_some_and(|kept| kept.len() < arguments.len()) {
            self.omissions.add(OmissionKind::CommandLine, || format!("process {pid}"));
        }
        let kept = kept.unwrap_or(arguments);
        self.arguments += kept.len().saturating_sub(MIN_ARGUMENTS);
        Some(joined_arguments(kept))
    }

    fn arguments_value(&self, pid: i32) -> io::Result<Vec<u8>> {
        let room = (self.calls.arguments)(pid, &mut [])?;
        let mut value = vec![0; room.saturating_add(1).min(MAX_VALUE)];
        let length = (self.calls.arguments)(pid, &mut value)?;
        value.truncate(length);
        Ok(value)
    }

    /// The result of a call. An error is counted, unless the process has ended.
    fn noted<T>(&mut self, pid: i32, result: io::Result<T>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) if is_gone(&error) => None,
            Err(error) => {
                self.omissions.add(OmissionKind::Process, || format!("process {pid}: {error}"));
                None
            }
        }
    }
}

fn info(calls: &Calls, pid: i32) -> io::Result<proc_bsdinfo::BsdInfo> {
    let mut answer = [0; proc_bsdinfo::LENGTH];
    let length = (calls.info)(pid, &mut answer)?;
    let info = answer.get(..length).and_then(proc_bsdinfo::parse);
    info.ok_or_else(|| io::Error::other("PROC_PIDTBSDINFO returned a short record"))
}
