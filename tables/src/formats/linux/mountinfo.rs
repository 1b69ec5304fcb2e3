//! Lines of `/proc/<pid>/mountinfo` (proc_pid_mountinfo(5)): the mounts that the process
//! sees.

use std::collections::HashSet;

/// A mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    /// The path of the mounted directory within its file system; for a namespace the text of its link,
    /// such as `net:[4026531840]`.
    pub(crate) root: Vec<u8>,
    /// Where it is mounted, from the process's root directory on.
    pub(crate) mount_point: Vec<u8>,
}

/// The mounts of a type of file system. Lines of another form than the kernel's are skipped.
pub(crate) fn mounts_of<'a>(
    text: &'a [u8],
    file_system: &'a [u8],
) -> impl Iterator<Item = Mount> + 'a {
    mounts_if(text, move |kind| kind == file_system)
}

/// The mount points of file systems whose server, a process or another machine, can hang.
pub(crate) fn served_mount_points(text: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    const SERVED: [&[u8]; 9] =
        [b"fuse", b"fuseblk", b"nfs", b"nfs4", b"cifs", b"smb3", b"9p", b"afs", b"ceph"];
    let is_served = |kind: &[u8]| SERVED.contains(&kind) || kind.starts_with(b"fuse.");
    mounts_if(text, is_served).map(|mount| mount.mount_point)
}

fn mounts_if<'a>(
    text: &'a [u8],
    is_selected: impl Fn(&[u8]) -> bool + 'a,
) -> impl Iterator<Item = Mount> + 'a {
    text.split(|&byte| byte == b'\n').filter_map(move |line| {
        let mut fields = line.split(|&byte| byte == b' ');
        // Mount, parent and device; then root, mount point and options; then optional fields, ended by a dash.
        let root = fields.nth(3)?;
        let mount_point = fields.next()?;
        let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
        is_selected(kind)
            .then(|| Mount { root: unescaped(root), mount_point: unescaped(mount_point) })
    })
}

/// Whether a path leads to one of these mount points, or through one.
pub(crate) fn leads_through(path: &[u8], mount_points: &HashSet<Vec<u8>>) -> bool {
    let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(end, _)| end);
    let mut above = ends.chain([path.len()]).filter_map(|end| path.get(..end));
    mount_points.contains(&b"/"[..]) || above.any(|above| mount_points.contains(above))
}

/// The kernel writes blanks, newlines and backslashes in a path as a backslash and three octal digits.
fn unescaped(mut field: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(field.len());
    loop {
        field = match field {
            [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', rest @ ..] => {
                path.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest
            }
            [byte, rest @ ..] => {
                path.push(*byte);
                rest
            }
            [] => return path,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Printed by Linux 6.18.
    const TEXT: &[u8] = b"\
        1 1 0:1 / / rw,relatime - rootfs rootfs rw\n\
        98 62 0:29 / /sys/fs/cgroup/unified rw,relatime shared:7 - cgroup2 cgroup2 rw\n\
        227 98 0:4 net:[4026532229] /run/netns/a\\040b\\134c rw shared:3 master:1 - nsfs nsfs rw\n\
        228 98 0:4 mnt:[4026532230] /run/other rw - nsfs nsfs rw\n";

    #[test]
    fn mounts_of_a_type_come_with_root_and_path() {
        let nsfs: Vec<Mount> = mounts_of(TEXT, b"nsfs").collect();
        let mount = |root: &[u8], mount_point: &[u8]| Mount {
            root: root.to_vec(),
            mount_point: mount_point.to_vec(),
        };
        assert_eq!(
            nsfs,
            [
                mount(b"net:[4026532229]", b"/run/netns/a b\\c"),
                mount(b"mnt:[4026532230]", b"/run/other")
            ]
        );
        let cgroup: Vec<Mount> = mounts_of(TEXT, b"cgroup2").collect();
        assert_eq!(cgroup, [mount(b"/", b"/sys/fs/cgroup/unified")]);
    }

    #[test]
    fn mount_points_of_file_systems_with_a_server_are_found() {
        // Printed by Linux 6.18, but for the addresses.
        let text = b"\
            1 1 0:1 / / rw - ext4 /dev/vda rw\n\
            61 1 0:40 / /home rw - nfs4 192.0.2.1:/home rw\n\
            62 1 0:41 / /mnt/a\\040b rw - fuse.sshfs x rw\n\
            63 1 0:42 / /fuseful rw - tmpfs fuse rw\n";
        let points: Vec<Vec<u8>> = served_mount_points(text).collect();
        assert_eq!(points, [&b"/home"[..], b"/mnt/a b"]);
    }

    #[test]
    fn a_path_leads_through_the_mount_points_above_it() {
        for (path, mount_point, expected) in [
            ("/home/a", "/home", true),
            ("/home", "/home", true),
            ("/homes/a", "/home", false),
            ("/run/netns/a", "/", true),
            ("/run", "/run/netns", false),
        ] {
            let mount_points = HashSet::from([b"/other".to_vec(), mount_point.into()]);
            assert_eq!(leads_through(path.as_bytes(), &mount_points), expected, "{path}");
        }
    }

    #[test]
    fn a_line_without_a_mount_is_skipped() {
        for line in ["", "1 2 0:4", "1 2 0:4 net:[1] /a rw shared:1", "1 2 0:4 net:[1] /a rw -"] {
            assert_eq!(mounts_of(line.as_bytes(), b"nsfs").count(), 0, "{line}");
        }
        assert_eq!(mounts_of(b"1 2 0:4 net:[1] /a rw - nsfs", b"nsfs").count(), 1);
    }

    #[test]
    fn only_three_octal_digits_are_an_escape() {
        for (field, path) in [
            (&b"\\040"[..], &b" "[..]),
            (b"\\377x", b"\xffx"),
            (b"\\04", b"\\04"),
            (b"\\477", b"\\477"),
            (b"a\\", b"a\\"),
        ] {
            assert_eq!(unescaped(field), path);
        }
    }
}
