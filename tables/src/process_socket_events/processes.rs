//! The processes that records name, with the executables that the kernel reported.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use super::event::{Cgroup, Image, Process, TextBytes};
use super::number_hash::NumberMap;
use crate::model::tcp_event::{Actor, Executable};

/// The maximum number of executables: more than the kernel's program remembers as reported.
const MAX_IMAGES: usize = 8_192;
/// The maximum number of control groups.
const MAX_CGROUPS: usize = 4_096;
/// The number of paths that later executables can share.
const SHARED_PATHS: usize = 1_024;
/// The maximum number of images whose texts are still to be read.
const MAX_UNREAD: usize = 4_096;

/// The images of processes and the control groups that records have named lately.
#[derive(Debug)]
pub(super) struct Processes {
    images: Recent<(i32, u64), Known>,
    cgroups: Recent<u64, Arc<Cgroup>>,
    paths: Vec<Option<Arc<[u8]>>>,
    hash: RandomState,
    texts: TextBytes,
    unread: Vec<Arc<Image>>,
}

/// A process whose executable is known.
#[derive(Debug)]
struct Known {
    executable: u64,
    image: Arc<Image>,
    /// The process of its last event, which the next ones usually share.
    last: Option<Arc<Process>>,
}

impl Processes {
    pub(super) fn new(texts: TextBytes) -> Processes {
        Processes {
            images: Recent::new(MAX_IMAGES),
            cgroups: Recent::new(MAX_CGROUPS),
            paths: vec![None; SHARED_PATHS],
            hash: RandomState::new(),
            texts,
            unread: Vec::new(),
        }
    }

    /// Records an executable that the kernel reports.
    pub(super) fn add(&mut self, executable: Executable) {
        let Executable { pid, start_ns, executable, path, .. } = executable;
        let key = (pid, start_ns);
        // A process that replaces its executable keeps its pid and start.
        let image = match self.images.get(&key) {
            Some(known) if known.executable == executable && !known.image.has_path() => {
                Arc::clone(&known.image)
            }
            _ => self.new_image(pid, start_ns, executable),
        };
        image.set_path(self.shared(&path));
        self.images.insert(key, Known { executable, image, last: None });
    }

    fn new_image(&mut self, pid: i32, start_ns: u64, executable: u64) -> Arc<Image> {
        let image = Image::new(pid, start_ns, executable, &self.texts);
        if self.unread.len() < MAX_UNREAD {
            self.unread.push(Arc::clone(&image));
        }
        image
    }

    /// The path, shared with others if it was seen lately.
    fn shared(&mut self, path: &[u8]) -> Arc<[u8]> {
        let index = usize::try_from(self.hash.hash_one(path) % SHARED_PATHS as u64);
        let Some(slot) = index.ok().and_then(|index| self.paths.get_mut(index)) else {
            return path.into();
        };
        match slot {
            Some(shared) if **shared == *path => Arc::clone(shared),
            _ => Arc::clone(slot.insert(path.into())),
        }
    }

    /// The image of a process that executes `executable`; 0 if it is exiting.
    pub(super) fn image(&mut self, pid: i32, start_ns: u64, executable: u64) -> Arc<Image> {
        let key = (pid, start_ns);
        if let Some(known) = self.images.get(&key)
            && (executable == 0 || known.executable == executable)
        {
            return Arc::clone(&known.image);
        }
        let image = self.new_image(pid, start_ns, executable);
        // Without its executable, another event of the process has nothing to share.
        if executable != 0 {
            let known = Known { executable, image: Arc::clone(&image), last: None };
            self.images.insert(key, known);
        }
        image
    }

    fn cgroup(&mut self, id: u64) -> Option<Arc<Cgroup>> {
        if id == 0 {
            return None;
        }
        if let Some(cgroup) = self.cgroups.get(&id) {
            return Some(Arc::clone(cgroup));
        }
        let cgroup = Cgroup::new(id);
        self.cgroups.insert(id, Arc::clone(&cgroup));
        Some(cgroup)
    }

    /// The process of this actor: `same`, or that of its last event, if it is equal.
    pub(super) fn process(&mut self, actor: &Actor, same: Option<&Arc<Process>>) -> Arc<Process> {
        if let Some(process) = same.filter(|process| is_same(process, actor)) {
            return Arc::clone(process);
        }
        let key = (actor.pid, actor.start_ns);
        let last = self.images.get(&key).and_then(|known| known.last.as_ref());
        if let Some(process) = last.filter(|process| is_same(process, actor)) {
            return Arc::clone(process);
        }
        let process = Arc::new(Process {
            pid: actor.pid,
            tid: Some(actor.tid),
            parent: Some(actor.parent),
            uid: Some(actor.uid),
            gid: Some(actor.gid),
            comm: Some(actor.comm),
            image: self.image(actor.pid, actor.start_ns, actor.executable),
            cgroup: self.cgroup(actor.cgroup),
        });
        if let Some(known) = self.images.get_mut(&key) {
            known.last = Some(Arc::clone(&process));
        }
        process
    }

