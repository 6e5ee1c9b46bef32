//! A sum of costs, each at least 0, that explains what was measured: weighted least squares.

/// What a measurement still counts after the next of its kind.
const REMEMBERED: f64 = 0.96;
/// Turns around the costs for each measurement; the last costs are where it starts.
const TURNS: usize = 12;

/// Costs of `N` quantities.
#[derive(Clone, Debug)]
pub(super) struct Fit<const N: usize> {
    /// Sums over measurements of products of two quantities.
    products: [[f64; N]; N],
    /// Sums of products of a quantity and what was measured.
    answers: [f64; N],
    costs: [f64; N],
    is_known: bool,
}

impl<const N: usize> Default for Fit<N> {
    fn default() -> Self {
        Self {
            products: [[0.0; N]; N],
            answers: [0.0; N],
            costs: [0.0; N],
            is_known: false,
        }
    }
}

// === impl Fit ===

impl<const N: usize> Fit<N> {
    /// Learns that `quantities` cost `measured`; an error counts relative to `scale`.
    pub(super) fn observe(&mut self, quantities: [f64; N], measured: f64, scale: f64) {
        for row in 0..N {
            let weighted = quantities[row] / (scale * scale);
            for (product, other) in self.products[row].iter_mut().zip(quantities) {
                *product = *product * REMEMBERED + weighted * other;
            }
            self.answers[row] = self.answers[row] * REMEMBERED + weighted * measured;
        }
        self.is_known = true;
        for _ in 0..TURNS {
            self.improve();
        }
    }

    pub(super) fn expect(&self, quantities: [f64; N]) -> f64 {
        let parts = self.costs.iter().zip(quantities);
        parts.map(|(cost, quantity)| cost * quantity).sum()
    }

    pub(super) fn costs(&self) -> [f64; N] {
        self.costs
    }

    pub(super) fn is_known(&self) -> bool {
        self.is_known
    }

    /// Sets each cost to the best one beside the others (coordinate descent).
    fn improve(&mut self) {
        for index in 0..N {
            let own = self.products[index][index];
            if own <= 0.0 {
                continue;
            }
            let explained: f64 = (0..N)
                .filter(|other| *other != index)
                .map(|other| self.products[index][other] * self.costs[other])
                .sum();
            self.costs[index] = ((self.answers[index] - explained) / own).max(0.0);
        }
    }
}
