//! Columns that say which flow a row is about. They name places, not behaviour, and are never inputs of a model.

use std::net::IpAddr;

use flowmeter_common::key::tunnel;
use flowmeter_common::lifecycle::EndReason;

use crate::endpoint::write_address;
use crate::record::{FlowRecord, Stage};

/// A value of such a column.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell<'a> {
    /// Nothing.
    None,
    /// A number.
    Integer(i64),
    /// A number, perhaps with a fraction.
    Real(f64),
    /// A word.
    Text(&'a str),
    /// A text made for this flow.
    Owned(String),
    /// An address.
    Address(IpAddr),
    /// Nanoseconds since the Unix epoch.
    Time(u64),
}

/// What the cells of a column are, those that are not empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CellKind {
    /// [`Cell::Integer`].
    Integer,
    /// [`Cell::Real`].
    Real,
    /// [`Cell::Text`], [`Cell::Owned`] or [`Cell::Address`].
    Text,
    /// [`Cell::Time`].
    Time,
}

impl CellKind {
    /// Name as it stands in the reference.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Integer => "integer",
            Self::Real => "real",
            Self::Text => "text",
            Self::Time => "time",
        }
    }
}

/// A column.
#[derive(Clone, Copy)]
pub struct Identity {
    /// Column name.
    pub name: &'static str,
    /// What its cells are.
    pub kind: CellKind,
    /// Unit of the value.
    pub unit: &'static str,
    /// What it is.
    pub definition: &'static str,
    /// What it is where the definition has no value.
    pub undefined: &'static str,
    /// Its cell for a flow.
    pub cell: fn(&FlowRecord) -> Cell<'static>,
}

/// Makes columns; the same notions have other names in other tools' sets.
macro_rules! column {
    ($make:ident, $kind:ident, $unit:literal, $definition:literal, $undefined:literal, $cell:expr) => {
        #[doc = $definition]
        pub const fn $make(name: &'static str) -> Identity {
            Identity {
                name,
                kind: CellKind::$kind,
                unit: $unit,
                definition: $definition,
                undefined: $undefined,
                cell: $cell,
            }
        }
    };
}

column!(first_seen, Time, "RFC 3339, UTC", "Time of the first packet", "never", |r| Cell::Time(
    r.first_seen()
));
column!(source_address, Text, "address", "Address of the initiator", "never", |r| Cell::Address(
    r.source().address
));
column!(source_port, Integer, "port", "Port of the initiator; of ICMP see docs/flows.md", "0", |r| {
    Cell::Integer(r.source().port.into())
});
column!(destination_address, Text, "address", "Address of the other side", "never", |r| Cell::Address(
    r.destination().address
));
column!(destination_port, Integer, "port", "Port of the other side; of ICMP see docs/flows.md", "0", |r| {
    Cell::Integer(r.destination().port.into())
});
column!(protocol, Integer, "IANA number", "IP protocol", "never", |r| Cell::Integer(
    r.entry.key.protocol.into()
));
column!(vlan, Integer, "identifier", "Outer VLAN", "empty without a tag", |r| optional(r.vlans()[0]));
column!(inner_vlan, Integer, "identifier", "Inner VLAN", "empty without two tags", |r| optional(
    r.vlans()[1]
));
column!(
    tunnel_kind,
    Text,
    "ipip, gre, vxlan, geneve",
    "Tunnel that the flow was found in",
    "empty outside",
    |r| { tunnel::name(r.entry.key.tunnel).map_or(Cell::None, Cell::Text) }
);
column!(
    tunnel_id,
    Integer,
    "identifier",
    "Identifier of that tunnel",
    "0 if it has none, empty outside",
    |r| {
        match r.entry.key.tunnel {
            tunnel::NONE => Cell::None,
            _ => Cell::Integer(r.entry.key.tunnel_id.into()),
        }
    }
);
column!(end_reason, Text, "word", "Why the flow ended", "empty while it lives", |r| match r.stage {
    Stage::End(why) => Cell::Text(why.name()),
    Stage::Checkpoint { .. } => Cell::None,
});
column!(packets, Integer, "packets", "Packets of both directions", "never", |r| Cell::Integer(
    r.entry.state.packets() as i64
));
column!(bytes, Integer, "B", "Bytes of IP packets of both directions", "never", |r| Cell::Integer(
    r.entry.state.bytes() as i64
));
column!(cic_flow_id, Text, "text", "Addresses, ports and protocol, initiator first", "never", |r| {
    let (source, destination) = (r.source(), r.destination());
    let mut text = Vec::with_capacity(64);
    write_address(&mut text, source.address);
    text.push(b'-');
    write_address(&mut text, destination.address);
    for number in [source.port, destination.port, r.entry.key.protocol.into()] {
        text.push(b'-');
        text.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
    }
    Cell::Owned(String::from_utf8(text).unwrap_or_default())
});
column!(
    nfstream_expiration,
    Integer,
    "number",
    "Why it ended: 0 idle, 1 active timeout",
    "-1 otherwise",
    |r| {
        Cell::Integer(match r.stage {
            Stage::End(EndReason::Idle) => 0,
            Stage::End(EndReason::Active) => 1,
            _ => -1,
        })
    }
);
column!(ip_version, Integer, "number", "4 or 6", "never", |r| Cell::Integer(r.entry.key.ip_version.into()));
column!(nfstream_vlan, Integer, "identifier", "Outer VLAN", "0 without a tag", |r| Cell::Integer(
    r.vlans()[0].unwrap_or(0).into()
));
column!(
    nfstream_tunnel,
    Integer,
    "identifier",
    "Identifier of the tunnel that the flow was found in",
    "0",
    |r| { Cell::Integer(r.entry.key.tunnel_id.into()) }
);

fn optional(number: Option<u16>) -> Cell<'static> {
    number.map_or(Cell::None, |n| Cell::Integer(n.into()))
}

/// The columns of FlowMeter's own set.
pub const OWN: [Identity; 13] = [
    first_seen("timestamp"),
    source_address("src_ip"),
    source_port("src_port"),
    destination_address("dst_ip"),
    destination_port("dst_port"),
    protocol("protocol"),
    vlan("vlan"),
    inner_vlan("inner_vlan"),
    tunnel_kind("tunnel"),
    tunnel_id("tunnel_id"),
    end_reason("end_reason"),
    packets("flow_packets"),
    bytes("flow_bytes"),
];
