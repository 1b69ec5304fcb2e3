//! The expected cells about a process that holds sockets.

use std::path::PathBuf;

use super::expected::ANY;

/// The columns about the process and its container.
pub(crate) const COLUMNS: [&str; 11] = [
    "process_name",
    "process_path",
    "process_cmdline",
    "process_parent",
    "process_uid",
    "process_euid",
    "process_start_time",
    "process_cgroup_path",
    CONTAINER_COLUMNS[0],
    CONTAINER_COLUMNS[1],
    CONTAINER_COLUMNS[2],
];
pub(crate) const CONTAINER_COLUMNS: [&str; 3] = ["container_id", "container_runtime", "pod_uid"];

/// The cells of a process of this host, whose name needs no escapes.
pub(crate) fn cells(pid: u32) -> [(&'static str, String); 11] {
    let directory = PathBuf::from(format!("/proc/{pid}"));
    let read = |file: &str| std::fs::read_to_string(directory.join(file)).unwrap();
    let status = read("status");
    let status_of = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    let uids = status_of("Uid:");
    let stat = read("stat");
    let ticks = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(19).unwrap();
    let boot = std::fs::read_to_string("/proc/stat").unwrap();
    let boot = boot.lines().find_map(|line| line.strip_prefix("btime ")).unwrap();
    let hertz = rustix::param::clock_ticks_per_second();
    let start = boot.parse::<u64>().unwrap() + ticks.parse::<u64>().unwrap() / hertz;
    let cgroup = read("cgroup");
    let cgroup = cgroup.lines().next().unwrap().splitn(3, ':').nth(2).unwrap();
    let executable = std::fs::read_link(directory.join("exe")).unwrap();
    let container = container_of_this_host().to_owned();
    [
        (COLUMNS[0], read("comm").trim_end().to_owned()),
        (COLUMNS[1], executable.to_str().unwrap().to_owned()),
        (COLUMNS[2], read("cmdline").replace('\0', " ").trim().to_owned()),
        (COLUMNS[3], status_of("PPid:")[0].clone()),
        (COLUMNS[4], uids[0].clone()),
        (COLUMNS[5], uids[1].clone()),
        (COLUMNS[6], start.to_string()),
        (COLUMNS[7], cgroup.to_owned()),
        (COLUMNS[8], container.clone()),
        (COLUMNS[9], container.clone()),
        (COLUMNS[10], container),
    ]
}

/// The container in which the tests run: none, or one that they do not know.
pub(crate) fn container_of_this_host() -> &'static str {
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap();
    let has_id =
        |name: &str| name.len() >= 64 || name.starts_with("lxc") || name.contains("machine");
    if groups.split('/').any(has_id) { ANY } else { "" }
}
