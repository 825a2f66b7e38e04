//! Which kernel programs are loaded and attached, and how one is found in the object.

use anyhow::{Context as _, Result};
use aya::Ebpf;
use aya::programs::{SchedClassifier, TcAttachType, Xdp};

use super::interfaces::Interface;
use crate::config::Mode;

/// The programs: those that only watch, and those that also filter.
const WATCH_INGRESS: &str = "flowmeter_ingress";
const WATCH_EGRESS: &str = "flowmeter_egress";
const FILTER_INGRESS: &str = "filter_ingress";
const FILTER_EGRESS: &str = "filter_egress";
const MIRROR_INGRESS: &str = "mirror_ingress";

/// Which programs are attached.
#[derive(Clone, Debug)]
pub(super) struct Programs {
    /// The XDP program.
    pub(super) ingress: &'static str,
    /// The TC programs, each with where it is attached.
    pub(super) tc: Vec<(&'static str, TcAttachType)>,
    /// Whether what leaves is counted.
    egress: bool,
}

impl Programs {
    /// Those of a mode.
    pub(super) fn new(mode: Mode, egress: bool) -> Self {
        let ingress = match mode {
            Mode::Watch | Mode::Mirror => WATCH_INGRESS,
            Mode::Divert | Mode::Block => FILTER_INGRESS,
        };
        let outgoing = if mode == Mode::Watch { WATCH_EGRESS } else { FILTER_EGRESS };
        let mirror = (mode == Mode::Mirror).then_some((MIRROR_INGRESS, TcAttachType::Ingress));
        let tc = mirror.into_iter().chain(egress.then_some((outgoing, TcAttachType::Egress))).collect();
        Self { ingress, tc, egress }
    }

    /// Whether what leaves an interface is counted. What leaves the loopback arrives there, and would be counted twice.
    pub(super) fn watches_egress(&self, interface: &Interface) -> bool {
        self.egress && !interface.is_loopback()
    }
}

/// The XDP program of this name.
pub(super) fn xdp_program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    Ok(ebpf.program_mut(name).with_context(|| format!("no program {name}"))?.try_into()?)
}

/// The TC program of this name.
pub(super) fn tc_program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier> {
    Ok(ebpf.program_mut(name).with_context(|| format!("no program {name}"))?.try_into()?)
}
