//! Nothing stays in the kernel when the process ends.

use super::child::{spawn, wait_for_begin};
use super::this_binary::own_executable;
use super::*;
use crate::linux::bpf::calls::{Command, objects};
use crate::linux::cgroup;

fn word(info: &[u8; 80], offset: usize) -> u32 {
    u32::from_ne_bytes(info[offset..offset + 4].try_into().unwrap())
}

/// The programs with a name, by their numbers, and the number of maps.
fn named(name: &str) -> (Vec<u32>, usize) {
    const PROGRAM_NAME: usize = 64;
    const MAP_NAME: usize = 24;
    let is_named = |info: &[u8; 80], offset: usize| {
        info[offset..].starts_with(name.as_bytes()) && info[offset + name.len()] == 0
    };
    let programs = objects(Command::ProgGetNextId, Command::ProgGetFdById);
    let programs = programs.iter().filter(|info| is_named(info, PROGRAM_NAME));
    let maps = objects(Command::MapGetNextId, Command::MapGetFdById);
    let maps = maps.iter().filter(|info| is_named(info, MAP_NAME)).count();
    (programs.map(|info| word(info, 4)).collect(), maps)
}

/// The number of links of these programs.
fn links(programs: &[u32]) -> usize {
    const PROGRAM: usize = 8;
    let links = objects(Command::LinkGetNextId, Command::LinkGetFdById);
    links.iter().filter(|info| programs.contains(&word(info, PROGRAM))).count()
}

/// The kernel frees objects some time after their descriptors are closed.
fn wait_until_gone(name: &str, programs: &[u32]) {
    let end = Instant::now() + MAX_WAIT;
    while named(name) != (vec![], 0) || links(programs) != 0 {
        assert!(Instant::now() < end, "{:?}, {} links", named(name), links(programs));
        thread::yield_now();
    }
}

#[test]
fn a_dropped_source_leaves_nothing_in_the_kernel() {
    let test = "a_dropped_source_leaves_nothing_in_the_kernel";
    let mut name = [0; 16];
    let text = format!("dropped_{}", std::process::id() % 1_000_000);
    name[..text.len()].copy_from_slice(text.as_bytes());
    let settings = Settings { datagrams: EventDatagrams::ExactEnd, ..settings_named(name) };
    let Some(mut source) = start(test, &settings) else { return };
    source.begin_counting(&proc_root());
    let (programs, maps) = named(&text);
    let has_iterator = source.open_sockets.is_ok();
    let has_datagrams = Layout::of_running_kernel().send.is_some();
    // First sends; those that count, and the iterator over live sockets.
    let of_datagrams = if has_datagrams { 1 + 3 } else { 0 };
    let has_ends = has_datagrams && cgroup::hierarchy(&proc_root()).is_some();
    let count = 1 + usize::from(has_iterator) + of_datagrams + usize::from(has_ends);
    assert_eq!((programs.len(), maps), (count, if has_datagrams { 3 + 2 + 3 } else { 3 }));
    // That for first sends is detached when another one counts.
    assert_eq!(links(&programs), count - usize::from(has_datagrams));
    assert!((1_000_000..5_000_000).contains(&source.memory()), "{}", source.memory());
    let programs_that_run = source.programs();
    let expected = [
        (TRACEPOINT, true),
        (SEND, has_datagrams),
        (RECEIVE, has_datagrams),
        (RELEASE, has_ends),
        (PATHS, true),
        (ITERATOR, has_iterator),
    ];
    let runs = |(name, runs): &(_, Result<(), String>)| (*name, runs.is_ok());
    assert!(programs_that_run.iter().map(runs).eq(expected), "{programs_that_run:?}");
    drop(source);
    wait_until_gone(&text, &programs);
}

/// As lockdown requires it in its confidentiality mode.
#[test]
fn the_program_loads_without_paths() {
    let test = "the_program_loads_without_paths";
    if start(test, &Settings::default()).is_none() {
        return;
    }
    let layout = read_layout(&Layout::names(), Layout::of).unwrap();
    let maps = OwnedMaps::create(RING_SIZE, &Settings::default().names).unwrap();
    let variant = Variant { maps: maps.of_program(), namespace: None, has_paths: false };
    let code = state_program::program(&layout, &variant).unwrap();
    let calls = code.iter().filter(|it| it.to_string() == "call #113").count();
    // Before Linux 5.11 members of the task are copied.
    assert_eq!(calls == 0, layout.has_typed_task);
    Program::tracepoint(*b"without_paths\0\0\0", &code, layout.tracepoint).load(&mut []).unwrap();
    if layout.send.is_some() {
        Datagrams::start(&layout, &variant, &Settings::default().names).unwrap();
    }
}

#[test]
fn sigkill_leaves_nothing_in_the_kernel() {
    let test = "sigkill_leaves_nothing_in_the_kernel";
    if start(test, &Settings::default()).is_none() {
        return;
    }
    let name = format!("killed_{}", std::process::id() % 1_000_000);
    let mut programs = Vec::new();
    for round in 0..100 {
        let mut child = spawn(&own_executable(), &format!("collect {name}"));
        // At a random moment of the start, or when it runs.
        if round % 4 == 0 {
            wait_for_begin(&mut child);
        } else {
            let pause = child.id().wrapping_mul(2_654_435_761) % 30_000;
            thread::sleep(Duration::from_micros(pause.into()));
        }
        let (seen, _) = named(&name);
        assert!(round % 4 != 0 || !seen.is_empty());
        programs.extend(seen);
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(programs.len() >= 25);
    wait_until_gone(&name, &programs);
}
