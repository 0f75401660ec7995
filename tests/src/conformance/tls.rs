//! TLS for the kit's MQTT client, which knows none: a way through on this machine.

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use simquota_shared::tls::{Pem, client_config, explain};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::Error;
use tokio_rustls::rustls::pki_types::ServerName;

const LIMIT: Duration = Duration::from_secs(30);

/// Opens TLS to a broker whose certificate is of an issuer in `ca`, and a port of this machine that leads there, for
/// one connection.
pub(super) fn way(host: &str, port: u16, ca: &Path) -> anyhow::Result<u16> {
    let roots = std::fs::read(ca).with_context(|| format!("can't read {}", ca.display()))?;
    let config = client_config(&Pem {
        roots,
        identity: None,
    })?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    // At once, so that a certificate that is not right is said before anything else.
    let far = runtime.block_on(async {
        let connected = tokio::time::timeout(LIMIT, connect(host, port, config)).await;
        connected.with_context(|| format!("{host}:{port} did not answer in {LIMIT:?}"))?
    });
    let mut far = far?;
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let near_port = listener.local_addr()?.port();
    listener.set_nonblocking(true)?;
    std::thread::spawn(move || {
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let (mut near, _) = listener.accept().await?;
            // When it ends the kit's client sees its connection end.
            tokio::io::copy_bidirectional(&mut near, &mut far).await
        })
    });
    Ok(near_port)
}

async fn connect(
    host: &str,
    port: u16,
    config: tokio_rustls::rustls::ClientConfig,
) -> anyhow::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect((host, port))
        .await
        .with_context(|| format!("no connection to {host}:{port}"))?;
    let name = ServerName::try_from(host.to_owned())?;
    let shaken = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await;
    shaken.map_err(|error| {
        let why = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<Error>());
        match why {
            Some(why) => anyhow!("{}", explain(why, host)),
            None => anyhow!("TLS with {host}:{port}: {error}"),
        }
    })
}
