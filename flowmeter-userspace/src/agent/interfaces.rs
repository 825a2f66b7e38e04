//! Keeps watch over the interfaces: attaches again to one that has come back, and sees that the inspector gets its packets.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use flowmeter_common::prefilter::Outcome;

use super::delivery::{Change, Delivery};
use super::status::Status;
use crate::kernel::{Counters, Device, Devices, Heartbeat, Interface, Kernel};
use crate::stats::{InspectorStats, LinkState};

/// How often it is looked.
pub const PERIOD: Duration = Duration::from_millis(500);

/// What the watch over the interfaces needs.
pub struct InterfaceWatch {
    devices: Devices,
    counters: Arc<Counters>,
    heartbeat: Arc<Heartbeat>,
    status: Arc<Status>,
    inspector: Option<Inspector>,
    /// Ends the agent when an interface is gone.
    exit_when_gone: bool,
}

/// The interface where the inspector listens.
struct Inspector {
    name: String,
    index: u32,
    delivery: Delivery,
    /// Whether it was there, up and with carrier.
    running: bool,
}

impl InterfaceWatch {
    /// A watch over the interfaces of an agent, and over its inspector's, if it has one.
    ///
    /// # Errors
    /// The kernel does not say how they are.
    pub fn new(
        counters: Arc<Counters>,
        heartbeat: Arc<Heartbeat>,
        status: Arc<Status>,
        inspector: Option<(String, u32)>,
        exit_when_gone: bool,
    ) -> Result<Self> {
        let devices = Devices::open()?;
        let mut watch = Self { devices, counters, heartbeat, status, inspector: None, exit_when_gone };
        if let Some((name, index)) = inspector {
            let device = watch.devices.by_index(index)?;
            let (sent, arrived) = (watch.sent()?, device.as_ref().map_or(0, |device| device.sent));
            let delivery = Delivery::new(sent, arrived);
            watch.inspector = Some(Inspector { name, index, delivery, running: true });
        }
        Ok(watch)
    }

    /// Looks at all interfaces, and does what follows.
    ///
    /// # Errors
    /// One is gone, and the agent is to end then.
    pub fn look(&mut self, kernel: &mut Kernel) -> Result<()> {
        for interface in kernel.interfaces().to_vec() {
            self.look_at(kernel, &interface)?;
        }
        // What cannot be read now can be read the next time.
        if let Err(error) = self.look_at_inspector(kernel) {
            log::debug!("{error:#}");
        }
        Ok(())
    }

    fn look_at(&self, kernel: &mut Kernel, interface: &Interface) -> Result<()> {
        let name = &interface.name;
        let before = self.status.link(name).unwrap_or(LinkState { attached: true, link: "up" });
        let device = match self.devices.by_index(interface.index) {
            Ok(Some(device)) => Some(device),
            Ok(None) => self.devices.by_name(name).unwrap_or_default(),
            Err(_) => return Ok(()),
        };
        let state = match device {
            None => self.gone(kernel, name, before)?,
            Some(device) => self.present(kernel, interface, &device, before),
        };
        self.status.set_link(name, state);
        Ok(())
    }

    fn gone(&self, kernel: &mut Kernel, name: &str, before: LinkState) -> Result<LinkState> {
        if before.link != "gone" {
            if self.exit_when_gone {
                bail!("{name} is gone");
            }
            log::warn!(
                "{name} is gone: nothing is seen of it; it is watched again when there is an interface of this name"
            );
            self.status.note("loss", Some(name), "the interface is gone");
            kernel.forget(name);
        }
        Ok(LinkState { attached: false, link: "gone" })
    }

