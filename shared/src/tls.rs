//! TLS: what a connection trusts, who it says it is, and what its errors mean to a person.
//!
//! The messages are sealed whoever carries them (see [`envelope`](crate::envelope)); TLS keeps them from being
//! read, and tells the broker from somebody else. This is the pure half, common to edge and cloud: PEM octets in, a
//! configuration out. Reading files, dialling and shaking hands are each shell's own.
//!
//! TLS 1.3 and 1.2, nothing older; session tickets are kept with the configuration, so as long as the files stay the
//! same a reconnect resumes the session.

use std::fmt;
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::{AlertDescription, CertificateError, ClientConfig, Error, RootCertStore};
use zeroize::Zeroizing;

/// Where a system keeps the roots that it trusts: Debian and Alpine, Fedora, SUSE, OpenWrt and BSD.
pub const SYSTEM_ROOTS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
/// The largest file that is taken for one of these: all the world's roots are a quarter of a megabyte.
pub const FILE_OCTETS_MAX: u64 = 4 * 1024 * 1024;

/// The octets of the files, as they are read.
#[derive(Clone, PartialEq, Eq)]
pub struct Pem {
    /// Whose certificates are trusted.
    pub roots: Vec<u8>,
    /// Who we are: the certificate with those that lead to its issuer, and its key.
    pub identity: Option<Identity>,
}

/// A client certificate and its key.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    /// The certificate first, then those that lead to a root.
    pub chain: Vec<u8>,
    /// Its private key, PKCS #8, PKCS #1 or SEC1.
    pub key: Zeroizing<Vec<u8>>,
}

/// Files that can't be used. No text of it holds any part of a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PemError {
    /// No certificate among the roots.
    #[error(
        "ca_file holds no certificate that can be used ({0}): put the issuer's certificate into it, as PEM"
    )]
    Roots(String),
    /// No client certificate.
    #[error("certificate_file holds no certificate ({0}): put our certificate into it, as PEM")]
    Certificate(String),
    /// No private key.
    #[error(
        "certificate_key_file holds no private key: put the key of our certificate into it, as PEM"
    )]
    Key,
    /// The two don't fit.
    #[error(
        "certificate_file and certificate_key_file do not fit each other ({0}): use the pair that was made together"
    )]
    Pair(String),
}

/// The configuration for the files as they are, made anew only when one of them has changed: with it the sessions that
/// can be resumed would go.
#[derive(Default)]
pub struct Renewed {
    last: Option<(Pem, Arc<ClientConfig>)>,
}

impl fmt::Debug for Renewed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Renewed(…)")
    }
}

impl Renewed {
    /// The configuration for these files, and whether they have changed since the last call.
    ///
    /// # Errors
    /// [`PemError`]; then the configuration before is forgotten too, and nothing connects with it.
    pub fn for_files(&mut self, pem: Pem) -> Result<(Arc<ClientConfig>, bool), PemError> {
        let before = self.last.take();
        let changed = before.is_some();
        if let Some((same, config)) = before
            && same == pem
        {
            let kept = Arc::clone(&config);
            self.last = Some((same, config));
            return Ok((kept, false));
        }
        let config = Arc::new(client_config(&pem)?);
        self.last = Some((pem, Arc::clone(&config)));
        Ok((config, changed))
    }
}

/// A client's configuration.
///
/// # Errors
/// [`PemError`] names the file and what to do.
pub fn client_config(pem: &Pem) -> Result<ClientConfig, PemError> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|error| PemError::Roots(error.to_string()))?
        .with_root_certificates(trusted(&pem.roots)?);
    let Some(Identity { chain, key }) = &pem.identity else {
        return Ok(builder.with_no_client_auth());
    };
    let chain = certificates(chain).map_err(PemError::Certificate)?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| PemError::Key)?;
    builder
        .with_client_auth_cert(chain, key)
        .map_err(|error| PemError::Pair(error.to_string()))
}

