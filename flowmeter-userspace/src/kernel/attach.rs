//! Attaches the programs to interfaces, and detaches them.

use anyhow::{Context as _, Result, bail};
use aya::Ebpf;
use aya::programs::links::FdLink;
use aya::programs::tc::{self, SchedClassifierLink, SchedClassifierLinkId};
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

/// What is attached. Dropping it detaches all that is not pinned.
#[derive(Default)]
pub(super) struct Links {
    /// Closing a link's descriptor detaches it, also when this process is killed.
    ingress: Vec<FdLink>,
    /// By program.
    tc: Vec<(&'static str, SchedClassifierLinkId)>,
    /// TC links that are pinned.
    pinned_tc: Vec<FdLink>,
}

impl Links {
    /// Attaches to all interfaces, natively where the driver can.
    ///
    /// # Errors
    /// An interface refuses. What was attached before is detached when `self` is dropped.
    pub(super) fn attach(
        &mut self,
        ebpf: &mut Ebpf,
        pins: Option<&Pins>,
        interfaces: &[Interface],
        programs: &Programs,
    ) -> Result<Vec<Attachment>> {
        let (mut attachments, mut kept) = (Vec::new(), Vec::new());
        for interface in interfaces {
            let ingress = self.attach_ingress(ebpf, pins, &interface.name, programs, &mut kept)?;
            attachments.push(Attachment {
                interface: interface.name.clone(),
                ingress,
                egress: programs.watches_egress(interface),
            });
        }
        for &(name, way) in &programs.tc {
            let program = tc_program(ebpf, name)?;
            let attached_to = |i: &&Interface| way == TcAttachType::Ingress || programs.watches_egress(i);
            for interface in interfaces.iter().filter(attached_to) {
                self.attach_tc(program, (name, way), pins, &interface.name, &mut kept)?;
            }
        }
        if let Some(pins) = pins {
            pins.release_links(&kept)?;
        }
        Ok(attachments)
    }

    /// Attaches the XDP program; returns whether it is "native" or "generic".
    fn attach_ingress(
        &mut self,
        ebpf: &mut Ebpf,
        pins: Option<&Pins>,
        interface: &str,
        programs: &Programs,
        kept: &mut Vec<String>,
    ) -> Result<&'static str> {
        let xdp = xdp_program(ebpf, programs.ingress)?;
        let (link, mode) = match pins {
            Some(pins) => {
                let (link, mode) = adopt_or_attach_xdp(xdp, pins, interface)?;
                let name = xdp_link_name(interface, mode);
                let link = pins.keep(link, &name)?;
                kept.push(name);
                (link, mode)
            }
            None => attach_xdp(xdp, interface)?,
        };
        self.ingress.push(link);
        Ok(mode)
    }

    /// Attaches a TC program, or puts it into the link that the agent before has left.
    fn attach_tc(
        &mut self,
        program: &mut SchedClassifier,
        (name, way): (&'static str, TcAttachType),
        pins: Option<&Pins>,
        interface: &str,
        kept: &mut Vec<String>,
    ) -> Result<()> {
        let name_kept = format!("{LINK}{}-{interface}", words(way));
        if let Some(old) = pins.and_then(|pins| pins.link(&name_kept))
            && let Ok(old) = SchedClassifierLink::try_from(old)
            && let Ok(link) = program.attach_to_link(old)
        {
            // The pin stays where it was.
            self.pinned_tc.push(FdLink::try_from(program.take_link(link)?)?);
            kept.push(name_kept);
            return Ok(());
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
        match pins {
            Some(pins) => {
                let link = FdLink::try_from(program.take_link(link)?).ok().context(
                    "--pin needs Linux 6.6 or newer, where what is attached to TC is a link; leave it out, or \
                     watch with --no-egress",
                )?;
                self.pinned_tc.push(pins.keep(link, &name_kept)?);
                kept.push(name_kept);
            }
            None => self.tc.push((name, link)),
        }
        Ok(())
    }

    /// Detaches from all interfaces.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(super) fn detach(&mut self, ebpf: &mut Ebpf) -> Result<()> {
        self.pinned_tc.clear();
        self.ingress.clear();
        for (name, link) in self.tc.drain(..) {
            tc_program(ebpf, name)?.detach(link).with_context(|| format!("cannot detach {name}"))?;
        }
        Ok(())
    }
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
