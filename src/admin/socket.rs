//! The Unix socket of the admin API: who may stand at its other end, and who owns its path.
//!
//! The socket's mode is 0600, and a directory that has to be made for it is 0700. Where a further user is let in, the
//! orchestrator of a pod, the mode keeps nobody out, but who reaches the path does: it is in a volume of these two. A
//! socket that a dead process left is replaced; one that is served is not. The file goes with the sidecar.

use std::{
    fs::{self, DirBuilder, Permissions},
    io,
    os::unix::{
        fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt},
        net::UnixStream as Probe,
    },
    path::{Path, PathBuf},
};

use tokio::net::{UnixListener, UnixStream};

/// A bound socket. Its file is removed when it is dropped.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    /// Who is let in beside root and our own user.
    further: Option<u32>,
    path: PathBuf,
    /// Device and inode: the path may be another's by the time that it is removed.
    file: (u64, u64),
}

impl Socket {
    /// Binds it. Root and our own user are let in, and this further one.
    ///
    /// # Errors
    /// What keeps it from being bound: another process that serves there, a path that is no socket, a missing right.
    pub fn bind(path: &Path, further: Option<u32>) -> io::Result<Self> {
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
        }
        make_room(path)?;
        let listener = UnixListener::bind(path)?;
        let mode = if further.is_some() { 0o666 } else { 0o600 };
        fs::set_permissions(path, Permissions::from_mode(mode))?;
        let file = identity(path)?;
        Ok(Self { listener, further, path: path.to_owned(), file })
    }

    /// The next connection, whoever it is from.
    ///
    /// # Errors
    /// As [`UnixListener::accept`].
    pub async fn accept(&self) -> io::Result<UnixStream> {
        self.listener.accept().await.map(|(stream, _)| stream)
    }

    /// Whether the process at the other end may use the API. The kernel says who it is.
    pub fn admits(&self, stream: &UnixStream) -> bool {
        let own = rustix::process::geteuid().as_raw();
        stream.peer_cred().is_ok_and(|peer| may(peer.uid(), own, self.further))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|file| file == self.file) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn may(peer: u32, own: u32, further: Option<u32>) -> bool {
    peer == 0 || peer == own || further == Some(peer)
}

/// Takes a dead process's socket away.
fn make_room(path: &Path) -> io::Result<()> {
    let kind = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !kind.is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "something else than a socket is there"));
    }
    match Probe::connect(path) {
        Ok(_) => Err(io::Error::new(io::ErrorKind::AddrInUse, "another process serves there")),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) => Err(error),
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_root_our_own_user_and_one_who_is_named_may() {
        for (peer, own, further, expected) in [
            (0, 15000, None, true),
            (15000, 15000, None, true),
            (1000, 15000, None, false),
            (65534, 15000, None, false),
            (1, 0, None, false),
            (2000, 15000, Some(2000), true),
            (1000, 15000, Some(2000), false),
        ] {
            assert_eq!(may(peer, own, further), expected, "{peer} at {own} with {further:?}");
        }
    }

    #[tokio::test]
    async fn the_socket_and_its_directory_are_for_one_user() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/tollgate/admin.sock");
        let socket = Socket::bind(&path, None).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        assert!(socket.admits(&UnixStream::connect(&path).await.unwrap()));
        drop(socket);
        assert!(!path.exists());
        let shared = Socket::bind(&path, Some(2000)).unwrap();
        assert_eq!(mode(&path), 0o666);
        drop(shared);
    }

    #[tokio::test]
    async fn a_dead_socket_is_replaced_and_a_live_one_or_another_file_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let socket = Socket::bind(&path, None).unwrap();
        assert_eq!(Socket::bind(&path, None).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert!(path.exists(), "the live one is left alone");

        fs::remove_file(&path).unwrap();
        fs::write(&path, "a file").unwrap();
        assert_eq!(Socket::bind(&path, None).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        drop(socket);
        assert_eq!(fs::read_to_string(&path).unwrap(), "a file", "what took its place is left alone too");
    }
}
