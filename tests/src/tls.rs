//! A certificate authority of its own, and a server certificate of it.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

/// Files for a server and its clients.
#[derive(Debug)]
pub struct Certificates {
    /// The authority, for clients.
    pub ca: PathBuf,
    cert: PathBuf,
    key: PathBuf,
}

impl Certificates {
    /// A new authority that vouches for `127.0.0.1`, in this folder.
    ///
    /// # Panics
    /// When the folder cannot be written.
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        let mut authority = CertificateParams::new(Vec::new()).expect("no names, none malformed");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.distinguished_name.push(DnType::CommonName, "Towline test CA");
        let issuer = CertifiedIssuer::self_signed(authority, KeyPair::generate().expect("a key can be made"));
        let issuer = issuer.expect("an authority can be made");
        let server = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("a well-formed address");
        let key = KeyPair::generate().expect("a key can be made");
        let cert = server.signed_by(&key, &issuer).expect("a certificate can be made");
        let write = |name: &str, text: &str| {
            let path = folder.join(name);
            std::fs::write(&path, text).expect("the folder can be written");
            path
        };
        Self {
            ca: write("ca.pem", &issuer.pem()),
            cert: write("cert.pem", &cert.pem()),
            key: write("key.pem", &key.serialize_pem()),
        }
    }

    /// A `tls` block for a server's configuration.
    #[must_use]
    pub fn block(&self) -> String {
        format!("tls {{ cert_file: {:?}, key_file: {:?} }}\n", self.cert, self.key)
    }
}
