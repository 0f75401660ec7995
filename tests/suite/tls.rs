//! TLS over a real mosquitto: client certificates, a certificate replaced while everything runs, and each fault in the
//! words of the side that sees it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};

use simquota_tests::broker::{Broker as _, Mosquitto};
use simquota_tests::certificates::{Authority, Pair, Validity};
use simquota_tests::missing::missing_part;
use simquota_tests::process::LIMIT;

use crate::guarded::Guarded;
use crate::world::{octets, steady};

/// A listener with TLS that trusts `ca` for its clients.
pub(crate) fn listener(pair: &Pair, ca: Option<&Path>) -> String {
    let Pair { certificate, key } = pair;
    let mut text = format!(
        "allow_anonymous true\ncertfile {}\nkeyfile {}\n",
        certificate.display(),
        key.display()
    );
    if let Some(ca) = ca {
        text.push_str(&format!(
            "cafile {}\nrequire_certificate true\n",
            ca.display()
        ));
    }
    text
}

/// The keys of `[broker]` for a client with a certificate.
fn keys(ca: &Path, pair: &Pair) -> String {
    format!(
        "tls = true\nca_file = {ca:?}\ncertificate_file = {:?}\ncertificate_key_file = {:?}\n",
        pair.certificate, pair.key
    )
}

