//! Attaches the programs to interfaces, and detaches them.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use aya::Ebpf;
use aya::programs::links::{FdLink, LinkOrder};
use aya::programs::tc::{self, SchedClassifierLink, SchedClassifierLinkId, TcAttachOptions};
use aya::programs::xdp::{XdpLink, XdpLinkId};
use aya::programs::{SchedClassifier, TcAttachType, Xdp, XdpMode};

use super::interfaces::Interface;
use super::pins::{LINK, Pins};
use super::programs::{Programs, tc_program, xdp_program};

/// How one interface is watched.
#[derive(Clone, Debug)]
pub struct Attachment {
    /// Interface name.
    pub interface: String,
    /// "native" or "generic".
    pub ingress: &'static str,
    /// Whether packets that leave are counted.
    pub egress: bool,
}

/// What is attached to one interface. Dropping it detaches all that is not pinned.
struct Attached {
    /// By program.
    tc: Vec<(&'static str, SchedClassifierLinkId)>,
    /// TC links that are pinned.
    _pinned_tc: Vec<FdLink>,
    /// Closing a link's descriptor detaches it, also when this process is killed. It counts, and so is dropped last.
    _ingress: FdLink,
}

/// What is attached, by interface name.
#[derive(Default)]
pub(super) struct Links(BTreeMap<String, Attached>);

/// What is attached, and how.
pub(super) struct Attaching<'a> {
    pub(super) ebpf: &'a mut Ebpf,
    pub(super) pins: Option<&'a Pins>,
    pub(super) programs: &'a Programs,
}

impl Links {
    /// Attaches to all interfaces, natively where the driver can.
    ///
    /// # Errors
    /// An interface refuses. What was attached before is detached when `self` is dropped.
    pub(super) fn attach_all(
        &mut self,
        attaching: &mut Attaching<'_>,
        interfaces: &[Interface],
    ) -> Result<Vec<Attachment>> {
        let mut kept = Vec::new();
        let attachments = interfaces
            .iter()
            .map(|interface| self.attach(attaching, interface, &mut kept))
            .collect::<Result<_>>()?;
        if let Some(pins) = attaching.pins {
            pins.release_links(&kept)?;
        }
        Ok(attachments)
    }

    /// Attaches to one interface; adds to `kept` the names of links that are pinned.
    ///
    /// # Errors
    /// The interface refuses.
    pub(super) fn attach(
        &mut self,
        attaching: &mut Attaching<'_>,
        interface: &Interface,
        kept: &mut Vec<String>,
    ) -> Result<Attachment> {
        let name = &interface.name;
        let egress = attaching.programs.watches_egress(interface);
        let (link, mode) = attaching.ingress(name, kept)?;
        let mut attached = Attached { _ingress: link, tc: Vec::new(), _pinned_tc: Vec::new() };
        for (program, way) in attaching.programs.tc.clone() {
            if way == TcAttachType::Ingress || egress {
                attaching.tc((program, way), name, &mut attached, kept)?;
            }
        }
        self.0.insert(name.clone(), attached);
        Ok(Attachment { interface: name.clone(), ingress: mode, egress })
    }

    /// Lets go of what was attached to an interface that is gone, or that somebody detached.
    pub(super) fn forget(&mut self, ebpf: &mut Ebpf, interface: &str) {
        if let Some(attached) = self.0.remove(interface) {
            for (program, link) in attached.tc {
                // Where the interface is gone there is nothing left to detach.
                let _ = tc_program(ebpf, program).map(|program| program.detach(link));
            }
        }
    }

    /// Detaches from all interfaces: first what copies, then what counts, so that nothing is copied that was not counted.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(super) fn detach_all(&mut self, ebpf: &mut Ebpf) -> Result<()> {
        let mut outcome = Ok(());
        for (_, attached) in std::mem::take(&mut self.0) {
            for (name, link) in attached.tc {
                let detached = tc_program(ebpf, name)?.detach(link);
                outcome = outcome.and(detached.with_context(|| format!("cannot detach {name}")));
            }
        }
        outcome
    }
}

