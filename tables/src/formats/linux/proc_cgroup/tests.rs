//! Each fixture with the container that it shows.

use super::*;
use crate::model::ContainerRuntime;

use std::collections::BTreeSet;
use std::path::Path;

/// The ids in the fixtures.
const A: &str = "4f797c539e6c745de61a93ca3ff892358ecbcaccd8414d5db545c38428142970";
const B: &str = "9ec39b91f3d70e1beff50a308f77067065ea6be0d91a3378375056cd4422cf3d";
const POD: &str = "87a18a64-b74a-454a-b10b-a4a36059d0a3";

/// File, container id, runtime and pod.
const FIXTURES: [(&str, &str, &str, &str); 68] = [
    ("docker-v1-cgroupfs", A, "docker", ""),
    ("docker-v1-systemd", A, "docker", ""),
    ("docker-hybrid-cgroupfs", A, "docker", ""),
    ("docker-hybrid-unified-root", A, "docker", ""),
    ("docker-v2-cgroupfs", A, "docker", ""),
    ("docker-v2-systemd", A, "docker", ""),
    ("docker-v2-rootless", A, "docker", ""),
    ("docker-v2-own-parent", A, "", ""),
    ("docker-in-docker-v2", B, "docker", ""),
    ("docker-in-lxc-v2", A, "docker", ""),
    ("docker-init-subgroup-v2", A, "docker", ""),
    ("containerd-kubernetes-v1-cgroupfs-besteffort", A, "", POD),
    ("containerd-kubernetes-v2-cgroupfs-burstable", A, "", POD),
    ("containerd-kubernetes-v2-cgroupfs-guaranteed", A, "", POD),
    ("containerd-kubernetes-v1-systemd-burstable", A, "containerd", POD),
    ("containerd-kubernetes-v2-systemd-besteffort", A, "containerd", POD),
    ("containerd-kubernetes-v2-systemd-guaranteed", A, "containerd", POD),
    ("containerd-kubernetes-v1-mixed-drivers", A, "containerd", POD),
    ("kubernetes-static-pod-v2", A, "containerd", "0123456789abcdef0123456789abcdef"),
    ("kubernetes-cgroup-root-v2", A, "containerd", POD),
    ("kind-v1-cgroupfs", A, "", POD),
    ("kubernetes-in-kubernetes-v2", A, "", POD),
    ("docker-in-pod-v2", A, "docker", POD),
    ("docker-kubernetes-v1-systemd", A, "docker", POD),
    ("pod-without-container-v2", "", "", POD),
    ("k3s-v2-cgroupfs", A, "", POD),
    ("k3s-v2-systemd", A, "containerd", POD),
    ("nerdctl-v2-systemd", A, "containerd", ""),
    ("nerdctl-v1-cgroupfs", A, "", ""),
    ("crio-v1-systemd", A, "cri-o", POD),
    ("crio-v2-systemd-crun", A, "cri-o", POD),
    ("crio-v2-cgroupfs", A, "cri-o", POD),
    ("crio-conmon-v2", "", "", POD),
    ("podman-v1-rootful", A, "podman", ""),
    ("podman-v2-rootful", A, "podman", ""),
    ("podman-v2-rootful-pod", A, "podman", ""),
    ("podman-v2-rootless", A, "podman", ""),
    ("podman-v2-quadlet-rootful", A, "podman", ""),
    ("podman-v2-quadlet-rootless", A, "podman", ""),
    ("podman-v2-cgroupfs", A, "podman", ""),
    ("podman-conmon-v2", "", "", ""),
    ("podman-quadlet-conmon-v2", "", "", ""),
    ("lxc-v1", "web1", "lxc", ""),
    ("lxc-v1-proxmox", "101", "lxc", ""),
    ("lxc-v1-payload-directory", "web1", "lxc", ""),
    ("lxc-v2", "web1", "lxc", ""),
    ("lxc-v2-lxd-project", "blue_web-1", "lxc", ""),
    ("lxc-v2-nested", "inner", "lxc", ""),
    ("lxc-monitor-v2", "", "", ""),
    ("lxc-monitor-v1-proxmox", "", "", ""),
    ("nspawn-v1", "web1", "systemd-nspawn", ""),
    ("nspawn-v2-escaped", "web-1", "systemd-nspawn", ""),
    ("nspawn-v2-service", "web-1", "systemd-nspawn", ""),
    ("docker-in-nspawn-v2", A, "docker", ""),
    ("libvirt-lxc-v2", "lxc-12345-web", "libvirt-lxc", ""),
    ("libvirt-qemu-v2", "", "", ""),
    ("ecs-v1", A, "", ""),
    ("removed-v2", A, "docker", ""),
    ("outside-namespace-v2", A, "docker", ""),
    ("host-v2", "", "", ""),
    ("host-root-v1", "", "", ""),
    ("host-hybrid", "", "", ""),
    ("hostile-lengths-v2", "", "", ""),
    ("hostile-case-v2", "", "", ""),
    ("hostile-words-v2", "", "", ""),
    ("hostile-control-v2", "", "", ""),
    ("hostile-pods-v2", "", "", ""),
    ("hostile-colons-v2", "", "", ""),
];

