//! Identities. A GPU is its UUID; its index and minor number change over a reboot.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The longest device identity that the kubelet accepts (`Device.ID`), in bytes.
pub const DEVICE_ID_BYTES_MAX: usize = 63;

/// Declares a newtype over a string.
macro_rules! text_id {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[derive(
            Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
        )]
        #[serde(transparent)]
        #[schemars(inline)]
        pub struct $name(pub String);

        impl $name {
            /// The text itself.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.to_owned())
            }
        }
    };
}

/// Declares a newtype over a number that somebody else gives.
macro_rules! number_id {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
        )]
        #[serde(transparent)]
        #[schemars(inline)]
        pub struct $name(pub u32);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

text_id!(
    /// A GPU's or MIG instance's UUID as NVML gives it (`GPU-…`, `MIG-…`): its identity everywhere.
    GpuUuid
);
text_id!(
    /// A PCI address in sysfs form, lower case with a four-digit domain: `0000:1a:00.0`.
    BusId
);
text_id!(
    /// A node's name, which is also the name of its NodeTopology and Lease.
    NodeName
);
text_id!(
    /// A pod's uid. It changes when a pod is deleted and created again under the same name.
    PodUid
);

number_id!(
    /// A GPU's position on its node, as NVML enumerates it. For people; never an identity.
    GpuIndex
);
number_id!(
    /// A NUMA node's number, as the kernel gives it.
    NumaId
);
