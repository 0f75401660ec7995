//! Certificates for tests of TLS, made on the spot: nothing in the repository expires.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, date_time_ymd,
};

/// Who signs certificates.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// From when until when a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validity {
    /// Now, and for long.
    Now,
    /// It ended on 2021-02-03.
    Expired,
    /// It begins on 2090-01-01.
    NotYet,
}

/// A certificate and its key, as files.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The certificate, PEM.
    pub certificate: PathBuf,
    /// The key, PEM, readable by its owner only.
    pub key: PathBuf,
}

impl Authority {
    /// A new one with a key of its own.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn new(name: &str) -> anyhow::Result<Self> {
        let mut params = params(name, &[], Validity::Now)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        Ok(Self { issuer })
    }

    /// Writes its certificate.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> anyhow::Result<PathBuf> {
        fs::write(path, self.issuer.pem()).with_context(|| path.display().to_string())?;
        Ok(path.to_owned())
    }

    /// A certificate for a broker at `hosts`, or for a client when there are none, written as `NAME.pem` and
    /// `NAME.key`; what was there is replaced.
    ///
    /// # Errors
    /// When it cannot be made or written.
    pub fn issue(
        &self,
        folder: &Path,
        name: &str,
        hosts: &[&str],
        validity: Validity,
    ) -> anyhow::Result<Pair> {
        let mut params = params(name, hosts, validity)?;
        params.extended_key_usages = vec![match hosts {
            [] => ExtendedKeyUsagePurpose::ClientAuth,
            _ => ExtendedKeyUsagePurpose::ServerAuth,
        }];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let pair = Pair {
            certificate: folder.join(format!("{name}.pem")),
            key: folder.join(format!("{name}.key")),
        };
        fs::write(&pair.certificate, certificate.pem())?;
        OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&pair.key)?
            .write_all(key.serialize_pem().as_bytes())?;
        Ok(pair)
    }
}

fn params(name: &str, hosts: &[&str], validity: Validity) -> anyhow::Result<CertificateParams> {
    let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
    let mut params = CertificateParams::new(hosts)?;
    params.distinguished_name.push(DnType::CommonName, name);
    let (from, until) = match validity {
        Validity::Now => (date_time_ymd(2020, 1, 1), date_time_ymd(2095, 1, 1)),
        Validity::Expired => (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 2, 3)),
        Validity::NotYet => (date_time_ymd(2090, 1, 1), date_time_ymd(2095, 1, 1)),
    };
    params.not_before = from;
    params.not_after = until;
    Ok(params)
}
