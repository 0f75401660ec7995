//! Web hooks: each event arrives at least once, with one id and a good signature, over failures and kills on both sides.

use std::collections::BTreeMap;
use std::net::{Shutdown, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use serde_json::Value;
use simquota_cloud::io::hooks::signature;
use simquota_tests::certificates::{Authority, Pair, Validity};
use simquota_tests::process::await_fact;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ServerConfig, ServerConnection, Stream};

use super::http::value;
use super::*;

/// A request as it came: its headers, by lower-case names, and its body.
#[derive(Clone, Debug)]
pub(super) struct Got {
    pub(super) headers: BTreeMap<String, String>,
    pub(super) body: String,
}

/// A receiver on a port of its own, which can be killed and come back.
pub(super) struct Receiver {
    port: u16,
    got: Arc<Mutex<Vec<Got>>>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Receiver {
    /// Answers the first `failures` requests with 500, and takes the rest.
    pub(super) fn start(port: u16, got: &Arc<Mutex<Vec<Got>>>, mut failures: u32) -> Self {
        let listener = await_fact(LIMIT, "the receiver's port", || {
            TcpListener::bind(("127.0.0.1", port)).ok()
        })
        .unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let (seen, end) = (Arc::clone(got), Arc::clone(&over));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if end.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let Some((got, mut stream)) = read_request(stream) else {
                    continue;
                };
                let status = match failures {
                    0 => "200 OK",
                    _ => "500 Not Now",
                };
                failures = failures.saturating_sub(1);
                seen.lock().unwrap().push(got);
                let _ = write!(
                    stream,
                    "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                );
                let _ = stream.shutdown(Shutdown::Write);
            }
        });
        Self {
            port,
            got: Arc::clone(got),
            over,
            thread: Some(thread),
        }
    }

    pub(super) fn kill(mut self) {
        self.over.store(true, Ordering::SeqCst);
        // So that it looks up.
        drop(TcpStream::connect(("127.0.0.1", self.port)));
        self.thread.take().unwrap().join().unwrap();
    }

    pub(super) fn await_got(&self, what: &str, fits: impl Fn(&[Got]) -> bool) -> Vec<Got> {
        await_fact(LIMIT, what, || {
            let got = self.got.lock().unwrap().clone();
            fits(&got).then_some(got)
        })
        .unwrap_or_else(|error| panic!("{error}: {:#?}", self.got.lock().unwrap()))
    }
}

fn read_request(stream: TcpStream) -> Option<(Got, TcpStream)> {
    stream.set_read_timeout(Some(LIMIT)).ok()?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    if !line.starts_with("POST /events ") {
        return None;
    }
    let mut headers = BTreeMap::new();
    loop {
        line.clear();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim().split_once(": ") else {
            break;
        };
        headers.insert(name.to_lowercase(), value.to_owned());
    }
    let mut body = vec![0; headers.get("content-length")?.parse().ok()?];
    reader.read_exact(&mut body).ok()?;
    let body = String::from_utf8(body).ok()?;
    Some((Got { headers, body }, reader.into_inner()))
}

fn ids(got: &[Got]) -> Vec<u64> {
    let ids = got.iter().map(|got| {
        let body: Value = serde_json::from_str(&got.body).unwrap();
        body["id"].as_u64().unwrap()
    });
    ids.collect()
}

pub(super) fn kinds(got: &[Got]) -> BTreeMap<u64, String> {
    let mut kinds = BTreeMap::new();
    for one in got {
        let body: Value = serde_json::from_str(&one.body).unwrap();
        let kind = body["kind"].as_str().unwrap().to_owned();
        let before = kinds.insert(body["id"].as_u64().unwrap(), kind.clone());
        assert!(
            before.is_none_or(|before| before == kind),
            "one id, one event"
        );
        assert_eq!(one.headers["simquota-event"], body["id"].to_string());
    }
    kinds
}

fn suspend(world: &World) {
    world.cloud(&["fleet", "suspend", "buses"]);
    world.cloud(&["fleet", "resume", "buses"]);
}