    /// The images whose texts are not read yet, once.
    pub(super) fn take_unread(&mut self) -> Vec<Arc<Image>> {
        std::mem::take(&mut self.unread)
    }

    /// Forgets half of the images, and the last process of the others.
    pub(super) fn shrink(&mut self) {
        self.images.shrink(MAX_IMAGES / 2);
        self.images.entries.values_mut().for_each(|(known, _)| known.last = None);
    }

    /// The number of images that were evicted.
    pub(super) fn evicted(&self) -> u64 {
        self.images.evicted
    }
}

fn is_same(process: &Process, actor: &Actor) -> bool {
    process.pid == actor.pid
        && process.tid == Some(actor.tid)
        && process.image.start_ns == actor.start_ns
        && [0, process.image.executable].contains(&actor.executable)
        && process.uid == Some(actor.uid)
        && process.gid == Some(actor.gid)
        && process.parent == Some(actor.parent)
        && process.comm == Some(actor.comm)
        && process.cgroup.as_ref().map_or(0, |cgroup| cgroup.id) == actor.cgroup
}

/// A bounded map that forgets what was not used lately.
#[derive(Debug)]
struct Recent<K, V> {
    max: usize,
    entries: NumberMap<K, (V, bool)>,
    /// The keys in the order in which they are checked: one that was used since stays.
    keys: VecDeque<K>,
    evicted: u64,
}

impl<K: Copy + Eq + std::hash::Hash, V> Recent<K, V> {
    fn new(max: usize) -> Self {
        Recent { max, entries: NumberMap::default(), keys: VecDeque::new(), evicted: 0 }
    }

    fn get(&mut self, key: &K) -> Option<&V> {
        let (value, is_used) = self.entries.get_mut(key)?;
        *is_used = true;
        Some(value)
    }

    fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.entries.get_mut(key).map(|(value, _)| value)
    }

    fn insert(&mut self, key: K, value: V) {
        if self.entries.insert(key, (value, false)).is_none() {
            self.keys.push_back(key);
            self.shrink(self.max);
        }
    }

    fn shrink(&mut self, max: usize) {
        while self.entries.len() > max {
            let Some(key) = self.keys.pop_front() else { return };
            match self.entries.get_mut(&key) {
                Some((_, is_used)) if *is_used => {
                    *is_used = false;
                    self.keys.push_back(key);
                }
                _ => {
                    self.entries.remove(&key);
                    self.evicted += 1;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn processes() -> Processes {
        Processes::new(TextBytes::default())
    }

    fn executable(pid: i32, executable: u64, path: &str) -> Executable {
        let path = path.into();
        Executable { pid, start_ns: 1, executable, path, is_deleted: false, is_truncated: false }
    }

    #[test]
    fn a_process_that_replaces_its_executable_has_another_image() {
        let mut processes = processes();
        processes.add(executable(7, 100, "/bin/sh"));
        let first = processes.image(7, 1, 100);
        processes.add(executable(7, 200, "/bin/curl"));
        assert_eq!(processes.image(7, 1, 200).path(), b"/bin/curl");
        assert_eq!(first.path(), b"/bin/sh");
    }

    #[test]
    fn an_exiting_process_has_its_last_image() {
        let mut processes = processes();
        processes.add(executable(7, 100, "/bin/sh"));
        assert_eq!(processes.image(7, 1, 0).path(), b"/bin/sh");
        // The pid of another process.
        assert_eq!(processes.image(7, 2, 0).path(), b"");
    }

    #[test]
    fn an_executable_that_is_reported_late_names_earlier_events() {
        let mut processes = processes();
        let image = processes.image(7, 1, 100);
        processes.add(executable(7, 100, "/bin/sh"));
        assert_eq!(image.path(), b"/bin/sh");
    }

    #[test]
    fn the_number_of_images_is_bounded_and_used_ones_stay() {
        let mut processes = processes();
        processes.add(executable(1, 100, "/bin/used"));
        for pid in 2..30_000 {
            processes.add(executable(pid, 100, "/bin/true"));
            processes.image(1, 1, 100);
            processes.take_unread();
        }
        assert_eq!(processes.images.entries.len(), MAX_IMAGES);
        assert!(processes.images.keys.len() <= MAX_IMAGES + 1);
        assert_eq!(processes.image(1, 1, 100).path(), b"/bin/used");
        assert_eq!(processes.evicted(), 29_999 - MAX_IMAGES as u64);
    }

    #[test]
    fn equal_paths_are_shared() {
        let mut processes = processes();
        let (a, b) = (processes.shared(b"/bin/true"), processes.shared(b"/bin/true"));
        assert!(Arc::ptr_eq(&a, &b));
    }
}
