//! TLS sessions are resumed: the second connection of edge and of cloud costs no certificates and no signature. The
//! server here says which handshake it was; a certificate that is replaced begins a new session, without a restart.

use std::path::Path;
use std::sync::Arc;

use simquota_tests::certificates::{Authority, Pair, Validity};
use simquota_tests::process::LIMIT;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{HandshakeKind, ServerConfig, SupportedProtocolVersion};

/// A server that shakes hands, reads the first packet, and hangs up.
async fn server(
    pair: &Pair,
    version: &'static SupportedProtocolVersion,
) -> (u16, UnboundedReceiver<HandshakeKind>) {
    let chain = CertificateDer::pem_file_iter(&pair.certificate)
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    let key = PrivateKeyDer::from_pem_file(&pair.key).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (said, shaken) = unbounded_channel();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(tcp).await else {
                continue;
            };
            let kind = stream.get_ref().1.handshake_kind().unwrap();
            // What the client says first shows that it has seen the end of the handshake.
            let mut room = [0; 1024];
            let _ = stream.read(&mut room).await;
            if said.send(kind).is_err() {
                return;
            }
        }
    });
    (port, shaken)
}

async fn next(shaken: &mut UnboundedReceiver<HandshakeKind>) -> HandshakeKind {
    timeout(LIMIT, shaken.recv()).await.unwrap().unwrap()
}

/// Full, resumed; after a file was replaced full again, and resumed again.
async fn resumes(shaken: &mut UnboundedReceiver<HandshakeKind>, ca: &Path) {
    assert_eq!(next(shaken).await, HandshakeKind::Full);
    assert_eq!(next(shaken).await, HandshakeKind::Resumed);
    // The same issuer, and one more: other octets. A connection may be on its way meanwhile.
    let mut both = std::fs::read_to_string(ca).unwrap();
    let other = ca.with_extension("other");
    Authority::new("other").unwrap().write(&other).unwrap();
    both.push_str(&std::fs::read_to_string(&other).unwrap());
    std::fs::write(&other, both).unwrap();
    std::fs::rename(&other, ca).unwrap();
    while next(shaken).await != HandshakeKind::Full {}
    assert_eq!(next(shaken).await, HandshakeKind::Resumed);
}

struct Stand {
    folder: tempfile::TempDir,
    pair: Pair,
    authority: Authority,
}

impl Stand {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new("issuer").unwrap();
        let pair = authority
            .issue(folder.path(), "server", &["localhost"], Validity::Now)
            .unwrap();
        Self {
            folder,
            pair,
            authority,
        }
    }

    fn ca(&self) -> std::path::PathBuf {
        let path = self.folder.path().join("ca.pem");
        self.authority.write(&path).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_edges_second_connection_resumes() {
    use simquota_edge::io::mqtt::{Options, connect};
    let stand = Stand::new();
    for version in [&TLS13, &TLS12] {
        let ca = stand.ca();
        let (port, mut shaken) = server(&stand.pair, version).await;
        let options = Options {
            client_id: "edge".to_owned(),
            host: "localhost".to_owned(),
            port,
            tls: Some(simquota_edge::io::tls::TlsFiles {
                ca: Some(ca.clone()),
                identity: None,
            }),
            username: None,
            password: None,
            keep_alive_s: 30,
            will: None,
            subscriptions: Vec::new(),
            inflight: 10,
            session_expiry_s: 0,
            bind_device: None,
        };
        let runtime = tokio::runtime::Handle::current();
        let line = connect(&runtime, options, || 0, |_| {}).unwrap();
        resumes(&mut shaken, &ca).await;
        drop(line);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clouds_second_connection_resumes() {
    use simquota_cloud::io::mqtt::{Flow, Options, connect};
    let stand = Stand::new();
    for version in [&TLS13, &TLS12] {
        let ca = stand.ca();
        let (port, mut shaken) = server(&stand.pair, version).await;
        let options = Options {
            client_id: "cloud".to_owned(),
            host: "localhost".to_owned(),
            port,
            tls: Some(simquota_cloud::io::tls::TlsFiles {
                ca: Some(ca.clone()),
                identity: None,
            }),
            credentials: None,
            keep_alive_s: 30,
            will: None,
            subscriptions: Vec::new(),
            looks_on: false,
            inflight: 10,
            receive_max: 10,
            session_expiry_s: 0,
        };
        let runtime = tokio::runtime::Handle::current();
        let line = connect(&runtime, options, |_| Flow::Go).unwrap();
        resumes(&mut shaken, &ca).await;
        drop(line);
    }
}