impl Attaching<'_> {
    /// Attaches the XDP program; says whether it is "native" or "generic".
    fn ingress(&mut self, interface: &str, kept: &mut Vec<String>) -> Result<(FdLink, &'static str)> {
        let xdp = xdp_program(self.ebpf, self.programs.ingress)?;
        let Some(pins) = self.pins else {
            return attach_xdp(xdp, interface);
        };
        let (link, mode) = adopt_or_attach_xdp(xdp, pins, interface)?;
        let name = xdp_link_name(interface, mode);
        let link = pins.keep(link, &name)?;
        kept.push(name);
        Ok((link, mode))
    }

    /// Attaches a TC program, or puts it into the link that the agent before has left.
    fn tc(
        &mut self,
        (name, way): (&'static str, TcAttachType),
        interface: &str,
        attached: &mut Attached,
        kept: &mut Vec<String>,
    ) -> Result<()> {
        let program = tc_program(self.ebpf, name)?;
        let name_kept = format!("{LINK}{}-{interface}", words(way));
        if let Some(old) = self.pins.and_then(|pins| pins.link(&name_kept))
            && let Ok(old) = SchedClassifierLink::try_from(old)
            && let Ok(link) = program.attach_to_link(old)
        {
            // The pin stays where it was.
            attached._pinned_tc.push(FdLink::try_from(program.take_link(link)?)?);
            kept.push(name_kept);
            return Ok(());
        }
        let link = attach_tc(program, interface, way)?;
        match self.pins {
            Some(pins) => {
                let link = FdLink::try_from(program.take_link(link)?).ok().context(
                    "--pin needs Linux 6.6 or newer, where what is attached to TC is a link; leave it out, or \
                     watch with --no-egress",
                )?;
                attached._pinned_tc.push(pins.keep(link, &name_kept)?);
                kept.push(name_kept);
            }
            None => attached.tc.push((name, link)),
        }
        Ok(())
    }
}

/// Attaches a TC program before all others: one that ends a packet's way there would hide it from those behind.
fn attach_tc(
    program: &mut SchedClassifier,
    interface: &str,
    way: TcAttachType,
) -> Result<SchedClassifierLinkId> {
    let first = TcAttachOptions::TcxOrder(LinkOrder::first());
    if let Ok(link) = program.attach_with_options(interface, way, first) {
        return Ok(link);
    }
    let link = program
        .attach(interface, way)
        .or_else(|_| {
            // Kernels before 6.6 have no TCX and need a queueing discipline to hold the filter.
            let added = tc::qdisc_add_clsact(interface);
            log::debug!("{interface}: adding clsact: {added:?}");
            program.attach(interface, way)
        })
        .with_context(|| format!("{interface}: cannot attach to {} packets", words(way)))?;
    if let Ok((_, others)) = SchedClassifier::query_tcx(interface, way)
        && others.len() > 1
    {
        log::warn!(
            "{interface}: another program sees {} packets first, and may hide some: `bpftool net show dev {interface}` \
             names it",
            words(way)
        );
    }
    Ok(link)
}

const fn words(way: TcAttachType) -> &'static str {
    match way {
        TcAttachType::Ingress => "incoming",
        _ => "outgoing",
    }
}

/// The name under which an interface's XDP link is kept.
fn xdp_link_name(interface: &str, mode: &str) -> String {
    format!("{LINK}xdp-{mode}-{interface}")
}

/// Puts the program into the link that the agent before has left, if there is one whose interface still exists.
fn adopt_or_attach_xdp(xdp: &mut Xdp, pins: &Pins, interface: &str) -> Result<(FdLink, &'static str)> {
    for mode in ["native", "generic"] {
        if let Some(old) = pins.link(&xdp_link_name(interface, mode))
            && let Ok(link) = xdp.attach_to_link(XdpLink::try_from(old)?)
            && let Some(link) = as_fd_link(xdp, link)?
        {
            return Ok((link, mode));
        }
    }
    attach_xdp(xdp, interface)
}

/// Tries native mode, then generic.
fn attach_xdp(xdp: &mut Xdp, interface: &str) -> Result<(FdLink, &'static str)> {
    let native = match xdp.attach(interface, XdpMode::Driver) {
        Ok(link) => match as_fd_link(xdp, link)? {
            Some(link) => return Ok((link, "native")),
            None => "the attachment was not a link".to_owned(),
        },
        Err(error) => root_cause(&error),
    };
    log::warn!(
        "{interface}: no native XDP ({native}); using generic mode, which is slower and sees merged packets"
    );
    let generic = xdp.attach(interface, XdpMode::Skb).map_err(|error| {
        anyhow::anyhow!(
            "{interface}: cannot attach to incoming packets: {}; if another XDP program is attached there, \
             `ip link set dev {interface} xdp off` removes it",
            root_cause(&error)
        )
    })?;
    match as_fd_link(xdp, generic)? {
        Some(link) => Ok((link, "generic")),
        None => bail!(
            "{interface}: the kernel attached without a link, which would outlive this process; not using it"
        ),
    }
}

/// Where a link is refused, aya falls back to a netlink attachment, which would outlive this process if it is killed. Such
/// an attachment is taken off again.
fn as_fd_link(xdp: &mut Xdp, id: XdpLinkId) -> Result<Option<FdLink>> {
    let link = xdp.take_link(id)?;
    // On failure the link was consumed, and dropping it detached it.
    Ok(FdLink::try_from(link).ok())
}

fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}