#[test]
fn everything_runs_over_tls_and_certificates_are_replaced_while_it_does() {
    let Some(program) = Mosquitto::find() else {
        return missing_part("mosquitto (TLS)");
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let (old, new) = (
        Authority::new("old").unwrap(),
        Authority::new("new").unwrap(),
    );
    let ca = old.write(&path.join("ca.pem")).unwrap();
    let server = old
        .issue(path, "server", &["localhost"], Validity::Now)
        .unwrap();
    let service = old.issue(path, "service", &[], Validity::Now).unwrap();
    let tracker = old.issue(path, "tracker", &[], Validity::Now).unwrap();
    let settings = listener(&server, Some(&ca));
    let mut world = Guarded::new(path, &program, &settings, &keys(&ca, &service));
    world.start_cloud();
    world.furnish();
    let trace = steady(8, 40_000);
    let mut device = world.device("tracker-1", &trace, &keys(&ca, &tracker));
    device.start();
    device.await_status("usage acknowledged over TLS", |status| {
        status["acked"].as_u64() > Some(0)
    });

    // Everything is replaced: issuer, the broker's certificate, the clients'. Nothing of ours is restarted.
    new.write(&ca).unwrap();
    for (name, hosts) in [
        ("server", &["localhost"][..]),
        ("service", &[]),
        ("tracker", &[]),
    ] {
        new.issue(path, name, hosts, Validity::Now).unwrap();
    }
    let (cloud, edge) = (
        world.cloud.as_ref().unwrap(),
        device.process.as_ref().unwrap(),
    );
    world.broker.reconfigure(&settings).unwrap();
    for process in [cloud, edge] {
        let fact = |line: &str| line.contains("certificates were replaced");
        process.wait_line(fact, LIMIT).unwrap();
    }
    let ended = device.process.as_mut().unwrap().wait_exit(LIMIT).unwrap();
    assert!(ended.success());
    let audit = world.audit();
    assert_eq!(audit["charged"].as_u64(), Some(octets(&trace)), "{audit}");
    world.cloud.as_ref().unwrap().assert_no_errors(&[]);
    device.process.as_ref().unwrap().assert_no_errors(&[]);
}

/// Why a client of the edge's and one of the cloud's do not connect, or `connected`.
fn tried(port: u16, host: &str, ca: &Path, pair: Option<&Pair>) -> Tried {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let identity = pair.map(|pair| (pair.certificate.clone(), pair.key.clone()));
    let (said, edge) = channel();
    let edge_line = {
        use simquota_edge::io::mqtt::{MqttEvent, Options, connect};
        let options = Options {
            client_id: "edge".to_owned(),
            host: host.to_owned(),
            port,
            tls: Some(simquota_edge::io::tls::TlsFiles {
                ca: Some(ca.to_owned()),
                identity: identity.clone(),
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
        let on_event = move |event| {
            let _ = match event {
                MqttEvent::Connected { .. } => said.send("connected".to_owned()),
                MqttEvent::Disconnected { reason, .. } => said.send(reason),
                _ => Ok(()),
            };
        };
        connect(runtime.handle(), options, || 0, on_event).unwrap()
    };
    let (said, cloud) = channel();
    let cloud_line = {
        use simquota_cloud::io::mqtt::{Flow, MqttEvent, Options, connect};
        let options = Options {
            client_id: "cloud".to_owned(),
            host: host.to_owned(),
            port,
            tls: Some(simquota_cloud::io::tls::TlsFiles {
                ca: Some(ca.to_owned()),
                identity,
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
        connect(runtime.handle(), options, move |event| {
            let _ = match event {
                MqttEvent::Connected { .. } => said.send("connected".to_owned()),
                MqttEvent::Disconnected { reason, .. } => said.send(reason),
                _ => Ok(()),
            };
            Flow::Go
        })
        .unwrap()
    };
    let first = |events: Receiver<String>| events.recv_timeout(LIMIT).unwrap();
    Tried {
        reasons: [first(edge), first(cloud)],
        _lines: (edge_line, cloud_line),
        _runtime: runtime,
    }
}

/// What became of the first attempts; more follow until this is dropped, so that a broker which missed the reason the
/// first time hears it again.
struct Tried {
    reasons: [String; 2],
    _lines: (
        simquota_edge::io::mqtt::Publisher,
        simquota_cloud::io::mqtt::Line,
    ),
    _runtime: tokio::runtime::Runtime,
}

/// What is wrong, and what each side says about it.
struct Fault {
    what: &'static str,
    settings: String,
    host: &'static str,
    pair: Option<Pair>,
    ours: &'static str,
    brokers: &'static str,
}

#[test]
fn each_fault_of_a_certificate_has_its_own_words_on_both_sides() {
    let Some(program) = Mosquitto::find() else {
        return missing_part("mosquitto (TLS)");
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let (ours, theirs) = (
        Authority::new("ours").unwrap(),
        Authority::new("theirs").unwrap(),
    );
    let ca = ours.write(&path.join("ca.pem")).unwrap();
    let issue = |by: &Authority, name: &str, hosts: &[&str], validity| {
        by.issue(path, name, hosts, validity).unwrap()
    };
    let local = &["localhost"];
    let good = issue(&ours, "server", local, Validity::Now);
    let plain = "allow_anonymous true\n".to_owned();
    let server = |name: &str, by: &Authority, hosts: &[&str], validity| {
        listener(&issue(by, name, hosts, validity), None)
    };
    let asks = listener(&good, Some(&ca));
    let none = |what, settings, ours, brokers| Fault {
        what,
        settings,
        host: "localhost",
        pair: None,
        ours,
        brokers,
    };
    let faults = [
        none("nothing", listener(&good, None), "connected", ""),
        none(
            "the broker's has expired",
            server("expired", &ours, local, Validity::Expired),
            "the broker's certificate expired on 2021-02-03",
            "alert certificate expired",
        ),
        none(
            "the broker's is not valid yet",
            server("early", &ours, local, Validity::NotYet),
            "not valid before 2090-01-01",
            "alert",
        ),
        none(
            "the broker's is for another host",
            server("elsewhere", &ours, &["mqtt.example.com"], Validity::Now),
            "is not for localhost but for",
            "alert",
        ),
        none(
            "the broker's is of an unknown issuer",
            server("foreign", &theirs, local, Validity::Now),
            "from an issuer that is not trusted here",
            "alert unknown ca",
        ),
        none("the broker speaks no TLS", plain, "speak TLS", ""),
        none(
            "ours is missing",
            asks.clone(),
            "the broker wants a certificate of ours",
            "peer did not return a certificate",
        ),
        Fault {
            pair: Some(issue(&ours, "late", &[], Validity::Expired)),
            ..none(
                "ours has expired",
                asks.clone(),
                "our certificate has expired",
                "certificate verify failed",
            )
        },
        Fault {
            pair: Some(issue(&theirs, "stranger", &[], Validity::Now)),
            ..none(
                "ours is of an unknown issuer",
                asks.clone(),
                "does not know the issuer of our certificate",
                "certificate verify failed",
            )
        },
        Fault {
            pair: Some(issue(&ours, "client", &[], Validity::Now)),
            ..none("nothing, with a certificate", asks, "connected", "")
        },
    ];
    for fault in faults {
        let broker = Mosquitto::start_with(&program, &fault.settings).unwrap();
        let tried = tried(broker.port(), fault.host, &ca, fault.pair.as_ref());
        for reason in &tried.reasons {
            assert!(reason.contains(fault.ours), "{}: {reason}", fault.what);
            assert_eq!(reason.lines().count(), 1, "{reason}");
        }
        if !fault.brokers.is_empty() {
            let said = |line: &str| line.contains(fault.brokers);
            let heard = broker.child().unwrap().wait_line(said, LIMIT);
            heard.unwrap_or_else(|error| panic!("{}: {error}", fault.what));
        }
    }
}

#[test]
fn files_that_can_not_be_used_are_named_before_anything_runs() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let authority = Authority::new("ours").unwrap();
    let ca = authority.write(&path.join("ca.pem")).unwrap();
    let one = authority.issue(path, "one", &[], Validity::Now).unwrap();
    let two = authority.issue(path, "two", &[], Validity::Now).unwrap();
    let read = |ca: &Path, pair: Option<(&PathBuf, &PathBuf)>| {
        let files = simquota_cloud::io::tls::TlsFiles {
            ca: Some(ca.to_owned()),
            identity: pair.map(|(certificate, key)| (certificate.clone(), key.clone())),
        };
        let config = files
            .read()
            .map_err(|error| error.to_string())
            .and_then(|pem| simquota_shared::tls::client_config(&pem).map_err(|e| e.to_string()));
        config.map(drop)
    };
    assert_eq!(read(&ca, Some((&one.certificate, &one.key))), Ok(()));
    let error = read(&path.join("none.pem"), None).unwrap_err();
    assert!(
        error.contains("none.pem") && error.contains("ca_file"),
        "{error}"
    );
    let error = read(&ca, Some((&one.certificate, &two.key))).unwrap_err();
    assert!(error.contains("do not fit each other"), "{error}");
    let error = read(&ca, Some((&one.key, &one.key))).unwrap_err();
    assert!(
        error.contains("certificate_file holds no certificate"),
        "{error}"
    );
    let error = read(&ca, Some((&one.certificate, &one.certificate))).unwrap_err();
    assert!(error.contains("run `chmod 600"), "{error}");
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(&one.certificate, fs::Permissions::from_mode(0o600)).unwrap();
    let error = read(&ca, Some((&one.certificate, &one.certificate))).unwrap_err();
    assert!(error.contains("holds no private key"), "{error}");
    let secret = fs::read_to_string(&one.key).unwrap();
    let digits = secret.lines().nth(1).unwrap();
    assert!(!error.contains(digits));
}