fn trusted(roots: &[u8]) -> Result<RootCertStore, PemError> {
    let mut store = RootCertStore::empty();
    // A system's bundle may hold one that nobody can read any more; none at all is a mistake.
    let (added, _) = store.add_parsable_certificates(certificates(roots).map_err(PemError::Roots)?);
    match added {
        0 => Err(PemError::Roots("none of them can be read".to_owned())),
        _ => Ok(store),
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = read.map_err(|error| error.to_string())?;
    if found.is_empty() {
        return Err("there is no CERTIFICATE in it".to_owned());
    }
    Ok(found)
}

/// What went wrong between us and `host`, and what to do: one line.
#[must_use]
pub fn explain(error: &Error, host: &str) -> String {
    match error {
        Error::InvalidCertificate(certificate) => presented(certificate, host),
        Error::AlertReceived(alert) => told(*alert),
        Error::PeerIncompatible(why) => {
            format!("the broker offers no TLS that we take ({why:?}): it must offer 1.2 or 1.3")
        }
        Error::InvalidMessage(_) => {
            "what answers there does not speak TLS: correct the port, or write tls = false"
                .to_owned()
        }
        Error::NoCertificatesPresented => {
            "the broker showed no certificate: give it one".to_owned()
        }
        other => format!("TLS failed: {other}"),
    }
}

/// What is wrong with the broker's certificate.
fn presented(error: &CertificateError, host: &str) -> String {
    match error {
        CertificateError::ExpiredContext { time, not_after } => format!(
            "the broker's certificate expired on {} (it is {} here): renew it at the broker, or set this machine's clock",
            Day(*not_after),
            Day(*time)
        ),
        CertificateError::Expired => {
            "the broker's certificate has expired: renew it at the broker, or set this machine's clock".to_owned()
        }
        CertificateError::NotValidYetContext { time, not_before } => format!(
            "the broker's certificate is not valid before {} (it is {} here): set this machine's clock",
            Day(*not_before),
            Day(*time)
        ),
        CertificateError::NotValidYet => {
            "the broker's certificate is not valid yet: set this machine's clock".to_owned()
        }
        CertificateError::UnknownIssuer => {
            "the broker's certificate is from an issuer that is not trusted here: put the issuer's certificate into ca_file".to_owned()
        }
        CertificateError::NotValidForNameContext { presented, .. } => format!(
            "the broker's certificate is not for {host} but for {}: correct broker.host, or give the broker a certificate for it",
            presented.join(", ")
        ),
        CertificateError::NotValidForName => format!(
            "the broker's certificate is not for {host}: correct broker.host, or give the broker a certificate for it"
        ),
        CertificateError::Revoked => {
            "the broker's certificate was revoked: renew it at the broker".to_owned()
        }
        other => format!("the broker's certificate can't be trusted ({other:?}): renew it at the broker"),
    }
}

/// What the broker says about us.
fn told(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::CertificateRequired => {
            "the broker wants a certificate of ours: set certificate_file and certificate_key_file"
                .to_owned()
        }
        AlertDescription::CertificateExpired => {
            "the broker says that our certificate has expired: renew certificate_file".to_owned()
        }
        AlertDescription::UnknownCA => {
            "the broker does not know the issuer of our certificate: use one of an issuer that it trusts, or have it trust ours".to_owned()
        }
        AlertDescription::CertificateRevoked => {
            "the broker says that our certificate was revoked: renew certificate_file".to_owned()
        }
        AlertDescription::BadCertificate
        | AlertDescription::CertificateUnknown
        | AlertDescription::UnsupportedCertificate => format!(
            "the broker does not accept our certificate ({alert:?}): its log says why; renew certificate_file"
        ),
        AlertDescription::HandshakeFailure => {
            "the broker refused the handshake: it may want a certificate of ours (certificate_file), or a TLS that we don't speak".to_owned()
        }
        AlertDescription::ProtocolVersion => {
            "the broker offers no TLS that we take: it must offer 1.2 or 1.3".to_owned()
        }
        other => format!("the broker ended TLS ({other:?}): its log says why"),
    }
}

