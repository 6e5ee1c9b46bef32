//! TLS for an extender that runs apart from its scheduler: both sides show a certificate.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

/// Files in PEM form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// Our certificate chain.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Who may call: certificates of these authorities. Without it anybody may.
    pub client_ca: Option<PathBuf>,
}

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read, or holds nothing of the kind.
    #[error("reading {what} from {path}", path = path.display())]
    Read {
        /// Certificate, key or authorities.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: pem::Error,
    },
    /// An authority that cannot be used.
    #[error("using the authorities of {path}", path = path.display())]
    Authority {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rustls::server::VerifierBuilderError,
    },
    /// Certificate and key do not belong together, or an authority is malformed.
    #[error("using the certificate of {path}", path = path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rustls::Error,
    },
}

/// The server's side of TLS.
///
/// # Errors
/// When a file cannot be read or used.
pub fn server_config(files: &Files) -> Result<ServerConfig, Error> {
    let builder = match &files.client_ca {
        Some(path) => {
            let verifier = WebPkiClientVerifier::builder(Arc::new(authorities(path)?))
                .build()
                .map_err(|source| Error::Authority {
                    path: path.clone(),
                    source,
                })?;
            ServerConfig::builder().with_client_cert_verifier(verifier)
        }
        None => ServerConfig::builder().with_no_client_auth(),
    };
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|source| Error::Read {
        what: "the private key",
        path: files.key.clone(),
        source,
    })?;
    builder
        .with_single_cert(certificates(&files.cert, "the certificate")?, key)
        .map_err(|source| Error::Certificate {
            path: files.cert.clone(),
            source,
        })
}

fn authorities(path: &Path) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path, "the client authorities")? {
        roots
            .add(certificate)
            .map_err(|source| Error::Certificate {
                path: path.to_owned(),
                source,
            })?;
    }
    Ok(roots)
}

fn certificates(path: &Path, what: &'static str) -> Result<Vec<CertificateDer<'static>>, Error> {
    let read = |source| Error::Read {
        what,
        path: path.to_owned(),
        source,
    };
    CertificateDer::pem_file_iter(path)
        .map_err(read)?
        .collect::<Result<_, _>>()
        .map_err(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_missing_or_holds_nothing_is_named() {
        let files = |client_ca| Files {
            cert: "/nowhere/cert".into(),
            key: "/dev/null".into(),
            client_ca,
        };
        let error = server_config(&files(Some("/nowhere/ca".into()))).unwrap_err();
        assert_eq!(
            error.to_string(),
            "reading the client authorities from /nowhere/ca"
        );
        let error = server_config(&files(None)).unwrap_err();
        assert_eq!(error.to_string(), "reading the private key from /dev/null");
    }
}
