//! The Lease by which an agent shows that it lives: one per node, named like it.
//!
//! Readers compare renewals with one another and time the gaps by their own clock; clocks of two
//! machines are never compared.

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};

use crate::names;

/// How often an agent renews, in seconds: its only write at rest.
pub const RENEW_EVERY_SECONDS: u32 = 15;
/// After how long without a renewal seen a node is refused by default, in seconds.
pub const STALE_AFTER_SECONDS: u32 = 60;

/// What changes when a lease is renewed. Opaque: only equality means anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renewal(Option<MicroTime>);

/// The lease of a node's agent.
#[must_use]
pub fn encode(node: &str, owner: Option<OwnerReference>, renewed_at: MicroTime) -> Lease {
    let duration = i32::try_from(STALE_AFTER_SECONDS).expect("a minute fits");
    Lease {
        metadata: ObjectMeta {
            name: Some(node.to_owned()),
            namespace: Some(names::NAMESPACE.to_owned()),
            owner_references: owner.map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(node.to_owned()),
            lease_duration_seconds: Some(duration),
            renew_time: Some(renewed_at),
            ..LeaseSpec::default()
        }),
    }
}

/// Which node a lease speaks of, and which renewal it shows.
#[must_use]
pub fn decode(lease: &Lease) -> Option<(&str, Renewal)> {
    let name = lease.metadata.name.as_deref()?;
    let spec = lease.spec.as_ref()?;
    Some((name, Renewal(spec.renew_time.clone())))
}
