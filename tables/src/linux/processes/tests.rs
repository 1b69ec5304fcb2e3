use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::linux::steps::Steps;
use crate::model::ContainerRuntime;

const PID: i32 = 7;
const START: u64 = 500;

/// A tree in the form of proc with one process.
fn tree() -> TempDir {
    let tree = TempDir::with_prefix("proc-tree").unwrap();
    symlink("1", tree.path().join("self")).unwrap();
    fs::write(tree.path().join("stat"), "cpu 1\nbtime 1000\n").unwrap();
    let process = tree.path().join("7");
    fs::create_dir_all(process.join("task/7")).unwrap();
    write(&tree, "stat", &stat('S', 1, START));
    write(&tree, "status", "Name:\ta b\nUmask:\t0022\nPPid:\t3\nUid:\t1000\t0\t0\t0\n");
    write(&tree, "cmdline", "a\0b c\0");
    write(&tree, "cgroup", "4:memory:/x\n0::/lxc.payload.web\n");
    symlink("/bin/a b", process.join("exe")).unwrap();
    tree
}

fn stat(state: char, threads: i32, start: u64) -> String {
    format!("7 (a) b) {state} 3 7 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 {threads} 0 {start} 0 0\n")
}

fn write(tree: &TempDir, file: &str, text: &str) {
    fs::write(tree.path().join("7").join(file), text).unwrap();
}

fn read_with(tree: &Path, fields: ProcessFields, steps: Steps) -> (Option<Process>, Omissions) {
    let root = ProcRoot::open_for(tree, Arc::new(steps)).unwrap();
    let reader = ProcessReader::new(fields, vec![(PID, START)]);
    reader.read(&root, Deadline::NEVER);
    let (processes, omissions) = reader.finish(tree);
    (processes.get(PID).cloned(), omissions)
}

fn read(tree: &TempDir, fields: ProcessFields) -> (Option<Process>, Omissions) {
    let steps = Steps::new(Arc::default(), tree.path(), Duration::MAX);
    read_with(tree.path(), fields, steps)
}

fn kinds(omissions: &Omissions) -> Vec<(OmissionKind, u64)> {
    omissions.iter().map(|omission| (omission.kind, omission.count)).collect()
}

#[test]
fn every_field_comes_from_its_file() {
    let (process, omissions) = read(&tree(), ProcessFields::all());
    let process = process.unwrap();
    assert!(omissions.iter().next().is_none(), "{omissions:?}");
    let texts = [process.name, process.path, process.cmdline, process.cgroup_path];
    assert_eq!(texts.map(Option::unwrap), ["a b", "/bin/a b", "a b c", "/x"].map(Box::from));
    assert_eq!((process.parent, process.uids), (Some(3), Some((1000, 0))));
    let since = START / rustix::param::clock_ticks_per_second();
    assert_eq!(process.start_time, Some(1000 + i64::try_from(since).unwrap()));
    let container = process.container.unwrap();
    assert_eq!(container.id.as_deref(), Some("web"));
    assert_eq!(container.runtime, Some(ContainerRuntime::Lxc));
}

#[test]
fn only_the_files_of_the_used_fields_are_read() {
    for (fields, expected) in [
        (ProcessFields::NAME, vec!["stat", "status"]),
        (ProcessFields::UIDS, vec!["stat", "status"]),
        (ProcessFields::PARENT, vec!["stat"]),
        (ProcessFields::START_TIME, vec!["stat"]),
        (ProcessFields::PATH, vec!["stat", "exe"]),
        (ProcessFields::CMDLINE, vec!["stat", "cmdline"]),
        (ProcessFields::CONTAINER, vec!["stat", "cgroup"]),
        (ProcessFields::CGROUP_PATH, vec!["stat", "cgroup"]),
    ] {
        assert_eq!(files(fields), expected);
        let tree = tree();
        // A read of a directory would be an omission.
        for file in ["status", "cmdline", "cgroup", "exe"] {
            if !expected.contains(&file) {
                fs::remove_file(tree.path().join("7").join(file)).unwrap();
                fs::create_dir(tree.path().join("7").join(file)).unwrap();
            }
        }
        let (process, omissions) = read(&tree, fields);
        assert!(process.is_some() && omissions.iter().next().is_none(), "{fields:?}");
    }
}

#[test]
fn a_process_with_another_start_time_is_another_process() {
    let tree = tree();
    write(&tree, "stat", &stat('S', 1, START + 1));
    let (process, omissions) = read(&tree, ProcessFields::all());
    assert_eq!((process, kinds(&omissions)), (None, vec![]));
}

#[test]
fn a_process_that_has_ended_is_skipped() {
    let tree = tree();
    fs::remove_dir_all(tree.path().join("7")).unwrap();
    let (process, omissions) = read(&tree, ProcessFields::all());
    assert_eq!((process, kinds(&omissions)), (None, vec![]));
}

