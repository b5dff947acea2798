//! A mount from its start to its end.

use crate::{
    adapter::Adapter, device, error::MountError, options::MountOptions, point, serve::Server, shared::Shared,
};
use fuser::{Config, Session, SessionACL};
use mooseng_client::Vfs;
use nix::errno::Errno;
use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};
use tokio::{
    runtime::Handle,
    sync::{oneshot, watch},
    task::spawn_blocking,
};

/// Longest wait for the first answer: a call of the client has 30 s.
const FIRST_ANSWER: Duration = Duration::from_secs(40);

/// How a mount ended; why, when it was not by an unmount.
type Ended = Result<(), Arc<str>>;

/// A mounted filesystem. Dropping it detaches the mount: it is out of the tree at once and ends
/// when the last file in it is closed.
#[derive(Debug)]
pub struct Mount {
    point: PathBuf,
    shared: Arc<Shared>,
    deadline: Duration,
    ended: watch::Receiver<Option<Ended>>,
}

/// A session that nobody serves yet, or not any more. Dropped, it lets go of the device, and then of the directory.
struct Opened {
    session: Session<Adapter>,
    place: Place,
}

/// A directory that has a mount on it.
struct Place(PathBuf);

impl Drop for Place {
    /// The kernel's answer to its own unmount is success; after anything else the point is dead.
    fn drop(&mut self) {
        point::clear_dead(&self.0);
    }
}

fn session(adapter: Adapter, point: &Path, options: &MountOptions) -> io::Result<Session<Adapter>> {
    let mut config = Config::default();
    config.acl = if options.allow_other { SessionACL::All } else { SessionACL::Owner };
    // More threads were never faster (the thread only parses and sends), and each has 16 MiB.
    config.n_threads = Some(1);
    let device = device::mounted(point, options)?;
    Session::from_fd(adapter, device, config.acl, config).inspect_err(|_| point::clear_dead(point))
}

async fn blocking<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    spawn_blocking(f).await.map_err(io::Error::other)
}

impl Mount {
    /// Mounts and returns when the filesystem has answered. Requests are served on the runtime that
    /// this is called in, which must stay for as long as the mount does.
    ///
    /// Cancellation: dropping the future may leave the directory mounted for a moment; it is
    /// detached then.
    pub async fn start(
        vfs: Vfs,
        mount_point: impl AsRef<Path>,
        options: MountOptions,
    ) -> Result<Self, MountError> {
        let asked = mount_point.as_ref().to_path_buf();
        let failed = |cause| MountError::Refused { point: asked.clone(), cause };
        let deadline = options.request_deadline;
        let shared =
            Arc::new(Shared::new(vfs, Server::new(Handle::current(), deadline, options.observer.clone())));
        let adapter = Adapter::new(shared.clone(), options.direct_io);
        let (at, read_ahead) = (asked.clone(), options.read_ahead_kib);
        let mounted = blocking(move || {
            let point = point::prepare(&at)?;
            let session = session(adapter, &point, &options).map_err(|e| point::refused(&point, e))?;
            Ok(Opened { session, place: Place(point) })
        });
        let opened = mounted.await.map_err(failed)??;
        let point = opened.place.0.clone();
        let (tell, ended) = watch::channel(None);
        let (over, heard) = oneshot::channel();
        let serve = move || {
            let Opened { session, place } = opened;
            let how = session.run();
            drop(place);
            drop(over.send(how));
        };
        thread::Builder::new().name("mooseng-mount".into()).spawn(serve).map_err(failed)?;
        tokio::spawn(finish(shared.clone(), heard, tell));
        let mount = Self { point, shared, deadline, ended };
        mount.first_answer(read_ahead).await?;
        Ok(mount)
    }

    async fn first_answer(&self, read_ahead_kib: u32) -> Result<(), MountError> {
        let point = self.point.clone();
        let asked = blocking(move || {
            point::answers(&point)?;
            point::set_read_ahead(&point, read_ahead_kib);
            Ok(())
        });
        let answered = match tokio::time::timeout(FIRST_ANSWER, asked).await {
            Ok(answered) => answered.and_then(|a| a),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        };
        answered.map_err(|cause| MountError::NoAnswer { point: self.point.clone(), cause })
    }

    /// Where it is mounted.
    pub fn point(&self) -> &Path {
        &self.point
    }

    /// Requests of the kernel that are not answered yet.
    pub fn under_way(&self) -> usize {
        self.shared.server.under_way()
    }

    /// Unmounts and waits until every request is answered and every file closed. When something is
    /// open there it fails with [`MountError::Busy`], and the mount stays.
    pub async fn unmount(&self) -> Result<(), MountError> {
        if self.ended.borrow().is_none() {
            let point = self.point.clone();
            let refused = |cause| MountError::Unmount { point: self.point.clone(), cause };
            match blocking(move || point::unmount(&point)).await.map_err(refused)? {
                // Somebody else was first.
                Err(MountError::Unmount { cause, .. }) if cause.kind() == io::ErrorKind::InvalidInput => {}
                other => other?,
            }
        }
        self.wait().await
    }

    /// Waits until it was unmounted, by whomever, and everything under way is done.
    pub async fn wait(&self) -> Result<(), MountError> {
        let mut ended = self.ended.clone();
        let how = match ended.wait_for(Option::is_some).await {
            Ok(how) => how.clone().unwrap_or(Ok(())),
            Err(_) => Err("the runtime it was served on has ended".into()),
        };
        if let Err(cause) = how {
            return Err(MountError::Ended { point: self.point.clone(), cause: cause.to_string() });
        }
        match self.shared.server.under_way() {
            0 => Ok(()),
            requests => Err(MountError::Outstanding { requests, within: self.deadline }),
        }
    }
}

/// After the kernel let go: what is under way ends, what is open is closed.
async fn finish(
    shared: Arc<Shared>,
    heard: oneshot::Receiver<io::Result<()>>,
    tell: watch::Sender<Option<Ended>>,
) {
    let how = match heard.await {
        Ok(Err(e)) if is_let_go(&e) => Ok(()),
        Ok(how) => how.map_err(|e| Arc::from(e.to_string())),
        Err(_) => Err("the thread that serves it is gone".into()),
    };
    if !shared.server.drained().await {
        tracing::error!(requests = shared.server.under_way(), "requests are not done after the unmount");
    }
    shared.release_left().await;
    tell.send_replace(Some(how));
}

/// Whether the kernel has ended the connection. fuser takes ENODEV for that, and not what a read of the
/// device may answer when a request was on its way at the unmount, or when an operator has aborted it.
fn is_let_go(e: &io::Error) -> bool {
    e.raw_os_error() == Some(Errno::ECONNABORTED as i32)
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.ended.borrow().is_none()
            && let Err(e) = point::detach(&self.point)
        {
            tracing::warn!(error = %e, point = %self.point.display(), "the mount could not be detached");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_aborted_connection_is_an_end_and_other_errors_are_not() {
        let told = |e: Errno| is_let_go(&io::Error::from_raw_os_error(e as i32));
        assert!(told(Errno::ECONNABORTED));
        assert!(!told(Errno::EIO) && !told(Errno::EPERM));
    }
}
