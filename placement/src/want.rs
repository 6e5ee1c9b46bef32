//! A claim, reduced to what the choice depends on.

use berth_topology::claim::{self, GpuClaim, LinkPolicy, NicPolicy, NumaPolicy, model_matches};
use berth_topology::link::LinkClass;

use crate::refusal::Refusal;
use crate::set::GpuSet;
use crate::shape::Shape;

/// What one container wants. Equal ones have equal answers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Want {
    pub(crate) rule: Rule,
    memory_bytes_min: Option<u64>,
    model: Option<String>,
}

/// How GPUs are put into groups.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Rule {
    /// GPUs of one group: K.
    pub(crate) group_size: usize,
    /// Groups: m.
    pub(crate) group_count: usize,
    /// Every pair of a group has at least this.
    pub(crate) link_required: LinkClass,
    /// Groups whose every pair has at least this come first.
    pub(crate) link_wished: LinkClass,
    /// A group is of one known NUMA node.
    pub(crate) is_numa_single: bool,
    /// Fewer NUMA nodes are better.
    pub(crate) counts_numa: bool,
    /// Near an RDMA card is better.
    pub(crate) counts_nic: bool,
}

// === impl Want ===

impl Want {
    /// `None` for a claim without GPUs.
    pub(crate) fn read(claim: &GpuClaim) -> Result<Option<Self>, Refusal> {
        if claim.gpu_count == 0 {
            return Ok(None);
        }
        let group_size = claim.tensor_parallel_size.unwrap_or(claim.gpu_count);
        if group_size == 0 || !claim.gpu_count.is_multiple_of(group_size) {
            return Err(Refusal::BadClaim(claim::Error::NotDivisible));
        }
        let is_required = claim.link_policy == LinkPolicy::Require;
        let rule = Rule {
            link_required: if is_required {
                claim.link
            } else {
                LinkClass::Any
            },
            link_wished: claim.link,
            is_numa_single: claim.numa == NumaPolicy::Single,
            counts_numa: claim.numa != NumaPolicy::Any,
            counts_nic: claim.nic == NicPolicy::Near,
            ..Rule::of_size(group_size, claim.gpu_count / group_size)
        };
        let model = claim.gpu_model.clone();
        Ok(Some(Self {
            rule,
            memory_bytes_min: claim.gpu_memory_bytes_min,
            model,
        }))
    }

    /// The GPUs that would do if they were free, or why there are too few whoever leaves.
    pub(crate) fn eligible(&self, shape: &Shape) -> Result<GpuSet, Refusal> {
        let count = self.rule.gpu_count();
        if shape.usable.len() < count {
            let enough_shared = shape.usable.union(shape.shared).len() >= count;
            return Err(if enough_shared {
                Refusal::Shared
            } else {
                Refusal::TooFewGpus
            });
        }
        let of_model = self.of_model(shape);
        if of_model.len() < count {
            return Err(Refusal::WrongModel);
        }
        let with_memory = self.with_memory(shape, of_model);
        if with_memory.len() < count {
            return Err(Refusal::TooLittleMemory);
        }
        Ok(with_memory)
    }

    fn of_model(&self, shape: &Shape) -> GpuSet {
        let Some(model) = &self.model else {
            return shape.usable;
        };
        let matches = |position: &usize| model_matches(&shape.facts.gpus[*position].model, model);
        shape.usable.iter().filter(matches).collect()
    }

    /// A GPU whose memory is unknown does not do where a least is asked for.
    fn with_memory(&self, shape: &Shape, set: GpuSet) -> GpuSet {
        let Some(least) = self.memory_bytes_min else {
            return set;
        };
        let has = |position: &usize| {
            shape.facts.gpus[*position]
                .memory_bytes
                .is_some_and(|memory| memory >= least)
        };
        set.iter().filter(has).collect()
    }
}

// === impl Rule ===

impl Rule {
    /// That many groups of that size, without any wish.
    pub(crate) fn of_size(group_size: usize, group_count: usize) -> Self {
        Self {
            group_size,
            group_count,
            link_required: LinkClass::Any,
            link_wished: LinkClass::Any,
            is_numa_single: false,
            counts_numa: true,
            counts_nic: false,
        }
    }

    pub(crate) fn gpu_count(&self) -> usize {
        self.group_size * self.group_count
    }
}