#[test]
fn what_cannot_be_read_is_counted_and_the_rest_is_shown() {
    let tree = tree();
    for file in ["cmdline", "exe"] {
        fs::remove_file(tree.path().join("7").join(file)).unwrap();
        fs::create_dir(tree.path().join("7").join(file)).unwrap();
    }
    let (process, omissions) = read(&tree, ProcessFields::all());
    let process = process.unwrap();
    assert_eq!((process.path, process.cmdline), (None, None));
    assert_eq!(process.name.as_deref(), Some("a b"));
    assert_eq!(kinds(&omissions), [(OmissionKind::Process, 2)]);
    let first = &omissions.iter().next().unwrap().first;
    assert!(first.contains("/7/exe: Invalid argument"), "{first}");
}

#[test]
fn a_kernel_thread_has_an_empty_path_and_no_arguments() {
    let tree = tree();
    fs::remove_file(tree.path().join("7/exe")).unwrap();
    write(&tree, "cmdline", "");
    let process = read(&tree, ProcessFields::all()).0.unwrap();
    assert_eq!((process.path.as_deref(), process.cmdline.as_deref()), (Some(""), Some("")));
}

#[test]
fn a_running_thread_shows_what_an_ended_leader_lacks() {
    let tree = tree();
    write(&tree, "stat", &stat('Z', 2, START));
    fs::remove_file(tree.path().join("7/exe")).unwrap();
    write(&tree, "cmdline", "");
    for tid in ["8", "9"] {
        fs::create_dir(tree.path().join("7/task").join(tid)).unwrap();
    }
    write(&tree, "task/8/stat", &stat('Z', 2, START));
    write(&tree, "task/9/stat", &stat('S', 2, START));
    write(&tree, "task/9/cmdline", "of\0a thread\0");
    symlink("/bin/thread", tree.path().join("7/task/9/exe")).unwrap();
    let process = read(&tree, ProcessFields::PATH | ProcessFields::CMDLINE).0.unwrap();
    assert_eq!(process.path.as_deref(), Some("/bin/thread"));
    assert_eq!(process.cmdline.as_deref(), Some("of a thread"));
}

#[test]
fn a_process_that_blocks_its_start_time_is_counted() {
    let tree = tree();
    // Without a budget every step is skipped.
    let steps = Steps::new(Arc::default(), tree.path(), Duration::ZERO);
    let (process, omissions) = read_with(tree.path(), ProcessFields::all(), steps);
    assert_eq!((process, kinds(&omissions)), (None, vec![(OmissionKind::ProcessBlocked, 1)]));
}

#[test]
fn an_abandoned_attempt_leaves_processes_to_the_next() {
    let tree = tree();
    let steps = Arc::new(Steps::new(Arc::default(), tree.path(), Duration::MAX));
    let root = ProcRoot::open_for(tree.path(), Arc::clone(&steps)).unwrap();
    let reader = ProcessReader::new(ProcessFields::all(), vec![(PID, START)]);
    steps.abandon();
    reader.read(&root, Deadline::new(None, steps.abandoned()));
    let root = ProcRoot::open(tree.path()).unwrap();
    reader.read(&root, Deadline::NEVER);
    let (processes, omissions) = reader.finish(tree.path());
    assert_eq!(processes.get(PID).unwrap().path.as_deref(), Some("/bin/a b"));
    assert_eq!(kinds(&omissions), []);
}

#[test]
fn processes_that_were_not_read_in_time_are_counted() {
    let tree = tree();
    let reader = ProcessReader::new(ProcessFields::all(), vec![(PID, START)]);
    reader.read(&ProcRoot::open(tree.path()).unwrap(), Deadline::after(Duration::ZERO));
    let (processes, omissions) = reader.finish(tree.path());
    assert_eq!(processes.get(PID), None);
    assert_eq!(kinds(&omissions), [(OmissionKind::Deadline, 1)]);
}

#[test]
fn long_arguments_are_cut_off_and_counted() {
    let tree = tree();
    for (length, is_cut) in [(MAX_ARGUMENTS, false), (MAX_ARGUMENTS + 1, true)] {
        write(&tree, "cmdline", &"x".repeat(length));
        let (process, omissions) = read(&tree, ProcessFields::CMDLINE);
        assert_eq!(process.unwrap().cmdline.unwrap().len(), MAX_ARGUMENTS);
        assert_eq!(omissions.has(OmissionKind::CommandLine), is_cut, "{length}");
    }
}

#[test]
fn each_process_keeps_the_start_of_its_arguments() {
    let tree = tree();
    write(&tree, "cmdline", &"x".repeat(MAX_ARGUMENTS));
    let reader = ProcessReader::new(ProcessFields::CMDLINE, vec![(PID, START)]);
    reader.state().arguments = MAX_TOTAL;
    reader.read(&ProcRoot::open(tree.path()).unwrap(), Deadline::NEVER);
    let (processes, omissions) = reader.finish(tree.path());
    let cmdline = processes.get(PID).unwrap().cmdline.as_deref().unwrap();
    assert_eq!(cmdline.len(), MIN_ARGUMENTS);
    assert!(omissions.has(OmissionKind::CommandLine));
}
