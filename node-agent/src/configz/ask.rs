//! One question to the kubelet. Everything it takes is read anew: token, CA and address may change.

use std::error::Error as StdError;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use berth_topology::raw::{Configz, RawKubelet};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use kube::client::Body;
use kube::{Client, Config};
use rustls::CertificateError;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{self, PemObject as _};

use super::Kubelet;
use crate::probe::text;
use crate::publish::{self, cluster_config};

/// With the two reviews that the kubelet asks the API server for.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// A kubelet's configuration has some hundred lines.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// A bundle of authorities is some kilobytes.
const CA_BYTES_MAX: u64 = 1 << 20;

/// Why the kubelet's configuration is not known.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no token to show.
    #[error("no account to ask the kubelet with")]
    NoAccount(#[source] publish::Error),
    /// Nobody vouches for the kubelet.
    #[error("no CA vouches for the kubelet, so it is not asked: give --kubelet-ca")]
    NoCa,
    /// The CA's file.
    #[error("cannot read the kubelet's CA {path}")]
    CaFile {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What is in it.
    #[error("the kubelet's CA {path} is no certificate in PEM")]
    Ca {
        /// The file.
        path: PathBuf,
        /// Why.
        source: pem::Error,
    },
    /// The client could not be built.
    #[error("cannot build a client for the kubelet")]
    Client(#[source] Box<kube::Error>),
    /// Its certificate is not one that the CA vouches for; it was shown no token.
    #[error(
        "the kubelet's certificate is not trusted, and it was shown no token (--kubelet-ca says \
         who vouches for it)"
    )]
    Untrusted(#[source] rustls::Error),
    /// 401.
    #[error("the kubelet does not take the account's token (401): is authentication.webhook off?")]
    Unauthenticated,
    /// 403.
    #[error(
        "the account may not get nodes/configz (403): apply daemonset/optional/kubelet-configz.yaml; \
         kubelets before 1.33 ask for nodes/proxy instead"
    )]
    Forbidden,
    /// Any other status.
    #[error("the kubelet answers {0}")]
    Status(http::StatusCode),
    /// No connection, or one that broke.
    #[error("cannot ask the kubelet")]
    Call(#[source] Box<dyn StdError + Send + Sync>),
    /// It takes too long.
    #[error("the kubelet does not answer within {} s", ANSWER_WITHIN.as_secs())]
    Late,
    /// It says too much.
    #[error("the kubelet's configuration is longer than {ANSWER_BYTES_MAX} bytes")]
    TooLong,
    /// It says something else.
    #[error("what the kubelet answers is no configuration")]
    Parse(#[source] serde_json::Error),
}

/// Asks once.
pub(super) async fn ask(kubelet: &Kubelet) -> Result<RawKubelet, Error> {
    let asked = tokio::time::timeout(ANSWER_WITHIN, ask_in_time(kubelet));
    asked.await.map_err(|_| Error::Late)?
}

async fn ask_in_time(kubelet: &Kubelet) -> Result<RawKubelet, Error> {
    let account = cluster_config(kubelet.kubeconfig.as_deref()).await;
    let account = account.map_err(Error::NoAccount)?;
    let roots = roots(kubelet.ca.as_deref(), &account)?;
    let by_address = kubelet.address.ip().to_string();
    let body = match send(kubelet, &account, &roots, by_address).await {
        Err(Error::Untrusted(why)) if is_for_another(&why) => {
            send(kubelet, &account, &roots, kubelet.node.to_string()).await?
        }
        answer => answer?,
    };
    parse(body).await
}

/// Who may vouch for it. Never everybody whom the image's own store trusts.
fn roots(ca: Option<&Path>, account: &Config) -> Result<Vec<Vec<u8>>, Error> {
    let roots = match ca {
        Some(path) => read_roots(path)?,
        None => account.root_cert.clone().unwrap_or_default(),
    };
    match roots.is_empty() {
        true => Err(Error::NoCa),
        false => Ok(roots),
    }
}

fn read_roots(path: &Path) -> Result<Vec<Vec<u8>>, Error> {
    let bytes = text::read_bounded(path, CA_BYTES_MAX).map_err(|source| Error::CaFile {
        path: path.to_owned(),
        source,
    })?;
    CertificateDer::pem_slice_iter(&bytes)
        .map(|certificate| certificate.map(|certificate| certificate.to_vec()))
        .collect::<Result<_, _>>()
        .map_err(|source| Error::Ca {
            path: path.to_owned(),
            source,
        })
}

/// Over a connection of its own, of which nothing but the account is the API server's: neither a proxy
/// nor a trust in everybody that its kubeconfig may ask for.
async fn send(
    kubelet: &Kubelet,
    account: &Config,
    roots: &[Vec<u8>],
    name: String,
) -> Result<Body, Error> {
    let url = format!("https://{}", kubelet.address).parse();
    let url = url.map_err(|error: http::uri::InvalidUri| Error::Call(error.into()))?;
    let mut config = Config::new(url);
    config.auth_info = account.auth_info.clone();
    config.root_cert = Some(roots.to_vec());
    config.tls_server_name = Some(name);
    config.default_retry = false;
    let client = Client::try_from(config).map_err(|error| Error::Client(Box::new(error)))?;
    let request = http::Request::get("/configz").body(Body::empty());
    let request = request.map_err(|error| Error::Call(error.into()))?;
    let answer = client.send(request).await.map_err(failed)?;
    match answer.status() {
        http::StatusCode::OK => Ok(answer.into_body()),
        http::StatusCode::UNAUTHORIZED => Err(Error::Unauthenticated),
        http::StatusCode::FORBIDDEN => Err(Error::Forbidden),
        other => Err(Error::Status(other)),
    }
}

async fn parse(body: Body) -> Result<RawKubelet, Error> {
    let collected = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
    let bytes = collected.map_err(|error| match error.is::<LengthLimitError>() {
        true => Error::TooLong,
        false => Error::Call(error),
    })?;
    let configz: Configz = serde_json::from_slice(&bytes.to_bytes()).map_err(Error::Parse)?;
    Ok(configz.kubeletconfig)
}

fn failed(error: kube::Error) -> Error {
    match tls_error(&error) {
        Some(why @ rustls::Error::InvalidCertificate(_)) => Error::Untrusted(why.clone()),
        _ => Error::Call(error.into()),
    }
}

/// What rustls said, wherever it is in the chain.
fn tls_error<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        // An I/O error's source is the source of what it holds.
        let held = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        next = match held {
            Some(held) => Some(held),
            None => error.source(),
        };
    }
    None
}

/// The CA vouches for it under some other name.
fn is_for_another(error: &rustls::Error) -> bool {
    matches!(
        error,
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }
        )
    )
}
