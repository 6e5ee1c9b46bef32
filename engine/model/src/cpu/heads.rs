//! What happens to a row's queries, keys and values before they are turned: bias and norms.

use berth_engine_cpu::attention::AttentionShape;
use berth_engine_cpu::norm::RmsNorm;
use berth_engine_cpu::rows::each_row;
use berth_engine_cpu::team::Team;
use berth_engine_cpu::tier::Tier;

/// What one layer does to this rank's heads; nothing in most families.
#[derive(Debug)]
pub(crate) struct Heads {
    /// As wide as queries, keys and values together.
    pub(crate) bias: Option<Vec<f32>>,
    pub(crate) norms: Option<HeadNorms>,
}

/// Weights of the norms of each head, `head_dim` long.
#[derive(Debug)]
pub(crate) struct HeadNorms {
    pub(crate) query: Vec<f32>,
    pub(crate) key: Vec<f32>,
    pub(crate) eps: f32,
}

// === impl Heads ===

impl Heads {
    /// `qkv`: a row's queries, keys and values side by side.
    pub(crate) fn finish(
        &self,
        team: &mut Team,
        tier: Tier,
        shape: AttentionShape,
        qkv: &mut [f32],
    ) {
        if self.bias.is_none() && self.norms.is_none() {
            return;
        }
        let width = shape.query_width() + 2 * shape.kv_width();
        each_row(team, qkv, width, |_, row| {
            if let Some(bias) = &self.bias {
                for (element, bias) in row.iter_mut().zip(bias) {
                    *element += bias;
                }
            }
            if let Some(norms) = &self.norms {
                norms.normalise(tier, shape, row);
            }
        });
    }
}

// === impl HeadNorms ===

impl HeadNorms {
    fn normalise(&self, tier: Tier, shape: AttentionShape, row: &mut [f32]) {
        let (queries, rest) = row.split_at_mut(shape.query_width());
        let keys = &mut rest[..shape.kv_width()];
        for (heads, weight) in [(queries, &self.query), (keys, &self.key)] {
            let norm = RmsNorm {
                tier,
                weight,
                eps: self.eps,
            };
            for head in heads.chunks_exact_mut(shape.head_dim) {
                norm.normalise(head);
            }
        }
    }
}
