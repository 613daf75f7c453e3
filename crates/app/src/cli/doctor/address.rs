//! Whether a server could listen.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use leadr_auth_sqlite::ServerLock;
use tokio::net::TcpSocket;

use super::{Findings, Status};
use crate::config::{StorageConfig, StoreConfig};
use crate::storage::is_there;

/// How long it may take a server from when it has its address until it has the database.
const START_OF_A_SERVER: Duration = Duration::from_millis(500);

/// Can a server listen there, or does it already?
pub(super) async fn examine(
    check: &'static str,
    address: SocketAddr,
    storage: &StorageConfig,
    findings: &mut Findings,
) {
    if let Some(found) = look(address, storage) {
        return findings.add(check, found.0, found.1);
    }
    // A server that starts has its address first, and only then the database.
    tokio::time::sleep(START_OF_A_SERVER).await;
    let (status, what) = look(address, storage).unwrap_or((
        Status::Failure,
        format!("{address} is in use, and not by a server on the database: none can be started"),
    ));
    findings.add(check, status, what);
}

/// How it stands with the address; `None` where it is taken, and no server runs on the database.
fn look(address: SocketAddr, storage: &StorageConfig) -> Option<(Status, String)> {
    match is_free(address) {
        Ok(()) => return Some((Status::Ok, format!("{address} is free"))),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
        Err(error) => {
            let what = format!("cannot listen on {address}: {error}");
            return Some((Status::Failure, what));
        }
    }
    match is_served(storage) {
        Some(true) => {
            let what = format!("{address} is in use, and a server runs on the database");
            Some((Status::Ok, what))
        }
        Some(false) => None,
        None => {
            let what = format!(
                "{address} is in use: by a server that runs already, or else none can be started"
            );
            Some((Status::Warning, what))
        }
    }
}

/// Can a server listen there? Other than listening, this does not keep one that starts just now from doing so.
fn is_free(address: SocketAddr) -> io::Result<()> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)
}

/// Does a server run on the database? `None` where that cannot be told. Asked only where its address is taken, since whoever
/// asks is in the way of one that starts just now.
fn is_served(storage: &StorageConfig) -> Option<bool> {
    match &storage.store {
        StoreConfig::Sqlite(sqlite) => match is_there(&sqlite.path) {
            Ok(true) => ServerLock::is_held(&sqlite.path).ok(),
            Ok(false) => Some(false),
            Err(_) => None,
        },
        StoreConfig::Memory | StoreConfig::Postgres(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::net::TcpListener;

    use leadr_auth_sqlite::SqliteConfig;

    use super::*;

    #[tokio::test]
    async fn a_server_that_is_about_to_take_the_lock_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.db");
        fs::write(&path, "").unwrap();
        let storage = StorageConfig {
            store: StoreConfig::Sqlite(SqliteConfig::new(path.clone())),
            data_dir: folder.path().to_owned(),
            secret: None,
        };
        // It has its address before it opens the database.
        let starting = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = starting.local_addr().unwrap();
        let mut findings = Findings::default();
        let examined = examine("listen", address, &storage, &mut findings);
        // The first look comes first.
        let ((), _lock) = tokio::join!(examined, async { ServerLock::acquire(&path).unwrap() });
        assert_eq!(findings.0[0].status, Status::Ok, "{findings:?}");
        assert!(findings.0[0].what.contains("a server runs"));
    }
}
