//! The manifests as they are shipped: read, patched as listed, applied.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use kube::api::{DynamicObject, Patch as ApiPatch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client};
use serde::Deserialize as _;
use serde_json::Value;

use crate::patches::Patch;
use crate::programs::repository;

/// Who applied, for the API server's book-keeping.
const FIELD_MANAGER: &str = "berth-it";

/// The objects of one shipped file, after the patches that are for it.
///
/// # Errors
/// When the file cannot be read, a patch does not match exactly once, or a document is not YAML.
pub fn read(file: &str, patches: &[Patch]) -> Result<Vec<Value>> {
    let path = repository().join(file);
    let text = fs::read_to_string(&path).with_context(|| format!("reading {file}"))?;
    let text = patches
        .iter()
        .filter(|patch| patch.file == file)
        .try_fold(text, apply_patch)?;
    serde_yaml_ng::Deserializer::from_str(&text)
        .map(|document| Value::deserialize(document).with_context(|| format!("parsing {file}")))
        .filter(|document| !matches!(document, Ok(Value::Null)))
        .collect()
}

fn apply_patch(text: String, patch: &Patch) -> Result<String> {
    let found = text.matches(patch.from).count();
    ensure!(
        found == 1,
        "the patch of {} finds `{}` {found} times",
        patch.file,
        patch.from
    );
    println!("patch: {patch}");
    Ok(text.replace(patch.from, &patch.to))
}

/// Applies each file, in this order.
///
/// # Errors
/// When a file cannot be read or the API server refuses an object.
pub async fn apply_files(client: &Client, files: &[&str], patches: &[Patch]) -> Result<()> {
    for file in files {
        for object in read(file, patches)? {
            apply(client, &object)
                .await
                .with_context(|| format!("applying {file}"))?;
        }
    }
    Ok(())
}

/// `kubectl apply --server-side` of one object.
///
/// # Errors
/// When the API server refuses it.
pub async fn apply(client: &Client, object: &Value) -> Result<DynamicObject> {
    let object: DynamicObject = serde_json::from_value(object.clone())?;
    let name = object
        .metadata
        .name
        .clone()
        .context("reading the name of an object")?;
    let types = object
        .types
        .clone()
        .context("reading the kind of an object")?;
    let kind = GroupVersionKind::try_from(&types)?;
    let resource = ApiResource::from_gvk(&kind);
    let api: Api<DynamicObject> = match &object.metadata.namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    let params = PatchParams::apply(FIELD_MANAGER).force();
    api.patch(&name, &params, &ApiPatch::Apply(&object))
        .await
        .with_context(|| format!("{} {name}", kind.kind))
}

/// The object of that kind and name in a file that was read.
///
/// # Errors
/// When there is none.
pub fn find<'a>(objects: &'a [Value], kind: &str) -> Result<&'a Value> {
    objects
        .iter()
        .find(|object| object["kind"] == kind)
        .with_context(|| format!("finding a {kind} in the manifest"))
}
