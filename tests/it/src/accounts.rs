//! Who asks: kubeconfig files, clients, and the service accounts' own tokens.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::api::PostParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, ResourceExt as _};

/// Longer than any story.
const TOKEN_SECONDS: i64 = 3_600;

/// Writes `NAME.kubeconfig`, which trusts the API server's own certificate.
///
/// # Errors
/// When it cannot be written.
pub fn write_kubeconfig(folder: &Path, name: &str, url: &str, token: &str) -> Result<PathBuf> {
    let text = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "story", "cluster": {
            "server": url,
            "certificate-authority": folder.join("pki/apiserver.crt"),
        }}],
        "users": [{"name": name, "user": {"token": token}}],
        "contexts": [{"name": "story", "context": {"cluster": "story", "user": name}}],
        "current-context": "story",
    });
    let path = folder.join(format!("{name}.kubeconfig"));
    std::fs::write(&path, text.to_string())
        .with_context(|| format!("writing {}", path.display()))?;
    Ok(path)
}

/// A client for that kubeconfig.
///
/// # Errors
/// When the file is not one.
pub async fn client(kubeconfig: &Path) -> Result<Client> {
    let config = Kubeconfig::read_from(kubeconfig)
        .with_context(|| format!("reading {}", kubeconfig.display()))?;
    let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
    Client::try_from(config).context("building a client")
}

/// A token of that service account, bound to `pod` where one is given: it then names the pod's node, as
/// the one that a kubelet mounts.
///
/// # Errors
/// When the API server refuses.
pub async fn token(
    admin: &Client,
    namespace: &str,
    account: &str,
    pod: Option<&Pod>,
) -> Result<String> {
    let accounts: Api<ServiceAccount> = Api::namespaced(admin.clone(), namespace);
    let bound_object_ref = pod.map(|pod| BoundObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        name: pod.metadata.name.clone(),
        uid: pod.uid(),
    });
    let request = TokenRequest {
        spec: Some(TokenRequestSpec {
            bound_object_ref,
            expiration_seconds: Some(TOKEN_SECONDS),
            ..TokenRequestSpec::default()
        }),
        ..TokenRequest::default()
    };
    let answer: TokenRequest = accounts
        .create_subresource("token", account, &PostParams::default(), &request)
        .await
        .with_context(|| format!("asking for a token of {namespace}/{account}"))?;
    answer
        .status
        .and_then(|status| status.token)
        .context("reading the token that was given")
}
