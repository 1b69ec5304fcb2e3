//! Reads of `/proc` for events: command lines, and names of the holders of sockets that were open already.
//!
//! A process can block a read of its memory. So these reads have threads of their own; a thread that is blocked is
//! replaced, up to a limit. A text that could not be read in time stays ''.

use std::collections::VecDeque;
use std::io;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::event::{Cgroup, Event, Image, MAX_CMDLINE};
use crate::formats::linux::proc_cgroup::innermost_container;
use crate::linux::cgroup;
use crate::linux::proc_root::{ProcRoot, Process};

/// The maximum number of images that wait.
const MAX_WAITING: usize = 4_096;
/// A thread that reads one process for longer is replaced.
const BLOCKED: Duration = Duration::from_secs(1);
/// The maximum number of threads, including blocked ones.
const MAX_THREADS: usize = 8;
/// An idle thread ends after this time.
const IDLE: Duration = Duration::from_secs(60);

/// The images that are to be read, and the threads that read them.
#[derive(Debug)]
pub(super) struct Texts {
    procfs: PathBuf,
    state: Mutex<State>,
    /// Notified when images wait, when a thread has read one, and at the end.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Arc<Image>>,
    /// Since when each thread reads its image, by the number of the thread.
    reading: Vec<(u64, Instant)>,
    threads: usize,
    idle: usize,
    last_thread: u64,
    is_over: bool,
}

