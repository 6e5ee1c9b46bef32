//! The feed-forward block of a layer: a gated one, or a mixture of several.
//!
//! A row's experts are added up in the order of their numbers, whatever other rows use.

use std::slice;

use berth_engine_cpu::activation::{gelu_tanh_mul, silu_mul};
use berth_engine_cpu::matrix::Matrix;
use berth_engine_cpu::product::Products;
use berth_engine_cpu::rows::each_row;
use berth_engine_cpu::team::Team;
use berth_engine_cpu::tier::Tier;

use super::experts::Routes;
use crate::config::{Activation, Experts};

/// One layer's.
#[derive(Debug)]
pub(crate) enum FeedForward {
    Plain(Gated),
    Mixture(Mixture),
}

/// `down · (activation(gate · x) · (up · x))`.
#[derive(Debug)]
pub(crate) struct Gated {
    /// Rows of gate, then as many of up.
    pub(crate) gate_up: Matrix,
    pub(crate) down: Matrix,
}

/// Of which a row uses a few.
#[derive(Debug)]
pub(crate) struct Mixture {
    pub(crate) shape: Experts,
    /// An output for each expert; every rank has all of it.
    pub(crate) router: Matrix,
    pub(crate) experts: Vec<Gated>,
}

/// What computes it.
pub(crate) struct Means<'a> {
    pub(crate) team: &'a mut Team,
    pub(crate) tier: Tier,
    pub(crate) products: &'a mut Products,
    pub(crate) activation: Activation,
    pub(crate) scratch: &'a mut Scratch,
}

/// Row-major matrices that are used again in each layer.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    gate_up: Vec<f32>,
    gated: Vec<f32>,
    routed: Vec<f32>,
    routes: Routes,
    /// Rows of one expert, and what it makes of them.
    chosen: Vec<f32>,
    out: Vec<f32>,
}

// === impl FeedForward ===

impl FeedForward {
    /// What rows are multiplied with.
    pub(crate) fn add_matrices<'a>(&'a self, to: &mut Vec<&'a Matrix>) {
        let gated = match self {
            Self::Plain(gated) => slice::from_ref(gated),
            Self::Mixture(mixture) => mixture.experts.as_slice(),
        };
        for Gated { gate_up, down } in gated {
            to.extend([gate_up, down]);
        }
    }

    /// What this rank's part makes of rows `x`; `out` is of the same shape.
    pub(crate) fn compute(&self, means: &mut Means<'_>, x: &[f32], out: &mut [f32]) {
        match self {
            Self::Plain(gated) => gated.compute(means, x, out),
            Self::Mixture(mixture) => mixture.compute(means, x, out),
        }
    }
}

// === impl Gated ===

impl Gated {
    fn compute(&self, means: &mut Means<'_>, x: &[f32], out: &mut [f32]) {
        let (rows, width) = (x.len() / self.gate_up.inputs(), self.down.inputs());
        let activate = match means.activation {
            Activation::Silu => silu_mul,
            Activation::GeluTanh => gelu_tanh_mul,
        };
        let Means {
            team,
            tier,
            products,
            scratch: Scratch { gate_up, gated, .. },
            ..
        } = means;
        gate_up.resize(2 * rows * width, 0.0);
        gated.resize(rows * width, 0.0);
        products.product(team, &self.gate_up, x, gate_up);
        each_row(team, gated, width, |row, out| {
            let (gate, up) = gate_up[2 * row * width..][..2 * width].split_at(width);
            activate(*tier, gate, up, out);
        });
        products.product(team, &self.down, gated, out);
    }
}

// === impl Mixture ===

impl Mixture {
    fn compute(&self, means: &mut Means<'_>, x: &[f32], out: &mut [f32]) {
        let width = self.router.inputs();
        self.route(means, x);
        let (mut chosen, mut made) = (
            std::mem::take(&mut means.scratch.chosen),
            std::mem::take(&mut means.scratch.out),
        );
        let routes = std::mem::take(&mut means.scratch.routes);
        out.fill(0.0);
        for (index, expert) in self.experts.iter().enumerate() {
            let rows = routes.of(index);
            if rows.is_empty() {
                continue;
            }
            chosen.clear();
            for (row, _) in rows {
                chosen.extend_from_slice(&x[row * width..][..width]);
            }
            made.resize(chosen.len(), 0.0);
            expert.compute(means, &chosen, &mut made);
            each_row(means.team, out, width, |row, out| {
                if let Ok(at) = rows.binary_search_by_key(&row, |(row, _)| *row) {
                    add(out, &made[at * width..][..width], rows[at].1);
                }
            });
        }
        (
            means.scratch.chosen,
            means.scratch.out,
            means.scratch.routes,
        ) = (chosen, made, routes);
    }

    fn route(&self, means: &mut Means<'_>, x: &[f32]) {
        let rows = x.len() / self.router.inputs();
        let Scratch { routed, routes, .. } = &mut *means.scratch;
        routed.resize(rows * self.shape.count, 0.0);
        means.products.product(means.team, &self.router, x, routed);
        routes.plan(means.tier, &self.shape, routed);
    }
}

fn add(out: &mut [f32], made: &[f32], weight: f32) {
    for (out, made) in out.iter_mut().zip(made) {
        *out += made * weight;
    }
}
