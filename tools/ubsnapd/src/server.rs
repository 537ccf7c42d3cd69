// SPDX-License-Identifier: GPL-2.0

//! The socket: connections of containerd, until a signal ends the daemon.

use std::convert::Infallible;
use std::fs::{self, Permissions};
use std::future::Future as _;
use std::io::{self, ErrorKind};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::UnixListener;
use tokio::runtime::Builder;
use tokio::signal::unix::{signal, SignalKind};

use crate::daemon::Daemon;
use crate::disks::Disks;
use crate::error::{complain, Error, Result};
use crate::grpc;

/// How long the daemon waits if the system has no room for a connection.
const PAUSE: Duration = Duration::from_millis(50);

/// The most requests at the same time. If the storage of some snapshots does not answer, each of
/// these has up to `WAITING` and `LOOKS` threads, and other snapshots need some too.
const THREADS: usize = 2048;

/// How often the daemon reports that connections were not accepted.
const REPORT: Duration = Duration::from_secs(60);

/// Which of many equal reports are made: the first, and then one in each period, with the number of
/// reports that were left out.
struct Reports {
    period: Duration,
    last: Option<Instant>,
    left_out: u64,
}

impl Reports {
    fn every(period: Duration) -> Reports {
        Reports {
            period,
            last: None,
            left_out: 0,
        }
    }

    /// Returns the report of `what` at a time, unless it is left out.
    fn next(&mut self, now: Instant, what: &str) -> Option<String> {
        let last = self.last.map(|last| now.saturating_duration_since(last));
        if last.is_some_and(|since| since < self.period) {
            self.left_out = self.left_out.saturating_add(1);
            return None;
        }
        self.last = Some(now);
        Some(match std::mem::take(&mut self.left_out) {
            0 => what.to_owned(),
            more => format!("{what} ({more} times more since the last report)"),
        })
    }
}

/// Returns whether a path is a socket itself. `connect` fails with `ECONNREFUSED` for other files
/// too.
fn is_socket(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket())
}

/// Listens at a path. A socket that an earlier daemon left there is replaced.
fn listen(address: &Path) -> Result<UnixListener> {
    let failed = |e| Error::io(format!("listen at {}", address.display()), &e);
    match UnixStream::connect(address) {
        Ok(_) => {
            let text = format!("another program listens at {}: stop it", address.display());
            return Err(Error::internal(text));
        }
        Err(e) if e.kind() == ErrorKind::ConnectionRefused && is_socket(address) => {
            fs::remove_file(address).map_err(failed)?;
        }
        // If it is anything else, bind refuses it.
        Err(_) => {}
    }
    if let Some(directory) = address.parent() {
        fs::create_dir_all(directory).map_err(failed)?;
    }
    let listener = UnixListener::bind(address).map_err(failed)?;
    // A program that can connect has unions made for it.
    fs::set_permissions(address, Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

/// Notifies systemd that the daemon answers, if systemd started it.
fn notify() {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let address = match path.as_encoded_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(&path),
    };
    let sent = address.and_then(|address| {
        let socket = UnixDatagram::unbound()?;
        socket.send_to_addr(b"READY=1", &address)
    });
    if let Err(e) = sent {
        complain(&format!("systemd was not notified: {e}"));
    }
}

/// Serves until SIGTERM, SIGINT or SIGHUP comes. A request that is under way then is completed, but
/// may not be answered.
pub fn serve<D: Disks + 'static>(daemon: Daemon<D>, address: &Path) -> Result {
    let failed = |e: io::Error| Error::io("start the server", &e);
    let mut builder = Builder::new_current_thread();
    let builder = builder.enable_all().max_blocking_threads(THREADS);
    let runtime = builder.build().map_err(failed)?;
    let daemon = Arc::new(daemon);
    runtime.block_on(async {
        let listener = listen(address)?;
        let mut signals = Vec::new();
        for kind in [
            SignalKind::terminate(),
            SignalKind::interrupt(),
            SignalKind::hangup(),
        ] {
            signals.push(signal(kind).map_err(failed)?);
        }
        notify();
        let ended = std::future::poll_fn(|context| {
            let mut any = signals.iter_mut().map(|s| s.poll_recv(context).is_ready());
            match any.any(|ready| ready) {
                true => std::task::Poll::Ready(()),
                false => std::task::Poll::Pending,
            }
        });
        let accept = accept(daemon, listener);
        let mut accept = std::pin::pin!(accept);
        let mut ended = std::pin::pin!(ended);
        std::future::poll_fn(|context| {
            let _ = accept.as_mut().poll(context);
            ended.as_mut().poll(context)
        })
        .await;
        Ok(())
    })
    // The drop of the runtime waits for the requests that are on its threads.
}

async fn accept<D: Disks + 'static>(daemon: Arc<Daemon<D>>, listener: UnixListener) -> Infallible {
    let mut reports = Reports::every(REPORT);
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(e) => {
                let what = format!("a connection was not accepted: {e}");
                if let Some(report) = reports.next(Instant::now(), &what) {
                    complain(&report);
                }
                // Another attempt can succeed when the system has descriptors again.
                // Meanwhile the open connections continue.
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let daemon = daemon.clone();
        let service = service_fn(move |request| {
            let answer = grpc::answer(daemon.clone(), request);
            async { Ok::<_, Infallible>(answer.await) }
        });
        let connection = http2::Builder::new(TokioExecutor::new());
        let connection = connection.serve_connection(TokioIo::new(stream), service);
        // The client sees an error of its connection itself.
        tokio::spawn(async { drop(connection.await) });
    }
}

#[cfg(test)]
mod tests {
    use super::{fs, listen, Builder, Duration, Instant, Path, Reports, UnixListener};
    use crate::error::Result;

    fn listens(path: &Path) -> Result<UnixListener> {
        let runtime = Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(async { listen(path) })
    }

    #[test]
    fn only_a_socket_without_a_listener_is_replaced() {
        let path = std::env::temp_dir().join(format!("ubsnapd-socket-{}", std::process::id()));
        let _ = fs::remove_file(&path);
        fs::write(&path, b"kept").unwrap();
        assert!(listens(&path).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"kept");
        fs::remove_file(&path).unwrap();
        // The drop of a listener leaves its socket.
        drop(listens(&path).unwrap());
        drop(listens(&path).unwrap());
        let _other = std::os::unix::net::UnixListener::bind(path.with_extension("live")).unwrap();
        let e = listens(&path.with_extension("live")).unwrap_err();
        assert!(e.message.contains("another program"), "{e}");
        for path in [path.clone(), path.with_extension("live")] {
            fs::remove_file(path).unwrap();
        }
    }

    #[test]
    fn equal_reports_are_counted() {
        let mut reports = Reports::every(Duration::from_secs(60));
        let start = Instant::now();
        let mut at = |ms: u64| reports.next(start + Duration::from_millis(ms), "no room");
        assert_eq!(at(0).as_deref(), Some("no room"));
        // 20 in a second.
        assert!((1..=1199).all(|n| at(50 * n).is_none()));
        let wanted = "no room (1199 times more since the last report)";
        assert_eq!(at(60_000).as_deref(), Some(wanted));
        assert!(at(60_050).is_none());
        let wanted = "no room (1 times more since the last report)";
        assert_eq!(at(3_600_000).as_deref(), Some(wanted));
        assert_eq!(at(3_660_000).as_deref(), Some("no room"));
    }
}
