//! The file of the socket at which the extension listens.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};

/// The mode of the file: only its owner may connect.
const OWNER_ALONE: u32 = 0o600;
/// The kernel lowers it to the system's maximum (listen(2): net.core.somaxconn, kern.ipc.somaxconn). While the
/// queue is full, a client that does not block is refused and any other waits in connect(2), osquery included; so
/// the queue is as long as the administrator allows.
const BACKLOG: i32 = i32::MAX;

/// The file of a socket that was bound here; removed when dropped, unless another took its place.
pub(super) struct SocketFile {
    path: PathBuf,
    identity: Identity,
}

/// Device and inode of a file.
type Identity = (u64, u64);

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|identity| identity == self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<Identity> {
    fs::symlink_metadata(path).map(|file| (file.dev(), file.ino()))
}

/// Binds the socket with mode 0600 whatever the umask. Linux gives the file the mode that the socket
/// has before, less the umask, so there is no moment at which others could connect.
///
/// # Errors
/// When the socket cannot be made: a file of that name is left alone.
pub(super) fn bind(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    let socket = File::from(OwnedFd::from(Socket::new(Domain::UNIX, Type::STREAM, None)?));
    if cfg!(target_os = "linux") {
        socket.set_permissions(Permissions::from_mode(OWNER_ALONE))?;
    }
    let socket = Socket::from(OwnedFd::from(socket));
    socket.bind(&SockAddr::unix(path)?)?;
    let file = SocketFile { path: path.into(), identity: identity(path)? };
    restrict(path)?;
    socket.listen(BACKLOG)?;
    Ok((OwnedFd::from(socket).into(), file))
}

/// Sets the mode of the socket at that path, unless it has it already.
///
/// # Errors
/// When another file took its place: the mode of that one stays, and of what a symbolic link leads to.
fn restrict(path: &Path) -> io::Result<()> {
    let file = fs::symlink_metadata(path)?;
    if !file.file_type().is_socket() {
        return Err(io::Error::other("another file took the place of the socket"));
    }
    if file.permissions().mode() & 0o7777 == OWNER_ALONE {
        return Ok(());
    }
    set_mode(path, (file.dev(), file.ino()))
}

/// Linux before 6.6 has no chmod(2) that does not follow symbolic links: the file is pinned first.
#[cfg(target_os = "linux")]
fn set_mode(path: &Path, expected: Identity) -> io::Result<()> {
    use rustix::fs::{Mode, OFlags};
    use std::os::fd::AsRawFd;

    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let pinned = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let file = pinned.metadata()?;
    if (file.dev(), file.ino()) != expected {
        return Err(io::Error::other("another file took the place of the socket"));
    }
    let path = format!("/proc/self/fd/{}", pinned.as_raw_fd());
    fs::set_permissions(path, Permissions::from_mode(OWNER_ALONE))
}

#[cfg(not(target_os = "linux"))]
fn set_mode(path: &Path, _: Identity) -> io::Result<()> {
    use rustix::fs::{AtFlags, CWD, Mode, chmodat};

    let mode = Mode::RUSR | Mode::WUSR;
    Ok(chmodat(CWD, path, mode, AtFlags::SYMLINK_NOFOLLOW)?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    /// A directory, and in it a socket of that mode.
    fn socket(mode: u32) -> (tempfile::TempDir, PathBuf, UnixListener) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        (directory, path, listener)
    }

    #[test]
    fn the_mode_of_a_socket_is_set_where_it_differs() {
        for before in [0o755, 0o000, OWNER_ALONE] {
            let (_directory, path, _listener) = socket(before);
            restrict(&path).unwrap();
            assert_eq!(mode(&path), OWNER_ALONE, "{before:o}");
        }
    }

    #[test]
    fn a_symlink_at_the_path_of_the_socket_is_not_followed() {
        let (directory, victim, _listener) = socket(0o755);
        let path = directory.path().join("link");
        symlink(&victim, &path).unwrap();
        let error = restrict(&path).unwrap_err();
        assert_eq!(error.to_string(), "another file took the place of the socket");
        assert_eq!(mode(&victim), 0o755);
    }

    /// As if the link had come after the first look.
    #[test]
    fn a_symlink_created_after_the_check_is_not_followed() {
        let (directory, victim, _listener) = socket(0o755);
        let path = directory.path().join("link");
        symlink(&victim, &path).unwrap();
        // macOS changes the mode of the link itself.
        assert_eq!(set_mode(&path, identity(&victim).unwrap()).is_err(), cfg!(target_os = "linux"));
        assert_eq!(mode(&victim), 0o755);
    }

    #[test]
    fn a_file_created_after_the_check_keeps_its_mode() {
        let (directory, path, _listener) = socket(0o755);
        let before = identity(&path).unwrap();
        let other = directory.path().join("other");
        fs::write(&other, "").unwrap();
        fs::set_permissions(&other, Permissions::from_mode(0o644)).unwrap();
        fs::rename(&other, &path).unwrap();
        if cfg!(target_os = "linux") {
            set_mode(&path, before).unwrap_err();
            assert_eq!(mode(&path), 0o644);
        }
    }
}
