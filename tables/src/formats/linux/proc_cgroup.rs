//! Lines of `/proc/<pid>/cgroup` (cgroups(7)): the control group of a process in each hierarchy.

use super::container_cgroup::{container, depth};
use crate::model::Container;

/// The path in the first line, as the column `cgroup_path` of osquery's `processes` shows it. With version 2 alone
/// there is one line.
pub(crate) fn first_path(text: &[u8]) -> Option<&[u8]> {
    text.split(|&byte| byte == b'\n').next().and_then(controllers_and_path).map(|(_, path)| path)
}

/// The container that the process runs in.
///
/// With version 1 and both versions (hybrid), a runtime need not use every hierarchy. The path with the most
/// containers and pods counts: it names the innermost. Among equals: version 2, systemd's own hierarchy, and then the
/// order of the file.
pub(crate) fn innermost_container(text: &[u8]) -> Container {
    let paths = text.split(|&byte| byte == b'\n').filter_map(controllers_and_path);
    let rank = |controllers: &[u8]| match controllers {
        b"" => 2,
        b"name=systemd" => 1,
        _ => 0,
    };
    let rated = paths.enumerate().map(|(index, (controllers, path))| {
        ((depth(path), rank(controllers), std::cmp::Reverse(index)), path)
    });
    let innermost = rated.max_by_key(|(rating, _)| *rating);
    innermost.map(|(_, path)| container(path)).unwrap_or_default()
}

/// A line is `<hierarchy>:<controllers>:<path>`. Only the path can have colons besides; the kernel allows no newline
/// in the name of a group.
fn controllers_and_path(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut fields = line.splitn(3, |&byte| byte == b':');
    let (_hierarchy, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
    Some((controllers, path))
}

#[cfg(test)]
mod tests;
