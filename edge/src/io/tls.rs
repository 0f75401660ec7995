//! TLS below the MQTT client: the files, and the handshake.
//!
//! The files are read before each connection, so a certificate that was replaced is in use from the next connection
//! on, without a restart; a connection that is open goes on, as it does for the broker. What the files mean, and what
//! errors say, is `simquota_shared::tls`.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use simquota_shared::tls::{FILE_OCTETS_MAX, Identity, Pem, Renewed, SYSTEM_ROOTS, explain};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls;
use tokio_rustls::rustls::pki_types::ServerName;
use zeroize::Zeroizing;

/// For a broker to close a connection whose handshake failed.
const PART_WITHIN: Duration = Duration::from_secs(1);

/// Where certificates and keys are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// Whose certificates are trusted; `None`: the system's roots.
    pub ca: Option<PathBuf>,
    /// Our certificate and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// Why files can't be used. No text of it holds any part of them.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// One can't be read.
    #[error("cannot read {} ({source}): correct `{key}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The key of the configuration that names it.
        key: &'static str,
        /// What went wrong.
        source: io::Error,
    },
    /// Others may read the private key.
    #[error("the key file {path} can be read by others (mode {mode:04o}): run `chmod 600 {path}`", path = path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// No system roots.
    #[error(
        "this system has no list of trusted roots in a known place: install ca-certificates, or set `ca_file`"
    )]
    NoRoots,
    /// What is in them.
    #[error(transparent)]
    Pem(#[from] simquota_shared::tls::PemError),
}

impl TlsFiles {
    /// Reads them, as they are now.
    ///
    /// # Errors
    /// [`TlsError`]; a private key that others may read is refused.
    pub fn read(&self) -> Result<Pem, TlsError> {
        let roots = match &self.ca {
            Some(path) => read(path, "ca_file", Readers::All)?,
            None => {
                let found = SYSTEM_ROOTS
                    .iter()
                    .map(Path::new)
                    .find(|path| path.exists());
                read(found.ok_or(TlsError::NoRoots)?, "ca_file", Readers::All)?
            }
        };
        let identity = match &self.identity {
            None => None,
            Some((chain, key)) => Some(Identity {
                chain: read(chain, "certificate_file", Readers::All)?.to_vec(),
                key: read(key, "certificate_key_file", Readers::Owner)?,
            }),
        };
        Ok(Pem {
            roots: roots.to_vec(),
            identity,
        })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Readers {
    All,
    Owner,
}

fn read(path: &Path, key: &'static str, readers: Readers) -> Result<Zeroizing<Vec<u8>>, TlsError> {
    let failed = |source| TlsError::Read {
        path: path.to_owned(),
        key,
        source,
    };
    let file = File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.mode() & 0o777;
    if readers == Readers::Owner && mode & 0o077 != 0 {
        return Err(TlsError::Open {
            path: path.to_owned(),
            mode,
        });
    }
    let mut octets = Zeroizing::new(Vec::new());
    file.take(FILE_OCTETS_MAX)
        .read_to_end(&mut octets)
        .map_err(failed)?;
    Ok(octets)
}

/// Shakes hands on a stream. Clones share what can be resumed.
#[derive(Clone, Debug)]
pub(crate) struct Handshake {
    files: TlsFiles,
    renewed: Arc<Mutex<Renewed>>,
}

impl Handshake {
    pub(crate) fn new(files: TlsFiles) -> Self {
        Self {
            files,
            renewed: Arc::default(),
        }
    }

    /// TLS on a stream to `host`, or one line that says what is wrong and what to do.
    pub(crate) async fn shake(
        &self,
        host: &str,
        tcp: TcpStream,
    ) -> io::Result<TlsStream<TcpStream>> {
        let config = self.config().map_err(io::Error::other)?;
        let name =
            ServerName::try_from(host.trim_matches(['[', ']']).to_owned()).map_err(|_| {
                io::Error::other(format!("`{host}` is no name that a certificate can be for"))
            })?;
        let shaken = TlsConnector::from(config)
            .connect(name, tcp)
            .into_fallible()
            .await;
        let stream = match shaken {
            Ok(stream) => stream,
            Err((error, tcp)) => {
                part(tcp).await;
                return Err(match words(&error, host) {
                    Some(words) => io::Error::other(words),
                    None if hung_up(&error) => io::Error::other(
                        "the broker hung up during the TLS handshake: its log says why; if it does not speak TLS on this port, correct the port",
                    ),
                    None => error,
                });
            }
        };
        let (_, session) = stream.get_ref();
        tracing::debug!(version = ?session.protocol_version(), handshake = ?session.handshake_kind(), "TLS established");
        Ok(stream)
    }

    fn config(&self) -> Result<Arc<rustls::ClientConfig>, TlsError> {
        let pem = self.files.read()?;
        // Changed in one assignment: a panic can't have left it half done.
        let mut renewed = self.renewed.lock().unwrap_or_else(PoisonError::into_inner);
        let (config, changed) = renewed.for_files(pem)?;
        if changed {
            tracing::info!("certificates were replaced, the new ones are in use");
        }
        Ok(config)
    }
}

/// Closes a connection so that the broker reads the alert that says why: with octets of its own unread, closing at once
/// would be a reset, and it might see nothing else.
async fn part(mut tcp: TcpStream) {
    let read_out = async {
        let mut room = [0; 1024];
        tcp.shutdown().await?;
        while tcp.read(&mut room).await? > 0 {}
        io::Result::Ok(())
    };
    // It may have gone already, and it may not keep us.
    let _ = timeout(PART_WITHIN, read_out).await;
}

fn hung_up(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
}

/// An error of a stream in words, if it is one of TLS. The broker's word about our certificate comes with the first
/// read, after the handshake.
pub(crate) fn words(error: &io::Error, host: &str) -> Option<String> {
    let inner = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    Some(explain(inner, host))
}
