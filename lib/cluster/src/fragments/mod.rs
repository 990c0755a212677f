//! Fragments of query plans: their wire form, what comes of them, and their evaluation over the pages of a head.

mod evaluate;
mod partials;
mod plan;

pub use evaluate::{PageSource, evaluate};
pub use partials::{from_wire as partials_from_wire, to_wire as partials_to_wire};
pub use plan::{from_wire, to_wire};
