//! The load that benchmarks make, and the servers that they measure.

pub mod load;
pub mod process;
