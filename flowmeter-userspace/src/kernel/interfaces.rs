//! Network interfaces by name and number, and the counter slot that each gets.

use std::collections::HashSet;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use flowmeter_common::config::{MAX_INTERFACES, counter_slot};
use rustix::net::{AddressFamily, SocketFlags, SocketType, netdevice, socket_with};

/// The loopback interface's number in every network namespace (the kernel's LOOPBACK_IFINDEX).
const LOOPBACK_INDEX: u32 = 1;

/// An interface as it was when it was looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// The kernel's number for it.
    pub index: u32,
}

impl Interface {
    /// Whether it is the loopback interface, where what leaves arrives at once.
    pub fn is_loopback(&self) -> bool {
        self.index == LOOPBACK_INDEX
    }
}

/// The kernel's number of an interface of this name.
pub fn interface_index(name: &str) -> Option<u32> {
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None).ok()?;
    netdevice::name_to_index(socket, name).ok()
}

/// The interface where the inspector listens.
///
/// # Errors
/// There is none of this name.
pub fn find_inspector(name: &str) -> Result<u32> {
    interface_index(name).with_context(|| format!("there is no interface {name} for the inspector"))
}

/// Refuses an inspector whose packets leave through an interface that is watched: each copy would be seen there again.
///
/// # Errors
/// It sits on one of them, itself or with others between.
pub fn refuse_stacked(inspector: &str, watched: &[String]) -> Result<()> {
    let (mut found, mut next) = (vec![inspector.to_owned()], 0);
    while let Some(upper) = found.get(next).cloned() {
        for lower in below(&upper) {
            if watched.contains(&lower) {
                bail!(
                    "the inspector {inspector} sends through {lower}, which is watched, so that each copy would be seen \
                     there again; give an inspector on another interface"
                );
            }
            if !found.contains(&lower) {
                found.push(lower);
            }
        }
        next += 1;
    }
    Ok(())
}

/// The interfaces that one of this name sits on: what a VLAN, a bond or a bridge is made of, and what a tunnel is bound to.
fn below(name: &str) -> Vec<String> {
    let folder = Path::new("/sys/class/net").join(name);
    let read = |file: &str| std::fs::read_to_string(folder.join(file)).unwrap_or_default();
    let files = std::fs::read_dir(&folder).into_iter().flatten().flatten();
    let mut lower: Vec<String> = files
        .filter_map(|file| Some(file.file_name().to_str()?.strip_prefix("lower_")?.to_owned()))
        .collect();
    // A veth names its peer there, by its number in the peer's namespace; it has no device type.
    if read("uevent").lines().any(|line| line.starts_with("DEVTYPE="))
        && let Ok(link) = read("iflink").trim().parse::<u32>()
        && interface_index(name) != Some(link)
    {
        lower.extend(names().into_iter().filter(|other| interface_index(other) == Some(link)));
    }
    lower
}

/// The interfaces of these names.
///
/// # Errors
/// There are too many, one is named twice, or there is none of a name.
pub(super) fn find(names: &[String]) -> Result<Vec<Interface>> {
    if names.len() > MAX_INTERFACES as usize {
        bail!("{} interfaces were given; one agent watches at most {MAX_INTERFACES}", names.len());
    }
    let mut seen = HashSet::new();
    names
        .iter()
        .map(|name| {
            if !seen.insert(name) {
                bail!("interface {name} was given twice");
            }
            let Some(index) = interface_index(name) else {
                bail!("there is no interface {name}: expected one of {}", known_interfaces());
            };
            Ok(Interface { name: name.clone(), index })
        })
        .collect()
}

fn known_interfaces() -> String {
    names().join(", ")
}

/// Names of all interfaces, sorted.
fn names() -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir("/sys/class/net")
        .map(|entries| entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect())
        .unwrap_or_default();
    names.sort();
    names
}

/// An odd number that gives each interface a counter slot of its own.
pub(super) fn find_multiplier(interfaces: &[Interface]) -> Result<u32> {
    // Multiples of an irrational number spread well. With few interfaces there are many such numbers; with 64 interfaces in
    // 64 slots there may be none.
    let mut candidate = 0x9e37_79b1_u32;
    for _ in 0..1_000_000 {
        let slots: HashSet<u32> = interfaces.iter().map(|i| counter_slot(i.index, candidate)).collect();
        if slots.len() == interfaces.len() {
            return Ok(candidate);
        }
        candidate = candidate.wrapping_mul(0x0019_660d).wrapping_add(0x3c6e_f35e) | 1;
    }
    bail!("{} interfaces are too many for one agent here: start two agents", interfaces.len())
}
