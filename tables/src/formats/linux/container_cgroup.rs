//! The container that the path of a control group names (cgroups(7)).
//!
//! Runtimes name the group of a container after the container, each in its own form; the comments cite the
//! projects that make them. Only whole path components in these forms count, with a well-formed id.

use crate::model::{Container, ContainerRuntime};

use ContainerRuntime::{Containerd, CriO, Docker, LibvirtLxc, Lxc, Podman, SystemdNspawn};

/// The prefixes of groups that are named `<prefix><id>.scope` (systemd driver), `<prefix><id>` (cgroupfs driver),
/// or `<slice>:<prefix>:<id>` (cgroupfs driver of runc with a path for systemd). Groups of the monitors have a
/// further word (`libpod-conmon-<id>`), so that no id follows the prefix.
const PREFIXES: [(&str, ContainerRuntime); 6] = [
    // moby, daemon/oci_linux.go
    ("docker-", Docker),
    // containerd, internal/cri/server/podsandbox/helpers_linux.go
    ("cri-containerd-", Containerd),
    // nerdctl, pkg/cmd/container/run_cgroup_linux.go
    ("nerdctl-", Containerd),
    // cri-o, internal/config/cgmgr
    ("crio-", CriO),
    // podman, libpod/container_internal_linux.go; `payload` with --cgroups=split, as Quadlet uses it
    ("libpod-payload-", Podman),
    ("libpod-", Podman),
];

/// The innermost container and pod in the path of a control group.
pub(crate) fn container(path: &[u8]) -> Container {
    let mut container = Container::default();
    visit(path, |found| match found {
        Found::Container(id, runtime) => {
            container.id = Some(id);
            container.runtime = runtime;
        }
        Found::Pod(uid) => container.pod_uid = Some(uid),
    });
    container
}

/// The number of containers and pods in the path, one in another.
pub(super) fn depth(path: &[u8]) -> (usize, usize) {
    let (mut containers, mut pods) = (0, 0);
    visit(path, |found| match found {
        Found::Container(..) => containers += 1,
        Found::Pod(_) => pods += 1,
    });
    (containers, pods)
}

/// What a component of a path names.
enum Found {
    Container(Box<str>, Option<ContainerRuntime>),
    Pod(Box<str>),
}

/// Visits what the components of a path name, from the outermost on.
fn visit(path: &[u8], mut each: impl FnMut(Found)) {
    // The kernel marks a removed group, in which ending processes can be.
    let path = path.strip_suffix(b" (deleted)").unwrap_or(path);
    let mut parent = "";
    for component in path.split(|&byte| byte == b'/') {
        // No form has other bytes than ASCII.
        let name = str::from_utf8(component).unwrap_or_default();
        // runc names a group `<slice>:<prefix>:<id>` if its driver is cgroupfs and the path one for systemd.
        if let Some((slice, scope)) = name.split_once(':') {
            if let Some(uid) = pod_uid(slice) {
                each(Found::Pod(uid));
            }
            if let Some((prefix, id)) = scope.split_once(':')
                && let Some((id, runtime)) = prefixed(&format!("{prefix}-{id}"))
            {
                each(Found::Container(id, Some(runtime)));
            }
        } else if let Some(uid) = pod_uid(name) {
            each(Found::Pod(uid));
        } else if let Some((id, runtime)) = named(parent, name) {
            each(Found::Container(id, runtime));
        }
        parent = name;
    }
}

/// The container that a component names.
fn named(parent: &str, name: &str) -> Option<(Box<str>, Option<ContainerRuntime>)> {
    if is_hex_64(name) {
        // The cgroupfs driver of Docker (`/docker/<id>`, or the parent that --cgroup-parent names), and of containerd
        // in a pod.
        return Some((name.into(), (parent == "docker").then_some(Docker)));
    }
    let found = prefixed(name).or_else(|| lxc(parent, name)).or_else(|| machine(name));
    found.map(|(id, runtime)| (id, Some(runtime)))
}

/// The container of a component with one of the prefixes.
fn prefixed(name: &str) -> Option<(Box<str>, ContainerRuntime)> {
    let name = name.strip_suffix(".scope").unwrap_or(name);
    PREFIXES.iter().find_map(|&(prefix, runtime)| {
        let id = name.strip_prefix(prefix)?;
        is_hex_64(id).then(|| (id.into(), runtime))
    })
}

