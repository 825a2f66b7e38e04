//! Every way for a packet not to be counted in a flow, and the counters of the accounting identity.

/// Why a packet is not counted in a flow. The order is the order of the counters in [`InterfaceCounters`].
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Skip {
    /// The parser does not know the capture's link type.
    UnsupportedLink = 0,
    /// The frame ends within its link header.
    TruncatedLink = 1,
    /// The frame carries neither IPv4 nor IPv6 (ARP, LLDP, ...).
    NotIp = 2,
    /// More VLAN tags than two.
    TooManyTags = 3,
    /// The frame ends within the IPv4 header.
    TruncatedIpv4 = 4,
    /// IPv4 header with another version, a length below 20 bytes, or a total length below its header.
    BadIpv4 = 5,
    /// The frame ends within the IPv6 header or one of its extension headers.
    TruncatedIpv6 = 6,
    /// IPv6 header with another version.
    BadIpv6 = 7,
    /// More IPv6 extension headers than are followed.
    TooManyExtensions = 8,
    /// The frame ends within the transport header.
    TruncatedTransport = 9,
    /// A TCP data offset below five words, or beyond the packet.
    BadTcp = 10,
    /// The IP packet is too short for its transport header.
    ShortTransport = 11,
    /// More MPLS labels than are followed.
    TooManyLabels = 12,
    /// A fragment so short that the transport header is spread over several: the first one, or a TCP one that begins within
    /// the header. Nothing sends these but who wants to slip past a filter (RFC 1858, RFC 3128, RFC 7112).
    ShortFragment = 13,
    /// A copy that the pre-filter has made, on its way to an inspector that is reached through a watched interface.
    OwnCopy = 14,
    /// The program was run in the middle of another run on the same CPU, as real-time kernels can.
    Busy = 15,
}

/// Number of reasons in [`Skip`].
pub const SKIP_REASONS: usize = 16;

impl Skip {
    /// All reasons, in the order of their numbers.
    pub const ALL: [Self; SKIP_REASONS] = [
        Self::UnsupportedLink,
        Self::TruncatedLink,
        Self::NotIp,
        Self::TooManyTags,
        Self::TruncatedIpv4,
        Self::BadIpv4,
        Self::TruncatedIpv6,
        Self::BadIpv6,
        Self::TooManyExtensions,
        Self::TruncatedTransport,
        Self::BadTcp,
        Self::ShortTransport,
        Self::TooManyLabels,
        Self::ShortFragment,
        Self::OwnCopy,
        Self::Busy,
    ];

    /// Name as it stands in the log.
    pub const fn name(self) -> &'static str {
        match self {
            Self::UnsupportedLink => "unsupported_link",
            Self::TruncatedLink => "truncated_link",
            Self::NotIp => "not_ip",
            Self::TooManyTags => "too_many_tags",
            Self::TruncatedIpv4 => "truncated_ipv4",
            Self::BadIpv4 => "bad_ipv4",
            Self::TruncatedIpv6 => "truncated_ipv6",
            Self::BadIpv6 => "bad_ipv6",
            Self::TooManyExtensions => "too_many_extensions",
            Self::TruncatedTransport => "truncated_transport",
            Self::BadTcp => "bad_tcp",
            Self::ShortTransport => "short_transport",
            Self::TooManyLabels => "too_many_labels",
            Self::ShortFragment => "short_fragment",
            Self::OwnCopy => "own_copy",
            Self::Busy => "busy",
        }
    }
}

/// Counters of one interface, or of one capture. The kernel keeps one for each CPU; they are summed on reading.
///
/// `seen = counted + folded + sum(skipped)`, in packets, always.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InterfaceCounters {
    /// Packets that reached the program; super-packets count their segments.
    pub seen: u64,
    /// Packets counted in a flow.
    pub counted: u64,
    /// Bytes (IP length) counted in flows.
    pub counted_bytes: u64,
    /// Packets that found no slot in the flow table, for any reason.
    pub folded: u64,
    /// Bytes (IP length) of folded packets.
    pub folded_bytes: u64,
    /// Folded packets whose flow several CPUs kept trying to open at once. All other folded packets found the table full.
    pub contended: u64,
    /// Folded packets for which the aggregates had no slot either: only their number is known.
    pub unaggregated: u64,
    /// Packets skipped, by reason.
    pub skipped: [u64; SKIP_REASONS],
    /// Flows opened.
    pub opened: u64,
    /// Events for which the ring buffer had no room. No flow is lost by it: the sweep finds what no event told.
    pub events_lost: u64,
}

impl InterfaceCounters {
    /// Packets skipped for any reason.
    pub fn skipped_total(&self) -> u64 {
        self.skipped.iter().sum()
    }

    /// True if every packet seen is accounted for.
    pub fn balanced(&self) -> bool {
        self.seen == self.counted + self.folded + self.skipped_total()
    }

    /// Adds another CPU's or interface's counters.
    pub fn add(&mut self, other: &Self) {
        self.seen += other.seen;
        self.counted += other.counted;
        self.counted_bytes += other.counted_bytes;
        self.folded += other.folded;
        self.folded_bytes += other.folded_bytes;
        self.contended += other.contended;
        self.unaggregated += other.unaggregated;
        for (own, more) in self.skipped.iter_mut().zip(other.skipped) {
            *own += more;
        }
        self.opened += other.opened;
        self.events_lost += other.events_lost;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_stand_at_their_own_number_and_have_different_names() {
        for (i, reason) in Skip::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, i);
            assert!(Skip::ALL.iter().all(|other| other == reason || other.name() != reason.name()));
        }
    }
}
