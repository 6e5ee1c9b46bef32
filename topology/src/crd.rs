//! The CustomResourceDefinition of NodeTopology, generated from the types.
//!
//! `daemonset/crd.yaml` is this value as YAML; a test regenerates and compares it.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceColumnDefinition, CustomResourceDefinition, CustomResourceDefinitionNames,
    CustomResourceDefinitionSpec, CustomResourceDefinitionVersion, CustomResourceSubresourceStatus,
    CustomResourceSubresources, CustomResourceValidation, JSONSchemaProps,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use crate::names;
use crate::node::Status;

/// The definition that an administrator applies once.
#[must_use]
pub fn definition() -> CustomResourceDefinition {
    CustomResourceDefinition {
        metadata: ObjectMeta {
            name: Some(format!("nodetopologies.{}", names::GROUP)),
            ..ObjectMeta::default()
        },
        spec: CustomResourceDefinitionSpec {
            group: names::GROUP.to_owned(),
            names: CustomResourceDefinitionNames {
                kind: "NodeTopology".to_owned(),
                list_kind: Some("NodeTopologyList".to_owned()),
                plural: "nodetopologies".to_owned(),
                singular: Some("nodetopology".to_owned()),
                short_names: Some(vec!["ntopo".to_owned()]),
                ..CustomResourceDefinitionNames::default()
            },
            scope: "Cluster".to_owned(),
            versions: vec![version()],
            ..CustomResourceDefinitionSpec::default()
        },
        ..CustomResourceDefinition::default()
    }
}

fn version() -> CustomResourceDefinitionVersion {
    CustomResourceDefinitionVersion {
        name: names::VERSION.to_owned(),
        served: true,
        storage: true,
        additional_printer_columns: Some(columns()),
        schema: Some(CustomResourceValidation {
            open_api_v3_schema: Some(schema()),
        }),
        subresources: Some(CustomResourceSubresources {
            status: Some(CustomResourceSubresourceStatus(json!({}))),
            ..CustomResourceSubresources::default()
        }),
        ..CustomResourceDefinitionVersion::default()
    }
}

/// What `kubectl get ntopo` shows.
fn columns() -> Vec<CustomResourceColumnDefinition> {
    let column = |name: &str, kind: &str, path: &str| CustomResourceColumnDefinition {
        name: name.to_owned(),
        type_: kind.to_owned(),
        json_path: path.to_owned(),
        ..CustomResourceColumnDefinition::default()
    };
    vec![
        column("Model", "string", ".status.gpus[0].model"),
        column("Hash", "string", ".status.hash"),
        column("Observed", "date", ".status.observedAt"),
        column("Age", "date", ".metadata.creationTimestamp"),
    ]
}

fn schema() -> JSONSchemaProps {
    let settings = SchemaSettings::openapi3().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    let mut status = settings
        .into_generator()
        .into_root_schema_for::<Status>()
        .to_value();
    structural(&mut status);
    status["x-kubernetes-preserve-unknown-fields"] = json!(true);
    let whole = json!({
        "type": "object",
        "description": "One node as its Berth agent sees it; written by that agent only.",
        "properties": { "status": status },
    });
    serde_json::from_value(whole).expect("a schema of our own types is one that Kubernetes reads")
}

/// Takes out what an API server's structural schema may not hold, and defaults, which it would
/// write into objects: what is absent is unknown.
fn structural(schema: &mut Value) {
    match schema {
        Value::Object(fields) => clean(fields),
        Value::Array(items) => items.iter_mut().for_each(structural),
        _ => {}
    }
}

fn clean(fields: &mut Map<String, Value>) {
    let is_properties = |key: &str| key == "properties";
    for key in ["title", "default", "$schema"] {
        fields.remove(key);
    }
    // Kubernetes knows int32, int64, float, double; schemars adds uint32 and the like.
    if fields
        .get("format")
        .and_then(Value::as_str)
        .is_some_and(|format| format.starts_with("uint"))
    {
        fields.remove("format");
    }
    for (key, value) in fields.iter_mut() {
        match value {
            Value::Object(properties) if is_properties(key) => {
                properties.values_mut().for_each(structural);
            }
            other => structural(other),
        }
    }
}
