//! The decision: does a claim fit, how good is it, which GPUs, why.
//!
//! Pure functions over what an agent published: no I/O, no clock, no randomness. The same machine,
//! free set and claim give the same answer on every replica, and offline from a record.
//!
//! # What is best
//!
//! Sets are compared by, in this order:
//!
//! 1. **Requirements**: model, memory, `link` with `require`, `numa: single`. What does not meet
//!    them is never chosen.
//! 2. **The link wish** (`link` with `prefer`): a set whose every pair has that link comes first.
//! 3. **Bandwidth** ([`Bandwidth`]). Where NVLinks join the set: the least of its GPUs' NVLink
//!    budgets and the global minimum cut of its NVLink graph (Stoer and Wagner 1997): what passes
//!    through the narrowest place, whichever way an all-reduce goes. A set that NVLink does not join
//!    comes after every one that it does. Among those decides the weakest edge of the best ring over
//!    all paths. An edge is the NVLink between two GPUs, by its speed; where there is none their PCIe
//!    ancestor, then generation × width of the lesser side. The best ring is the one whose weakest
//!    edge is best (the bottleneck travelling salesman: Bellman 1962, Held and Karp 1962), as a ring
//!    all-reduce runs at the speed of its slowest step (Patarasuk and Yuan 2009). Lanes count as they
//!    are now, not as the model promises.
//! 4. **NUMA nodes** spanned, fewer first, then **sockets** (where NUMA distances tell them), unless
//!    the policy is `any`.
//! 5. **Distance to an RDMA card**, where `nic: near` asks for it.
//! 6. **What stays possible**: the expected quality of the groups that could be asked for next
//!    ([`Mix`], [`Placement::future`]) with what stays free.
//! 7. **What is cut off** from what stays free ([`Cut`]): least NVLink, then least PCIe closeness,
//!    then fewest neighbours on its NUMA nodes. With 6, one GPU goes where it breaks least.
//! 8. **Lowest index**, compared position by position.
//!
//! [`ranked`] lists the best sets with all of these, and how many they were chosen from, and [`Criteria::decided_by`] says which one
//! decided.
//!
//! Of m groups the worst is as good as it can be; within that, groups are chosen one after the
//! other, each the best of what is left. Ranks follow the ring whose weakest edge is best, ties
//! lexicographic, from the lowest index.
//!
//! # What is told
//!
//! [`Placement::gb_per_second`] is the third criterion where NVLink joins the set; PCIe has no such
//! figure. [`Placement::weakest_link`] is the weakest class between *any* two GPUs, which is what
//! `link` asks for. It is never better than the ring's weakest edge and often worse: all eight GPUs
//! of a DGX-1 say `any`, for pairs across the sockets that no edge of their ring uses.
//!
//! # The kubelet
//!
//! The node's topology manager may narrow what a container can be given before the device plugin is
//! asked. What it will do is foreseen ([`fit_pod`], [`place_pod`]): only sets that the kubelet can
//! give as promised are chosen, a pod that it would reject is refused, and where something that it
//! goes by is not known, the promise says so ([`Inexact`]).
//!
//! # Bounds
//!
//! Of sets that differ only by GPUs which are wired alike one is tried ([`sets`]). All others are
//! tried one by one while there are at most [`sets::SETS_MAX`], which holds for any size up to 16
//! GPUs; above, sets are grown from each GPU, which is not always the best. Rings are exact up to
//! [`ring::EXACT_MAX`] GPUs; larger ones go to the nearest neighbour, and so do those by which PCIe
//! sets of more than [`ring::EXACT_OF_MANY_MAX`] are compared on machines of more than 16 GPUs.
//! Several groups are weighed against each other up to [`search::JOINT_GPUS_MAX`] free GPUs. A
//! machine's GPUs beyond the first [`GPUS_MAX`] are not placed on.
//!
//! What is placed are GPUs, or the MIG instances of one profile ([`Shapes::of_resource`]): without
//! NVLink, never nearer to each other than through a host bridge, else by the same rules.

#![forbid(unsafe_code)]

mod cpu_ranks;
mod criteria;
mod cut;
mod facts;
mod free;
mod future;
mod kept;
mod kubelet;
mod machine;
mod memo;
mod mix;
mod packing;
mod place;
mod pod;
mod quality;
mod refusal;
pub mod ring;
pub mod search;
mod set;
pub mod sets;
mod shape;
mod socket;
mod units;
mod want;

pub use cpu_ranks::place_cpus;
pub use criteria::{Criteria, Cut, Ranked, Ranking};
pub use free::Free;
pub use kubelet::{HeldCpus, Inexact};
pub use machine::{Machine, MachineKind, Shapes};
pub use mix::{Mix, MixError};
pub use place::{Placement, place, ranked};
pub use pod::{Admitted, PodFit, PodPlacement, fit_pod, place_alone, place_pod};
pub use quality::Bandwidth;
pub use refusal::Refusal;
pub use set::{GPUS_MAX, GpuSet};
pub use shape::Shape;
