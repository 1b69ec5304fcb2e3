//! `readdir` of every `/proc/<pid>/fd` and `readlinkat` of every name there, on two threads.
//!
//! The thread that reads a directory queues its names in batches for both threads, which share the work
//! evenly even if one process holds most descriptors.

use std::collections::VecDeque;
use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use rustix::fs::{CWD, Mode, OFlags, RawDir, openat, readlinkat_raw};

/// Links in a batch: some milliseconds of work.
const BATCH: usize = 1024;

struct Batch {
    directory: Arc<OwnedFd>,
    names: Vec<CString>,
}

#[derive(Default)]
struct Work {
    pids: VecDeque<u32>,
    batches: Vec<Batch>,
    /// Threads that read a directory, and can queue more batches.
    readers: usize,
}

struct Walk {
    work: Mutex<Work>,
    more: Condvar,
}

enum Job {
    Directory(u32),
    Links(Batch),
}

/// Walks, and returns the number of links that it could read.
pub fn walk() -> io::Result<usize> {
    let mut pids = VecDeque::new();
    for entry in std::fs::read_dir("/proc")? {
        pids.extend(entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()));
    }
    let work = Mutex::new(Work { pids, ..Work::default() });
    let walk = Walk { work, more: Condvar::new() };
    Ok(std::thread::scope(|scope| {
        let other = scope.spawn(|| walk.run());
        walk.run() + other.join().unwrap_or_default()
    }))
}

impl Walk {
    fn run(&self) -> usize {
        let mut links = 0;
        while let Some(job) = self.next() {
            match job {
                Job::Links(batch) => links += read_links(&batch),
                Job::Directory(pid) => {
                    // The process has ended, or may not be read.
                    links += self.read_directory(pid).unwrap_or_default();
                    self.lock().readers -= 1;
                    self.more.notify_all();
                }
            }
        }
        links
    }

    /// Links before directories, so that few wait.
    fn next(&self) -> Option<Job> {
        let mut work = self.lock();
        loop {
            if let Some(batch) = work.batches.pop() {
                return Some(Job::Links(batch));
            }
            if let Some(pid) = work.pids.pop_front() {
                work.readers += 1;
                return Some(Job::Directory(pid));
            }
            if work.readers == 0 {
                return None;
            }
            work = self.more.wait(work).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Queues all full batches for either thread, and reads the rest itself.
    fn read_directory(&self, pid: u32) -> rustix::io::Result<usize> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = Arc::new(openat(CWD, format!("/proc/{pid}/fd"), flags, Mode::empty())?);
        let mut buffer = [MaybeUninit::uninit(); 32 * 1024];
        let mut entries = RawDir::new(&directory, &mut buffer);
        let mut names = Vec::new();
        while let Some(entry) = entries.next() {
            let Ok(entry) = entry else { break };
            if entry.file_name().to_bytes().starts_with(b".") {
                continue;
            }
            names.push(entry.file_name().to_owned());
            if names.len() == BATCH {
                let directory = Arc::clone(&directory);
                let names = std::mem::take(&mut names);
                self.lock().batches.push(Batch { directory, names });
                self.more.notify_one();
            }
        }
        Ok(read_links(&Batch { directory: Arc::clone(&directory), names }))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read_links(batch: &Batch) -> usize {
    let mut link = [MaybeUninit::uninit(); 64];
    let can_read =
        |name: &&CString| readlinkat_raw(&batch.directory, name.as_c_str(), &mut link[..]).is_ok();
    batch.names.iter().filter(can_read).count()
}