    fn present(
        &self,
        kernel: &mut Kernel,
        interface: &Interface,
        device: &Device,
        before: LinkState,
    ) -> LinkState {
        let name = &interface.name;
        let link = if device.running { "up" } else { "down" };
        match (before.link, link) {
            ("up", "down") => log::warn!("{name} is down, or has no carrier: nothing is seen of it"),
            ("down", "up") => log::info!("{name} is up again"),
            _ => {}
        }
        if device.index == interface.index && device.name != *name && before.link != "gone" && before.attached
        {
            // The programs stay attached to it, and the log goes on under the name that it was given.
            log::debug!("{name} is called {} now", device.name);
        }
        let same = device.index == interface.index;
        if same && device.xdp && before.attached {
            return LinkState { attached: true, link };
        }
        if before.attached && same {
            log::warn!("{name}: somebody has detached the XDP program; it is attached again");
        }
        kernel.forget(name);
        let again = Interface { name: name.clone(), index: device.index };
        match kernel.attach_again(&again, &self.counters) {
            Ok(attachment) => {
                log::warn!("{name}: watched again, {} XDP for what comes in", attachment.ingress);
                self.status.note("attach", Some(name), format!("watched again, {} XDP", attachment.ingress));
                LinkState { attached: true, link }
            }
            Err(error) => {
                if before.attached || before.link == "gone" {
                    log::error!("{name} cannot be watched again; it is tried twice a second: {error:#}");
                }
                LinkState { attached: false, link }
            }
        }
    }

    /// Packets that went, or were to go, to the inspector.
    fn sent(&self) -> Result<u64> {
        let sum = |[arrived, left]: &[_; 2]| -> u64 {
            let of = |counters: &flowmeter_common::prefilter::PrefilterCounters| {
                counters.sum(|_, outcome| matches!(outcome, Outcome::Diverted | Outcome::Cloned)).packets
            };
            of(arrived) + of(left)
        };
        Ok(self.counters.prefilter_counters()?.iter().map(sum).sum())
    }

    fn look_at_inspector(&mut self, kernel: &mut Kernel) -> Result<()> {
        // Read first: what arrives later is no more than what was sent later.
        let sent = self.sent()?;
        let Some(inspector) = &mut self.inspector else { return Ok(()) };
        let device = match self.devices.by_index(inspector.index)? {
            Some(device) => Some(device),
            None => inspector.find_again(&self.devices, kernel)?,
        };
        let running = device.as_ref().is_some_and(|device| device.running);
        let name = &inspector.name;
        if inspector.running && !running {
            log::warn!("{name}, where the inspector listens, is gone, down or without carrier: packets pass");
        } else if running && !inspector.running {
            log::info!("{name}, where the inspector listens, is up again");
        }
        inspector.running = running;
        let (arrived, prompt) = device.as_ref().map_or((0, true), |device| (device.sent, device.veth));
        match inspector.delivery.look(Instant::now(), sent, arrived, prompt) {
            Some(Change::Lost { sent }) => {
                self.heartbeat.hold(true);
                self.status.note(
                    "loss",
                    Some(name),
                    format!("nothing of {sent} packets arrived at the inspector; every packet passes"),
                );
                let why = match (running, prompt) {
                    (false, _) => "it is gone, down or without carrier",
                    (true, true) => {
                        "its peer has neither GRO nor an XDP program, and so takes no redirected packet; Suricata turns \
                         GRO off unless capture.disable-offloading is false; `ethtool -K PEER gro on` turns it on"
                    }
                    (true, false) => "its driver does not send redirected packets, or does not count them",
                };
                log::error!(
                    "nothing of {sent} packets arrived at {name}; every packet passes for now: {why}"
                );
            }
            Some(Change::Try) => self.heartbeat.hold(false),
            Some(Change::Healed) => {
                log::warn!("packets arrive at {name} again, and verdicts are in force");
                self.status.note(
                    "attach",
                    Some(name),
                    "packets arrive at the inspector again; verdicts are in force",
                );
            }
            None => {}
        }
        let [sent, arrived] = inspector.delivery.totals();
        let reached = running && !inspector.delivery.is_lost();
        self.status.set_inspector(InspectorStats { interface: name.clone(), sent, arrived, reached });
        Ok(())
    }
}

impl Inspector {
    /// The interface under its name, if it has come back, with packets going there.
    fn find_again(&mut self, devices: &Devices, kernel: &mut Kernel) -> Result<Option<Device>> {
        let Some(device) = devices.by_name(&self.name)? else {
            return Ok(None);
        };
        if self.index != device.index {
            match kernel.redirect_to(device.index) {
                Ok(()) => {
                    self.index = device.index;
                    self.delivery.replaced(device.sent);
                    log::warn!(
                        "{}, where the inspector listens, is there again, and gets its packets",
                        self.name
                    );
                }
                Err(error) => {
                    if self.running {
                        log::error!("{} does not get its packets; restart flowmeter: {error:#}", self.name);
                    }
                    return Ok(None);
                }
            }
        }
        Ok(Some(device))
    }
}
