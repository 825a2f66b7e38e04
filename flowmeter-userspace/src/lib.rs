//! The agent: reads flows from the kernel or from captures, scores them, writes verdicts.
//!
//! Reading order is the way of the data:
//!
//! 1. [`source`]: flows out of the kernel's table ([`kernel`]) or out of a [`capture`], as [`record`]s.
//! 2. [`context`]: what surrounds a flow. [`features`]: one table of what is calculated from a flow.
//! 3. [`model`] and [`scoring`]: a score, a verdict, and what moved it.
//! 4. [`sink`], [`stats`], [`latency`] and [`metrics`]: the log, tables, the accounting.
//! 5. [`prefilter`]: what a verdict does to packets, if the agent does more than watch.
//! 6. [`pipeline`]: the one place that knows all stages. [`agent`] runs it on living traffic, on threads of its own.
//! 7. [`cli`]: what was typed. [`config`]: what is meant by it. [`command`]: what each subcommand does.
//!
//! What was [`flow_log`] is read back to tell how good verdicts are ([`evaluation`]) and to fit them to a network
//! ([`calibration`]), or to make one model that knows it ([`adapt`]).

pub mod adapt;
pub mod agent;
pub mod calibration;
pub mod capture;
pub mod cli;
pub mod command;
pub mod config;
pub mod context;
pub mod count;
pub mod endpoint;
pub mod evaluation;
pub mod features;
pub mod flow_log;
pub mod kernel;
pub mod latency;
pub mod metrics;
pub mod model;
pub mod output;
pub mod pipeline;
pub mod prefilter;
pub mod record;
pub mod scoring;
pub mod sink;
pub mod source;
pub mod stats;
pub mod timestamp;
pub mod truth;
pub mod version;
