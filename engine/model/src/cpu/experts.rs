//! Which experts a row uses, and how much of each.

use berth_engine_cpu::softmax::softmax;
use berth_engine_cpu::tier::Tier;

use crate::config::Experts;

/// The rows of a step by expert; its memory is used again.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    /// Rows in ascending order, with the weight that the expert has in each.
    by_expert: Vec<Vec<(usize, f32)>>,
    /// Of one row: the experts chosen, with their weights.
    chosen: Vec<(usize, f32)>,
}

// === impl Routes ===

impl Routes {
    /// Routes rows by their router's logits, `(rows, experts)`, which are overwritten: the softmax
    /// over all experts, of which the greatest are taken, of equal ones the first.
    pub(crate) fn plan(&mut self, tier: Tier, experts: &Experts, logits: &mut [f32]) {
        self.by_expert.resize_with(experts.count, Vec::new);
        self.by_expert.iter_mut().for_each(Vec::clear);
        for (row, weights) in logits.chunks_exact_mut(experts.count).enumerate() {
            softmax(tier, weights);
            self.choose(experts, weights);
            for (expert, weight) in &self.chosen {
                self.by_expert[*expert].push((row, *weight));
            }
        }
    }

    fn choose(&mut self, experts: &Experts, weights: &[f32]) {
        self.chosen.clear();
        self.chosen.extend(weights.iter().copied().enumerate());
        // A stable sort: of equal weights the first expert stays first.
        self.chosen.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        self.chosen.truncate(experts.per_row);
        self.chosen.sort_by_key(|(expert, _)| *expert);
        if experts.is_normalised {
            let sum: f32 = self.chosen.iter().map(|(_, weight)| weight).sum();
            for (_, weight) in &mut self.chosen {
                *weight /= sum;
            }
        }
    }

    /// The rows of one expert.
    pub(crate) fn of(&self, expert: usize) -> &[(usize, f32)] {
        &self.by_expert[expert]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routed(is_normalised: bool, mut logits: Vec<f32>) -> Vec<Vec<(usize, f32)>> {
        let experts = Experts {
            count: 4,
            per_row: 2,
            intermediate_size: 32,
            is_normalised,
            layers: vec![true],
        };
        let mut routes = Routes::default();
        // What an earlier step left does not matter.
        routes.plan(Tier::Portable, &experts, &mut [1.0; 12]);
        routes.plan(Tier::Portable, &experts, &mut logits);
        routes.by_expert
    }

    #[test]
    fn each_row_goes_to_its_greatest_experts_the_first_of_equal_ones() {
        let rows = vec![0.0, 3.0, 1.0, 2.0, 5.0, 5.0, 5.0, 5.0];
        let experts = routed(true, rows);
        let rows_of: Vec<Vec<usize>> = experts
            .iter()
            .map(|rows| rows.iter().map(|(row, _)| *row).collect())
            .collect();
        assert_eq!(rows_of, [vec![1], vec![0, 1], vec![], vec![0]]);
        let sum = experts[1][0].1 + experts[3][0].1;
        assert!((sum - 1.0).abs() < 1e-6, "{sum}");
        assert!((experts[1][0].1 / experts[3][0].1 - 1.0_f32.exp()).abs() < 1e-4);
    }

    #[test]
    fn weights_are_left_as_they_are_where_the_model_says_so() {
        let experts = routed(false, vec![0.0, 0.0, 0.0, 0.0]);
        assert_eq!((&experts[0][0], &experts[1][0]), (&(0, 0.25), &(0, 0.25)));
    }
}