/// A time as year, month and day in UTC.
struct Day(UnixTime);

impl fmt::Display for Day {
    /// Source: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`; years from 1970 on.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shifted = self.0.as_secs() / 86_400 + 719_468;
        let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
        let month = if shifted_month < 10 {
            shifted_month + 3
        } else {
            shifted_month - 9
        };
        let year = year_of_era + era * 400 + u64::from(month <= 2);
        write!(f, "{year:04}-{month:02}-{day:02}")
    }
}

#[cfg(test)]
mod tests {
    // An interval, not a clock.
    use core::time::Duration;

    use super::*;

    fn day(seconds: u64) -> String {
        Day(UnixTime::since_unix_epoch(Duration::from_secs(seconds))).to_string()
    }

    #[test]
    fn days_are_named_as_the_calendar_has_them() {
        assert_eq!(day(0), "1970-01-01");
        assert_eq!(day(951_782_400), "2000-02-29");
        assert_eq!(day(951_868_800), "2000-03-01");
        assert_eq!(day(1_735_689_599), "2024-12-31");
        assert_eq!(day(4_102_444_800), "2100-01-01");
        assert_eq!(day(4_107_542_400), "2100-03-01");
    }

    #[test]
    fn files_that_hold_nothing_are_named() {
        let pem = |roots: &[u8]| Pem {
            roots: roots.to_vec(),
            identity: None,
        };
        let error = client_config(&pem(b"")).map(drop);
        assert!(matches!(error, Err(PemError::Roots(_))), "{error:?}");
        let broken = b"-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n";
        let error = client_config(&pem(broken)).map(drop);
        assert!(matches!(error, Err(PemError::Roots(_))), "{error:?}");
        // PEM in form, and no certificate inside.
        let hollow = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let error = client_config(&pem(hollow)).map(drop);
        assert!(matches!(error, Err(PemError::Roots(_))), "{error:?}");
    }

    #[test]
    fn each_error_has_its_own_words_and_a_remedy() {
        let time = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let certificate = |error| explain(&Error::InvalidCertificate(error), "mqtt.example.com");
        let lines = [
            certificate(CertificateError::ExpiredContext {
                time: time(1_735_689_599),
                not_after: time(951_782_400),
            }),
            certificate(CertificateError::Expired),
            certificate(CertificateError::NotValidYetContext {
                time: time(0),
                not_before: time(951_782_400),
            }),
            certificate(CertificateError::NotValidYet),
            certificate(CertificateError::UnknownIssuer),
            certificate(CertificateError::NotValidForName),
            certificate(CertificateError::Revoked),
            certificate(CertificateError::BadSignature),
            explain(
                &Error::AlertReceived(AlertDescription::CertificateRequired),
                "h",
            ),
            explain(
                &Error::AlertReceived(AlertDescription::CertificateExpired),
                "h",
            ),
            explain(&Error::AlertReceived(AlertDescription::UnknownCA), "h"),
            explain(
                &Error::AlertReceived(AlertDescription::CertificateRevoked),
                "h",
            ),
            explain(&Error::AlertReceived(AlertDescription::BadCertificate), "h"),
            explain(
                &Error::AlertReceived(AlertDescription::HandshakeFailure),
                "h",
            ),
            explain(
                &Error::AlertReceived(AlertDescription::ProtocolVersion),
                "h",
            ),
            explain(&Error::AlertReceived(AlertDescription::InternalError), "h"),
        ];
        insta::assert_snapshot!(lines.join("\n"));
        let mut different = lines.to_vec();
        different.sort();
        different.dedup();
        // Only "no TLS in common" can be said by either side's library, in other words.
        assert_eq!(different.len(), lines.len());
    }
}
