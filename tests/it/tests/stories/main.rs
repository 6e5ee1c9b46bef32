//! The stories: what a user of the loop sees, on a real control plane.

mod policies;
