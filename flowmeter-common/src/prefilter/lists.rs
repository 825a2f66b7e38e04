//! The allow and deny lists, as the kernel looks them up.

/// What the lists say of a packet.
pub mod listed {
    /// Nothing.
    pub const NONE: u32 = 0;
    /// It is on the allow list.
    pub const ALLOW: u32 = 1;
    /// It is on the deny list.
    pub const DENY: u32 = 2;
}

/// Key of the tries that hold the lists: a longest-prefix match needs the length first (linux/bpf.h, bpf_lpm_trie_key).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListKey {
    /// Bits that count, of all that follow: [`ListKey::FIXED`] and those of the prefix.
    pub bits: u32,
    /// 1 if the rule has a port, else 0.
    pub scope: u16,
    /// The port; 0 if the rule has none.
    pub port: u16,
    /// The address as [`crate::key::FlowKey`] has it.
    pub address: [u64; 2],
}

impl ListKey {
    /// Bits before the address.
    pub const FIXED: u32 = 32;
    /// Bits of a whole key.
    pub const ALL: u32 = Self::FIXED + 128;
    /// Bytes after the length.
    pub const BYTES: usize = size_of::<Self>() - 4;
}

const _: () = assert!(size_of::<ListKey>() == 24, "a key has no padding");

/// The most rules that both lists may have together.
pub const MAX_RULES: u32 = 65_536;

/// What the lists say of a packet, after each endpoint was looked up with its port and without. For one endpoint, a rule
/// with a port decides before one without. Between the endpoints, the allow list decides before the deny list.
#[inline(always)]
pub const fn which_list(a_port: u32, a: u32, b_port: u32, b: u32) -> u32 {
    let a = if a_port != listed::NONE { a_port } else { a };
    let b = if b_port != listed::NONE { b_port } else { b };
    if a == listed::ALLOW || b == listed::ALLOW {
        listed::ALLOW
    } else if a == listed::DENY || b == listed::DENY {
        listed::DENY
    } else {
        listed::NONE
    }
}
