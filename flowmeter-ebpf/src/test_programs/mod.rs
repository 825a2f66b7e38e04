//! Programs that are not shipped: what tests and benchmarks put through the kernel.
//!
//! [`replay`] takes a packet's time and length from a map, [`traffic`] makes a packet one of many flows',
//! [`generate`] sends such packets, [`attached`] take FlowMeter's place on a cable, [`measured`] are the programs that
//! `cargo xtask bench kernel` compares, [`plain`] the ways of other flow meters among them.

mod attached;
mod generate;
mod measured;
mod plain;
mod replay;
mod traffic;