#[test]
fn each_event_arrives_at_least_once_over_failures_and_kills_of_both_sides() {
    let mut world = World::start();
    // From before the receiver was known: not told.
    suspend(&world);
    let port = simquota_tests::port::free_port().unwrap();
    let nobody = simquota_tests::port::free_port().unwrap();
    let hooks = format!(
        "[[hook]]\nname = \"dead\"\nurl = \"http://127.0.0.1:{nobody}/events\"\n\
         [[hook]]\nname = \"pager\"\nurl = \"http://127.0.0.1:{port}/events\"\nfleet = \"buses\"\nkinds = [\"fleet-suspended\", \"fleet-resumed\"]\n"
    );
    restart_with(&mut world, &hooks);
    let key = world.text(&["hook-key", "pager"]);
    let key: [u8; 32] =
        std::array::from_fn(|n| u8::from_str_radix(&key[2 * n..2 * n + 2], 16).unwrap());

    // Twice it fails, the third time it takes the event, and what follows.
    let got = Arc::new(Mutex::new(Vec::new()));
    let receiver = Receiver::start(port, &got, 2);
    suspend(&world);
    world.cloud(&[
        "package",
        "buy",
        "--fleet",
        "buses",
        "--volume",
        "1MB",
        "--package",
        "p",
    ]);
    world.cloud(&["package", "cancel", "p", "--fleet", "buses"]);
    let first = receiver.await_got("two events after two failures", |got| got.len() >= 4);
    let order = ids(&first);
    assert_eq!(order[0], order[1], "the same event again");
    assert_eq!(order[1], order[2]);
    assert!(order[3] > order[2], "in order");

    // The receiver dies, events happen, the service dies, and both come back.
    receiver.kill();
    suspend(&world);
    world.cloud.as_mut().unwrap().kill9().unwrap();
    world.start_cloud();
    listens(&world);
    let receiver = Receiver::start(port, &got, 0);
    let all = receiver.await_got("four events in all", |got| kinds(got).len() >= 4);
    let kinds = kinds(&all);
    let told: Vec<&str> = kinds.values().map(String::as_str).collect();
    assert_eq!(
        told,
        [
            "fleet-suspended",
            "fleet-resumed",
            "fleet-suspended",
            "fleet-resumed"
        ]
    );

    // Signed, each try under its own time, by the key that the receiver has.
    for one in &all {
        let timestamp = one.headers["simquota-timestamp"].parse().unwrap();
        let expected = signature(&key, timestamp, &one.body).unwrap();
        assert_eq!(one.headers["simquota-signature"], expected);
        let altered = signature(&key, timestamp + 1, &one.body).unwrap();
        assert_ne!(one.headers["simquota-signature"], altered);
    }
    // The ids are entries of the journal, as on the broker.
    let trail = world.cloud(&["explain", "--fleet", "buses"]).remove(0);
    for id in kinds.keys() {
        assert!(
            trail
                .as_array()
                .unwrap()
                .iter()
                .any(|row| row["entry"].as_u64() == Some(*id))
        );
    }
    // The dead receiver has held up nobody, and its events wait.
    let at = listens(&world);
    let admin = token(&world, "admin");
    await_fact(LIMIT, "the dead receiver's events to wait", || {
        let scrape = get(at, "/metrics", Some(&admin)).body;
        let dead = value(&scrape, "simquota_hook_events_pending{hook=\"dead\"}")?;
        let pager = value(&scrape, "simquota_hook_events_pending{hook=\"pager\"}")?;
        // All that happened since it is known, the cancelled package too.
        (dead >= 5.0 && pager == 0.0).then_some(())
    })
    .unwrap();
    world.cloud.as_ref().unwrap().assert_no_errors(&[]);
    receiver.kill();
}

/// Answers one request over TLS with 200, and says what its line was; a client that does not believe the certificate
/// gets no further than the handshake.
fn over_tls(pair: &Pair) -> (u16, std::sync::mpsc::Receiver<String>) {
    let chain = CertificateDer::pem_file_iter(&pair.certificate)
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    let key = PrivateKeyDer::from_pem_file(&pair.key).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (said, heard) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            let mut tls = ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut line = String::new();
            let mut reader = BufReader::new(Stream::new(&mut tls, &mut stream));
            if reader.read_line(&mut line).is_err() || !line.starts_with("POST ") {
                continue;
            }
            // The whole head, so that nothing of it is unread when the connection ends.
            let (mut head, mut length) = (String::new(), 0);
            while reader.read_line(&mut head).is_ok_and(|count| count > 2) {
                let lower = head.to_lowercase();
                if let Some(octets) = lower.strip_prefix("content-length: ") {
                    length = octets.trim().parse().unwrap();
                }
                head.clear();
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            let stream = reader.get_mut();
            let answer = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            let _ = stream.write_all(answer.as_bytes());
            let _ = stream.flush();
            stream.conn.send_close_notify();
            let _ = stream.flush();
            if said.send(line).is_err() {
                return;
            }
        }
    });
    (port, heard)
}

#[test]
fn over_https_a_receiver_is_believed_by_its_own_authority_and_by_no_other() {
    let mut world = World::start();
    let folder = world.folder.path().to_owned();
    let ours = Authority::new("ours").unwrap();
    let other = Authority::new("other").unwrap();
    ours.write(&folder.join("ours.pem")).unwrap();
    other.write(&folder.join("other.pem")).unwrap();
    let pair = ours
        .issue(&folder, "receiver", &["localhost"], Validity::Now)
        .unwrap();
    let (port, heard) = over_tls(&pair);
    let hook = |name: &str, ca: &str| {
        format!(
            "[[hook]]\nname = \"{name}\"\nurl = \"https://localhost:{port}/{name}\"\n{ca}\nkinds = [\"fleet-suspended\"]\n"
        )
    };
    let hooks = [
        hook("believing", "ca_file = \"ours.pem\""),
        hook("doubting", "ca_file = \"other.pem\""),
        hook("system", ""),
    ];
    restart_with(&mut world, &hooks.concat());
    suspend(&world);
    let line = heard.recv_timeout(LIMIT).unwrap();
    assert!(line.starts_with("POST /believing "), "{line}");
    let cloud = world.cloud.as_ref().unwrap();
    for name in ["doubting", "system"] {
        let failed = |line: &str| line.contains("event not delivered") && line.contains(name);
        let line = cloud.wait_line(failed, LIMIT).unwrap();
        assert!(line.text.contains("certificate"), "{}", line.text);
    }
    assert!(heard.try_recv().is_err(), "nobody else came through");
}