impl Texts {
    pub(super) fn new(procfs: PathBuf) -> Arc<Texts> {
        Arc::new(Texts { procfs, state: Mutex::default(), changed: Condvar::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads these images soon. If too many wait, the oldest stay unread.
    pub(super) fn read_soon(self: &Arc<Self>, images: Vec<Arc<Image>>) {
        if images.is_empty() {
            return;
        }
        let mut state = self.state();
        state.waiting.extend(images);
        let excess = state.waiting.len().saturating_sub(MAX_WAITING);
        state.waiting.drain(..excess);
        let is_read = state.reading.iter().any(|(_, since)| since.elapsed() < BLOCKED);
        if state.idle > 0 || is_read || state.threads >= MAX_THREADS || state.is_over {
            self.changed.notify_all();
            return;
        }
        state.threads += 1;
        state.last_thread += 1;
        let (texts, number) = (Arc::clone(self), state.last_thread);
        let started = thread::Builder::new().name("texts".into()).spawn(move || texts.run(number));
        if started.is_err() {
            state.threads -= 1;
        }
    }

    /// Waits until no image waits or is read.
    pub(super) fn wait(&self, timeout: Duration) {
        let is_busy = |state: &mut State| {
            let reads = state.reading.iter().any(|(_, since)| since.elapsed() < BLOCKED);
            reads || (!state.waiting.is_empty() && state.threads > state.reading.len())
        };
        drop(self.changed.wait_timeout_while(self.state(), timeout, is_busy));
    }

    /// Ends the threads. One that is blocked ends later.
    pub(super) fn end(&self) {
        let mut state = self.state();
        state.is_over = true;
        state.waiting.clear();
        self.changed.notify_all();
    }

    fn run(&self, number: u64) {
        let root = ProcRoot::open(&self.procfs);
        while let Some(image) = self.next(number) {
            if let Ok(root) = &root {
                // A process that has ended cannot be read.
                let _ = read(root, &image);
            }
        }
        self.state().threads -= 1;
    }

    /// The next image; None at the end, and after some time without one.
    fn next(&self, number: u64) -> Option<Arc<Image>> {
        let mut state = self.state();
        state.reading.retain(|(reader, _)| *reader != number);
        self.changed.notify_all();
        let is_idle = |state: &mut State| state.waiting.is_empty() && !state.is_over;
        if is_idle(&mut state) {
            state.idle += 1;
            let waited = self.changed.wait_timeout_while(state, IDLE, is_idle);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            state.idle -= 1;
        }
        let image = state.waiting.pop_front().filter(|_| !state.is_over)?;
        state.reading.push((number, Instant::now()));
        Some(image)
    }
}

/// Reads the texts of a process, if it still executes the image.
fn read(root: &ProcRoot, image: &Image) -> io::Result<()> {
    /// The unit of times in `stat` (proc_pid_stat(5)), the same on every processor.
    const TICK_NS: u64 = 10_000_000;
    let process = root.process(image.pid)?;
    let stat = process.read("stat")?;
    let Some((name, start)) = name_and_start(&stat) else { return Ok(()) };
    if start != image.start_ns / TICK_NS {
        return Ok(());
    }
    if let Ok(cgroup) = process.read("cgroup") {
        image.set_container(innermost_container(&cgroup));
    }
    let cmdline = read_cmdline(root, image.pid, &process)?;
    // A process can execute another file in between. Without a path, as for a kernel thread, there is no link.
    let path =
        process.link("exe", |path| path.strip_suffix(b" (deleted)").unwrap_or(path).to_vec());
    let path = path.unwrap_or_default();
    match image.known_path() {
        Some(known) if *known == *path => image.set_cmdline(&cmdline),
        None if image.executable == 0 => {
            image.set_path(path.into());
            image.set_name(name);
            image.set_cmdline(&cmdline);
        }
        _ => {}
    }
    Ok(())
}

/// The command line with blanks between the arguments.
fn read_cmdline(root: &ProcRoot, pid: i32, process: &Process<'_>) -> io::Result<Vec<u8>> {
    let mut text = vec![0; MAX_CMDLINE];
    let _step = root.step(pid)?;
    let length = rustix::io::read(process.file("cmdline")?, &mut text[..])?;
    text.truncate(length);
    for byte in text.iter_mut().filter(|byte| **byte == 0) {
        *byte = b' ';
    }
    Ok(text.trim_ascii().to_vec())
}

/// The name and the start in ticks (proc_pid_stat(5)). A name can have blanks and parentheses.
fn name_and_start(stat: &[u8]) -> Option<(&[u8], u64)> {
    let first = stat.iter().position(|&byte| byte == b'(')?;
    let last = stat.iter().rposition(|&byte| byte == b')')?;
    let name = stat.get(first + 1..last)?;
    // The field after the name is the third, the start the 22nd.
    let start = stat.get(last + 2..)?.split(|&byte| byte == b' ').nth(22 - 3)?;
    Some((name, str::from_utf8(start).ok()?.parse().ok()?))
}

/// Finds the paths of the control groups of these events, as far as they are unknown. Those that are not found stay
/// unknown from now on.
pub(super) fn find_cgroups(procfs: &std::path::Path, events: &[Arc<Event>]) {
    let processes = events.iter().flat_map(|event| {
        let opener = event.ended.as_ref().and_then(|ended| ended.opener.as_ref());
        [event.process.as_ref(), opener]
    });
    let cgroups = processes.flatten().filter_map(|process| process.cgroup.as_ref());
    let unknown: Vec<&Arc<Cgroup>> = cgroups.filter(|cgroup| !cgroup.has_path()).collect();
    if unknown.is_empty() {
        return;
    }
    let Ok(root) = ProcRoot::open(procfs) else { return };
    let paths = cgroup::paths(&root, unknown.iter().filter_map(|it| NonZeroU64::new(it.id)));
    for cgroup in unknown {
        let path = NonZeroU64::new(cgroup.id).and_then(|id| paths.get(&id));
        cgroup.set_path(path.map(|path| &**path).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process_socket_events::event::TextBytes;

    #[test]
    fn a_name_with_blanks_and_parentheses_is_read_whole() {
        let stat = b"7 (a) b) (c) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 998877 1 2 3\n";
        assert_eq!(name_and_start(stat), Some((&b"a) b) (c"[..], 998_877)));
        for stat in ["", "7", "7 (a", "7 (a)", "7 (a) S", "7 )a( S 1", "7 (a) S 1 2 3 x"] {
            assert_eq!(name_and_start(stat.as_bytes()), None, "{stat:?}");
        }
    }

    /// The start of this process in nanoseconds, as exactly as /proc has it.
    fn own_start() -> u64 {
        let stat = std::fs::read("/proc/self/stat").unwrap();
        name_and_start(&stat).unwrap().1 * 10_000_000
    }

    fn own_image(start_ns: u64, executable: u64) -> Arc<Image> {
        let pid = i32::try_from(std::process::id()).unwrap();
        Image::new(pid, start_ns, executable, &TextBytes::default())
    }

    fn read_all(images: &[&Arc<Image>]) {
        let texts = Texts::new("/proc".into());
        texts.read_soon(images.iter().map(|image| Arc::clone(image)).collect());
        texts.wait(Duration::from_secs(60));
        texts.end();
    }

    #[test]
    fn a_process_that_holds_an_open_socket_is_read() {
        let image = own_image(own_start() + 5, 0);
        read_all(&[&image]);
        let executable = std::env::current_exe().unwrap();
        assert_eq!(image.path(), executable.as_os_str().as_encoded_bytes());
        let first = std::env::args_os().next().unwrap();
        assert!(image.cmdline().starts_with(first.as_encoded_bytes()));
    }

    #[test]
    fn a_process_with_another_start_is_not_read() {
        let image = own_image(own_start() + 10_000_000, 0);
        read_all(&[&image]);
        assert_eq!((image.path(), image.cmdline()), (&b""[..], &b""[..]));
    }

    #[test]
    fn the_command_line_of_another_executable_is_not_read() {
        let (same, other) = (own_image(own_start(), 1), own_image(own_start(), 1));
        let executable = std::env::current_exe().unwrap();
        same.set_path(executable.as_os_str().as_encoded_bytes().into());
        other.set_path(b"/bin/other".as_slice().into());
        read_all(&[&same, &other]);
        assert!(!same.cmdline().is_empty());
        assert_eq!(other.cmdline(), b"");
    }
}
