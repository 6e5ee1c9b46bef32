//! TLS for an extender that runs apart from its scheduler: both sides show a certificate.
//!
//! The files are looked at every second, as a kubelet that renews a Secret swaps them all at once: new
//! connections then get the new certificate and are measured by the new authorities. What cannot be
//! used is logged, and the old stays. No session is resumed, so nobody outlives a change of authority.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{
    ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{
    DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme,
};

mod expiry;

/// How soon a new certificate is taken up.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A chain and a bundle of authorities are some kilobytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

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
    /// A file that cannot be opened, or is far too long.
    #[error("opening {path}", path = path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
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

/// What is shown to callers and asked of them, as the files last said.
#[derive(Debug)]
pub struct Identity {
    files: Files,
    current: RwLock<Current>,
}

#[derive(Debug)]
struct Current {
    shown: Shown,
    /// What was last looked at, usable or not.
    texts: Texts,
}

/// What the files mean.
#[derive(Debug)]
struct Shown {
    key: Arc<CertifiedKey>,
    callers: Option<Arc<dyn ClientCertVerifier>>,
    /// In seconds of Unix time; absent where it cannot be read.
    expires_at_seconds: Option<i64>,
}

/// The files' contents.
#[derive(Debug, PartialEq, Eq)]
struct Texts {
    cert: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

// === impl Identity ===

impl Identity {
    /// Reads the files.
    ///
    /// # Errors
    /// When one cannot be read or used.
    pub fn load(files: Files) -> Result<Arc<Self>, Error> {
        let texts = files.texts()?;
        let shown = files.parse(&texts)?;
        let current = RwLock::new(Current { shown, texts });
        Ok(Arc::new(Self { files, current }))
    }

    /// The server's side of TLS, for connections that come.
    #[must_use]
    pub fn server_config(self: &Arc<Self>) -> ServerConfig {
        let builder = ServerConfig::builder();
        let mut config = match &self.files.client_ca {
            Some(_) => builder.with_client_cert_verifier(self.clone()),
            None => builder.with_no_client_auth(),
        }
        .with_cert_resolver(self.clone());
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config
    }

    /// When the certificate expires, in seconds of Unix time.
    #[must_use]
    pub fn expires_at_seconds(&self) -> Option<i64> {
        self.read(|current| current.shown.expires_at_seconds)
    }

    /// Takes up what has changed in the files; says whether anything was.
    ///
    /// # Errors
    /// When what is there now cannot be used, once for each change; the old stays.
    pub fn reload(&self) -> Result<bool, Error> {
        let texts = self.files.texts()?;
        if self.read(|current| current.texts == texts) {
            return Ok(false);
        }
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let shown = self.files.parse(&texts);
        current.texts = texts;
        current.shown = shown?;
        Ok(true)
    }

    /// Looks at the files for ever.
    pub async fn follow(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        let mut is_missing = false;
        loop {
            ticks.tick().await;
            let was_missing = std::mem::take(&mut is_missing);
            match self.reload() {
                Ok(false) => {}
                Ok(true) => tracing::info!(
                    expires_at_seconds = self.expires_at_seconds(),
                    "the TLS files have changed and are used"
                ),
                Err(error) => {
                    is_missing = matches!(error, Error::Open { .. });
                    if !(is_missing && was_missing) {
                        let why = std::error::Error::source(&error).map(ToString::to_string);
                        tracing::error!(%error, why, "the TLS files have changed and cannot be used; the old stay");
                    }
                }
            }
        }
    }

    fn read<T>(&self, take: impl FnOnce(&Current) -> T) -> T {
        take(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn callers(&self) -> Result<Arc<dyn ClientCertVerifier>, rustls::Error> {
        let callers = self.read(|current| current.shown.callers.clone());
        callers.ok_or_else(|| rustls::Error::General("no authorities are known".to_owned()))
    }
}

impl ResolvesServerCert for Identity {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.read(|current| current.shown.key.clone()))
    }
}

/// As the newest authorities say.
impl ClientCertVerifier for Identity {
    /// None: callers send what they have. These could not change.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.callers()?
            .verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.callers()?.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.callers()?.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.callers()
            .map(|callers| callers.supported_verify_schemes())
            .unwrap_or_default()
    }
}

// === impl Files ===

impl Files {
    fn texts(&self) -> Result<Texts, Error> {
        Ok(Texts {
            cert: text(&self.cert)?,
            key: text(&self.key)?,
            client_ca: self.client_ca.as_deref().map(text).transpose()?,
        })
    }

    fn parse(&self, texts: &Texts) -> Result<Shown, Error> {
        let callers = match (&texts.client_ca, &self.client_ca) {
            (Some(text), Some(path)) => Some(callers(text, path)?),
            _ => None,
        };
        let key = PrivateKeyDer::from_pem_slice(&texts.key).map_err(|source| Error::Read {
            what: "the private key",
            path: self.key.clone(),
            source,
        })?;
        let certificates = certificates(&texts.cert, &self.cert, "the certificate")?;
        let provider = rustls::crypto::ring::default_provider();
        let key = CertifiedKey::from_der(certificates, key, &provider).map_err(|source| {
            Error::Certificate {
                path: self.cert.clone(),
                source,
            }
        })?;
        Ok(Shown {
            expires_at_seconds: key.cert.first().and_then(|cert| expiry::of(cert)),
            key: Arc::new(key),
            callers,
        })
    }
}

fn text(path: &Path) -> Result<Vec<u8>, Error> {
    use std::io::Read as _;
    let read = || {
        let mut text = Vec::new();
        let file = std::fs::File::open(path)?;
        file.take(FILE_BYTES_MAX).read_to_end(&mut text)?;
        Ok(text)
    };
    read().map_err(|source| Error::Open {
        path: path.to_owned(),
        source,
    })
}

fn callers(text: &[u8], path: &Path) -> Result<Arc<dyn ClientCertVerifier>, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(text, path, "the client authorities")? {
        roots
            .add(certificate)
            .map_err(|source| Error::Certificate {
                path: path.to_owned(),
                source,
            })?;
    }
    let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build();
    let verifier = verifier.map_err(|source| Error::Authority {
        path: path.to_owned(),
        source,
    })?;
    Ok(verifier)
}

fn certificates(
    text: &[u8],
    path: &Path,
    what: &'static str,
) -> Result<Vec<CertificateDer<'static>>, Error> {
    let read = |source| Error::Read {
        what,
        path: path.to_owned(),
        source,
    };
    let all: Vec<_> = CertificateDer::pem_slice_iter(text)
        .collect::<Result<_, _>>()
        .map_err(read)?;
    match all.is_empty() {
        true => Err(read(pem::Error::NoItemsFound)),
        false => Ok(all),
    }
}

#[cfg(test)]
mod tests;
