//! The real binary, without a cluster: whom it hears, over what, and what it puts up with.

mod extender;
mod limits;
mod mutual_tls;