/// LXC, src/lxc/cgroups/cgroup.h: `lxc.payload.<name>`. Before version 4 `lxc.payload/<name>` and `lxc/<name>`.
fn lxc(parent: &str, name: &str) -> Option<(Box<str>, ContainerRuntime)> {
    let name = match parent {
        "lxc" | "lxc.payload" => name,
        _ => name.strip_prefix("lxc.payload.")?,
    };
    // LXC allows more; LXD and Incus allow letters, digits, `-`, and `<project>_` before.
    const MAX_NAME: usize = 128;
    is_name(name, MAX_NAME).then(|| (name.into(), Lxc))
}

/// A machine of systemd: src/machine/machine-dbus.c makes `machine-<name>.scope`, with the name escaped as in names of
/// units (systemd-escape(1)); units/systemd-nspawn@.service.in has the name as it is.
fn machine(name: &str) -> Option<(Box<str>, ContainerRuntime)> {
    if let Some(service) = name.strip_prefix("systemd-nspawn@") {
        let name = service.strip_suffix(".service")?;
        return is_machine_name(name).then(|| (name.into(), SystemdNspawn));
    }
    let name = unescaped(name.strip_prefix("machine-")?.strip_suffix(".scope")?)?;
    // libvirt, src/util/virsystemd.c, registers machines as `<driver>-<number>-<name>`.
    let (driver, rest) = name.split_once('-').unwrap_or_default();
    let number = rest.split_once('-').unwrap_or_default().0;
    let is_numbered = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    let runtime = match driver {
        // A virtual machine is no container.
        "qemu" | "xen" | "bhyve" if is_numbered => return None,
        "lxc" if is_numbered => LibvirtLxc,
        _ => SystemdNspawn,
    };
    is_machine_name(&name).then(|| (name.into(), runtime))
}

/// The name of a machine is a host name (systemd, src/basic/hostname-util.c).
fn is_machine_name(name: &str) -> bool {
    is_name(name, 64) && !name.contains("..") && !name.ends_with(['-', '.'])
}

/// The uid of a pod (kubelet, pkg/kubelet/cm): `pod<uid>` with the cgroupfs driver; with that of systemd
/// `kubepods[-<class>]-pod<uid>.slice`, and `_` in place of `-` in the uid. More may precede `kubepods`: `--cgroup-root`.
fn pod_uid(name: &str) -> Option<Box<str>> {
    let uid = match name.strip_suffix(".slice") {
        Some(slice) => {
            let (before, uid) = slice.rsplit_once("-pod")?;
            let before = ["-burstable", "-besteffort"]
                .iter()
                .find_map(|class| before.strip_suffix(class))
                .unwrap_or(before);
            (before == "kubepods" || before.ends_with("-kubepods"))
                .then(|| uid.replace('_', "-"))?
        }
        None => name.strip_prefix("pod")?.to_owned(),
    };
    is_uid(&uid).then(|| uid.into())
}

/// A UUID; of a static pod 32 digits, a hash of its manifest.
fn is_uid(uid: &str) -> bool {
    let is_group = |group: &str, length| group.len() == length && group.bytes().all(is_hex);
    let lengths = [8, 4, 4, 4, 12];
    is_group(uid, 32)
        || uid.split('-').count() == lengths.len()
            && uid.split('-').zip(lengths).all(|(group, length)| is_group(group, length))
}

fn is_hex_64(id: &str) -> bool {
    id.len() == 64 && id.bytes().all(is_hex)
}

fn is_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

/// Letters, digits, and `-`, `_`, `.` after the first.
fn is_name(name: &str, max: usize) -> bool {
    name.len() <= max
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

/// The text that is escaped in a name of a unit: `\xNN` for a byte, `-` for a slash, which no machine has in its name.
fn unescaped(escaped: &str) -> Option<String> {
    if escaped.contains('-') {
        return None;
    }
    let mut text = String::new();
    let mut parts = escaped.split('\\');
    text.push_str(parts.next()?);
    for part in parts {
        let (code, rest) = part.strip_prefix('x')?.split_at_checked(2)?;
        let byte = u8::from_str_radix(code, 16).ok().filter(u8::is_ascii)?;
        text.push(char::from(byte));
        text.push_str(rest);
    }
    Some(text)
}

#[cfg(test)]
mod tests;
