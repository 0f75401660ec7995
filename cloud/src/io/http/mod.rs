//! HTTP for operators: is it alive, is it ready, what does it count, how much does it log.
//!
//! | request | who | answer |
//! |---|---|---|
//! | `GET /healthz` | anybody | 200 `ok`: the process answers |
//! | `GET /readyz` | anybody | 200 or 503, `{"ready":false,"reasons":["read-only: …"]}` |
//! | `GET /metrics` | any key that is believed | Prometheus' text format |
//! | `GET /log` | any key that is believed | the directives in force |
//! | `PUT /log` | an admin's key | the body, at most 256 octets such as `info,simquota_cloud=debug`, is in force at once |
//!
//! A token (see [`token`]) is in `Authorization: Bearer …`. Being on loopback exempts nobody: `metrics_open = true` opens
//! `/metrics`, and nothing else. There is no TLS: what listens beyond loopback stands behind a proxy that has it.
//!
//! Money does not hang on monitoring: when the address is taken the service runs, says so, and tries again. At most 64
//! connections stand at a time, and a request's head may take 5 s.

mod observed;
pub mod token;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

pub use observed::{Observed, Readiness};
use token::Claimed;

use super::clock;
use super::keys::KeyFolder;
use crate::ledger::entry::Role;

const CONNECTIONS_MAX: usize = 64;
const HEAD_WITHIN: Duration = Duration::from_secs(5);
/// A connection that is kept open longer than this is ended; a scraper makes another.
const CONNECTION_LIFE: Duration = Duration::from_secs(300);
const LISTEN_AGAIN: Duration = Duration::from_secs(5);
const BODY_MAX: usize = 256;
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Where to listen, and for whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HttpConfig {
    /// The address; `None` listens nowhere.
    pub listen: Option<SocketAddr>,
    /// `/metrics` needs no token.
    pub metrics_open: bool,
}

/// Sets what is logged, and says what is.
pub trait LogSwitch: Send + Sync {
    /// Puts directives in force.
    ///
    /// # Errors
    /// What is wrong with them, for whoever asked.
    fn set(&self, directives: &str) -> Result<(), String>;
    /// The directives in force.
    fn current(&self) -> String;
}

/// What requests are answered from.
#[derive(Clone)]
struct Desk {
    observed: Arc<Observed>,
    keys: KeyFolder,
    metrics_open: bool,
    log: Option<Arc<dyn LogSwitch>>,
}

/// Listens and answers, in the background, until the runtime ends.
pub(crate) fn serve(
    runtime: &Handle,
    config: HttpConfig,
    keys: KeyFolder,
    observed: Arc<Observed>,
    log: Option<Arc<dyn LogSwitch>>,
) {
    let Some(address) = config.listen else {
        return;
    };
    let routes = routes(Desk {
        observed,
        keys,
        metrics_open: config.metrics_open,
        log,
    });
    runtime.spawn(async move {
        let listener = listener(address).await;
        let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((stream, _)) => drop(tokio::spawn(connection(stream, routes.clone(), permit))),
                Err(error) => {
                    // Too many open files, mostly: the place is given back, and it is tried again.
                    tracing::warn!(%error, "no connection taken over HTTP");
                    tokio::time::sleep(LISTEN_AGAIN).await;
                }
            }
        }
    });
}

async fn listener(address: SocketAddr) -> TcpListener {
    let mut told = false;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => {
                let address = listener.local_addr().unwrap_or(address);
                tracing::info!(%address, "listening for HTTP");
                return listener;
            }
            Err(error) if !told => {
                told = true;
                tracing::warn!(%address, %error, "not listening for HTTP, tried again: set http.listen to another address, or to \"\"");
            }
            Err(_) => {}
        }
        tokio::time::sleep(LISTEN_AGAIN).await;
    }
}

