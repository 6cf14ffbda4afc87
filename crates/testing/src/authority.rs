//! Certificates for services that speak TLS with each other.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};

/// A certificate authority of a test's own.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    /// Makes an authority whose certificate has this common name.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// The authority's own certificate, in PEM.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Writes the files of the service `name` into `directory`, over those of an earlier call: a fresh
    /// certificate, its key, and the authorities that the service trusts.
    pub fn identify(&self, directory: &Path, name: &str, trusted: &[&Self]) -> Identity {
        self.identify_until(directory, name, trusted, 2100)
    }

    /// As [`Self::identify`], with a certificate that expires when `year` begins.
    pub fn identify_until(&self, directory: &Path, name: &str, trusted: &[&Self], year: i32) -> Identity {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(year, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let identity = Identity { stem: directory.join(name) };
        fs::write(identity.path("crt"), certificate.pem()).unwrap();
        fs::write(identity.path("key"), key.serialize_pem()).unwrap();
        let trusted: String = trusted.iter().map(|authority| authority.pem.as_str()).collect();
        fs::write(identity.path("ca"), trusted).unwrap();
        identity
    }
}

/// The three files with which a service shows who it is.
#[derive(Debug)]
pub struct Identity {
    stem: PathBuf,
}

impl Identity {
    /// Where the file of this kind is: `crt` for the certificate, `key` for its key, `ca` for the
    /// authorities that the service trusts.
    #[must_use]
    pub fn path(&self, kind: &str) -> PathBuf {
        self.stem.with_extension(kind)
    }
}
