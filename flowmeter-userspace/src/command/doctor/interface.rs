//! What `doctor` finds of an interface: is it there and up, can it be read, who else is attached, what the card does to
//! packets.

use std::fs;
use std::path::Path;

use super::findings::Diagnoses;
use crate::kernel::{Device, Devices, Offloads, interface_index, offloads, others_on};

/// Link types that the programs read, by number (linux/if_arp.h): Ethernet and the loopback interface.
const LINK_TYPES: [u16; 2] = [1, 772];

/// Looks at an interface.
pub fn look(name: &str, egress: bool, devices: &Devices, findings: &mut Diagnoses) {
    let subject = format!("interface {name}");
    let device = match devices.by_name(name) {
        Ok(Some(device)) => device,
        Ok(None) => {
            return findings
                .failed(&subject, "there is none of this name; `ip link` lists those that there are");
        }
        Err(error) => return findings.failed(&subject, format!("{error:#}")),
    };
    match device.running {
        true => findings.ok(&subject, "there, and up"),
        false => findings.warning(
            &subject,
            format!("it is down or without carrier, so that nothing is seen of it: ip link set dev {name} up, and look at its cable"),
        ),
    }
    if !LINK_TYPES.contains(&device.link_type) {
        findings.warning(
            &subject,
            format!(
                "its link type (ARPHRD {}) is not Ethernet; packets may be skipped as not_ip: watch the interface below it, or try \
                 and look at skipped_by_reason",
                device.link_type
            ),
        );
    }
    others(name, egress, &device, &subject, findings);
    card(name, &subject, findings);
    queues(name, &subject, findings);
}

/// Programs of others.
fn others(name: &str, egress: bool, device: &Device, subject: &str, findings: &mut Diagnoses) {
    if device.xdp {
        findings.failed(
            subject,
            format!(
                "an XDP program is attached already, and an interface has room for one: `bpftool net show dev {name}` names it; end \
                 its program, or `ip link set dev {name} xdp off`"
            ),
        );
    }
    match others_on(name, egress) {
        Ok(0) => {}
        Ok(programs) => findings.warning(
            subject,
            format!(
                "{} attached by TCX; flowmeter goes before them, and what comes before flowmeter later may hide packets: `bpftool \
                 net show dev {name}` names them",
                crate::count::count(programs, "program")
            ),
        ),
        // Before Linux 6.6 there is no TCX to ask about.
        Err(error) => log::debug!("{name}: {error:#}"),
    }
}

/// What the card does to packets before a program sees them.
fn card(name: &str, subject: &str, findings: &mut Diagnoses) {
    let Some(Offloads { strips_vlan, lro }) = offloads(name) else { return };
    if strips_vlan && has_driver(name) {
        findings.warning(
            subject,
            format!("the card takes VLAN tags off, so that VLANs cannot be told apart: ethtool -K {name} rxvlan off"),
        );
    }
    if lro {
        findings.warning(
            subject,
            format!("LRO merges packets, and keeps XDP from native mode: ethtool -K {name} lro off"),
        );
    }
}

/// Receive queues beside CPUs: one CPU at a time serves a queue.
fn queues(name: &str, subject: &str, findings: &mut Diagnoses) {
    if interface_index(name).is_none() || !has_driver(name) {
        return;
    }
    let queues = fs::read_dir(class(name).join("queues")).map_or(0, |entries| {
        entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with("rx-")).count()
    });
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    if queues == 1 && cpus > 1 {
        findings.warning(
            subject,
            format!("one receive queue for {cpus} CPUs: one CPU counts all packets; ethtool -L {name} combined N gives more, if the card has more"),
        );
    } else if queues > 1 {
        findings.ok(subject, format!("{queues} receive queues for {cpus} CPUs"));
    }
}

/// True for a card; what is made of software has no device below it.
fn has_driver(name: &str) -> bool {
    class(name).join("device").exists()
}

fn class(name: &str) -> std::path::PathBuf {
    Path::new("/sys/class/net").join(name)
}