async fn connection(stream: TcpStream, routes: Router, _place: OwnedSemaphorePermit) {
    let service = TowerToHyperService::new(routes);
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .serve_connection(TokioIo::new(stream), service);
    if let Ok(Err(error)) = tokio::time::timeout(CONNECTION_LIFE, served).await {
        tracing::debug!(%error, "connection over HTTP ended");
    }
}

fn routes(desk: Desk) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/log", get(log_now).put(set_log))
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .layer(from_fn_with_state(desk.clone(), count))
        .with_state(desk)
}

/// Counts, by paths of ours alone: what a stranger asks for is no label.
async fn count(State(desk): State<Desk>, request: Request, next: Next) -> Response {
    let path = match request.uri().path() {
        "/healthz" => "/healthz",
        "/readyz" => "/readyz",
        "/metrics" => "/metrics",
        "/log" => "/log",
        _ => "other",
    };
    let response = next.run(request).await;
    let status = response.status();
    let labels = [path, status.as_str()];
    desk.observed.metrics.http.with_label_values(&labels).inc();
    response
}

async fn ready(State(desk): State<Desk>) -> Response {
    let readiness = desk.observed.readiness();
    let status = match readiness.ready {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    match serde_json::to_string(&readiness) {
        Ok(text) => {
            let kind = [(header::CONTENT_TYPE, "application/json")];
            (status, kind, text + "\n").into_response()
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn metrics(State(desk): State<Desk>, headers: HeaderMap) -> Response {
    if !desk.metrics_open
        && let Err(refused) = desk.caller(&headers)
    {
        return refused.into_response();
    }
    match desk.observed.metrics.text() {
        Ok(text) => ([(header::CONTENT_TYPE, TEXT)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "metrics not written: report this");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

async fn log_now(State(desk): State<Desk>, headers: HeaderMap) -> Response {
    match (desk.caller(&headers), &desk.log) {
        (Err(refused), _) => refused.into_response(),
        (Ok(_), Some(log)) => (log.current() + "\n").into_response(),
        (Ok(_), None) => StatusCode::NOT_IMPLEMENTED.into_response(),
    }
}

async fn set_log(State(desk): State<Desk>, headers: HeaderMap, body: Bytes) -> Response {
    let author = match desk.caller(&headers) {
        Ok((author, Role::Admin)) => author,
        Ok((_, Role::Manager | Role::Viewer)) => {
            let words = "this needs the token of an admin's key\n";
            return (StatusCode::FORBIDDEN, words).into_response();
        }
        Err(refused) => return refused.into_response(),
    };
    let Some(log) = &desk.log else {
        return StatusCode::NOT_IMPLEMENTED.into_response();
    };
    let directives = String::from_utf8_lossy(&body).trim().to_owned();
    match log.set(&directives) {
        Ok(()) => {
            tracing::info!(author, directives, "log set");
            StatusCode::NO_CONTENT.into_response()
        }
        Err(why) => (StatusCode::BAD_REQUEST, why + "\n").into_response(),
    }
}

/// Nobody that is known asks.
struct Unknown;

impl IntoResponse for Unknown {
    fn into_response(self) -> Response {
        let how = [(header::WWW_AUTHENTICATE, "Bearer realm=\"simquota\"")];
        let words = "a token is needed: simquota-cloud token --key KEY\n";
        (StatusCode::UNAUTHORIZED, how, words).into_response()
    }
}

impl Desk {
    /// Who asks, and what their key allows. Which of all the reasons a token is refused for is nobody's business.
    fn caller(&self, headers: &HeaderMap) -> Result<(String, Role), Unknown> {
        self.believed(headers).ok_or(Unknown)
    }

    fn believed(&self, headers: &HeaderMap) -> Option<(String, Role)> {
        let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
        let claimed = Claimed::parse(value.strip_prefix("Bearer ")?.trim())?;
        // A name that the ledger does not know costs no look at the disk.
        let role = self.observed.role(&claimed.kid.name.parse().ok()?)?;
        let key = self.keys.person(&claimed.kid).ok().flatten()?;
        claimed
            .is_good(&key, clock::now())
            .then_some((claimed.kid.name, role))
    }
}
