//! Reads one machine and publishes its NodeTopology.
//!
//! ```text
//! probe (NVML, sysfs, hwloc) → RawMachine → assemble (pure) → Status → history → publish if changed
//! ```
//!
//! * [`probe`]: asks the machine; each answer may be a failure, which is kept as one
//! * [`assemble`]: derives the topology from the answers; pure
//! * [`prober`]: when to ask: at each poll what may change, at once when somebody tells that it did
//! * [`xid`]: what the driver's errors mean for a GPU
//! * [`history`]: what one probe alone cannot know: PCIe links wake up, GPUs get lost, XIDs pass
//! * [`plugin`]: serves the GPUs to the kubelet, where that is asked for, and tells what it gave
//! * [`listen`]: `/metrics` ([`metrics`], of what [`tally`] counted), `/healthz`, `/readyz`
//! * [`feature_file`], [`zones`]: the same for others who ask in their way, where that is wanted; `mirror`
//!   keeps it up to date
//! * [`tune`]: changes this machine's settings, where that is asked for by name; apart from the rest
//! * [`configz`]: what the running kubelet says of its policies, where it is to be asked
//! * [`publish`]: writes what changed, and a Lease that shows that this agent lives
//!
//! A machine that cannot be read is published as such: no answer of NVML, sysfs, hwloc or the API
//! server ends the agent.

pub mod agent;
pub mod args;
pub mod assemble;
pub mod configz;
pub mod feature_file;
#[cfg(test)]
mod fixtures;
mod grouped;
pub mod history;
pub mod listen;
pub mod metrics;
mod mirror;
pub mod plugin;
pub mod probe;
pub mod prober;
pub mod publish;
pub mod tally;
pub mod tune;
pub mod xid;
pub mod zones;