fn fixtures() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/cgroup"))
}

#[test]
fn each_fixture_shows_its_container() {
    for (name, id, runtime, pod) in FIXTURES {
        let text = std::fs::read(fixtures().join(name)).unwrap();
        let container = innermost_container(&text);
        let shown = (
            container.id.as_deref().unwrap_or_default(),
            container.runtime.map(ContainerRuntime::name).unwrap_or_default(),
            container.pod_uid.as_deref().unwrap_or_default(),
        );
        assert_eq!(shown, (id, runtime, pod), "{name}");
    }
}

#[test]
fn each_fixture_has_an_expectation_and_an_origin() {
    let files = std::fs::read_dir(fixtures()).unwrap();
    let files = files.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let expected = FIXTURES.iter().map(|(name, ..)| (*name).to_owned());
    let files: BTreeSet<String> = files.filter(|name| name != "README.md").collect();
    assert_eq!(files, expected.collect::<BTreeSet<_>>());
    let readme = std::fs::read_to_string(fixtures().join("README.md")).unwrap();
    for name in files {
        let row = format!("| `{name}` | ");
        assert!(
            readme.lines().any(|line| line.len() > row.len() + 2 && line.starts_with(&row)),
            "{name}"
        );
    }
}

#[test]
fn the_path_of_the_first_line_is_that_of_osquery() {
    for (text, path) in [
        (&b"0::/a:b\n"[..], Some(&b"/a:b"[..])),
        (b"9:name=systemd:/x\n0::/y\n", Some(b"/x")),
        (b"2:cpu,cpuacct:/\n", Some(b"/")),
        (b"0::", Some(b"")),
        (b"0:", None),
        (b"", None),
        (b"\n0::/y\n", None),
    ] {
        assert_eq!(first_path(text), path, "{}", text.escape_ascii());
    }
}

#[test]
fn the_hierarchy_that_names_the_innermost_counts() {
    let lines = [
        format!("3:memory:/docker/{B}"),
        format!("2:cpu:/docker/{B}/docker/{A}"),
        format!("0::/docker/{B}"),
    ];
    let container = innermost_container(lines.join("\n").as_bytes());
    assert_eq!(container.id.as_deref(), Some(A));
}

#[test]
fn among_equals_version_2_comes_before_systemd() {
    let line = |start: &str, name: &str| format!("{start}:/lxc.payload.{name}\n");
    let (cpu, memory) = (line("3:cpu", "cpu"), line("2:memory", "memory"));
    let (systemd, unified) = (line("1:name=systemd", "systemd"), line("0:", "unified"));
    for (text, id) in [
        (format!("{cpu}{memory}{systemd}{unified}"), "unified"),
        (format!("{cpu}{memory}{systemd}"), "systemd"),
        (format!("{cpu}{memory}"), "cpu"),
    ] {
        assert_eq!(innermost_container(text.as_bytes()).id.as_deref(), Some(id), "{text}");
    }
}

proptest::proptest! {
    #[test]
    fn no_text_shows_an_id_that_is_not_well_formed(
        parts in proptest::collection::vec(0..PARTS.len(), 0..24),
        noise in proptest::collection::vec(proptest::num::u8::ANY, 0..8),
    ) {
        let mut text: Vec<u8> = parts.iter().flat_map(|&part| PARTS[part].bytes()).collect();
        text.splice(text.len() / 2..text.len() / 2, noise);
        let container = innermost_container(&text);
        assert!(container.id.as_deref().is_none_or(|id| {
            (1..=128).contains(&id.len())
                && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        }));
        assert!(container.id.is_some() || container.runtime.is_none());
        assert!(container.pod_uid.is_none_or(|uid| matches!(uid.len(), 32 | 36)));
    }
}

/// Parts of lines.
const PARTS: [&str; 20] = [
    "/",
    ":",
    "\n",
    "0::",
    "docker-",
    "docker",
    A,
    ".scope",
    ".slice",
    "kubepods-pod",
    "pod",
    POD,
    "lxc.payload.",
    "web",
    "machine-",
    "\\x2d",
    "\\x",
    "systemd-nspawn@",
    ".service",
    " (deleted)",
];
