//! Where flows come from: the kernel's table, or a capture file. Both give [`FlowRecord`](crate::record::FlowRecord)s.

pub mod live;
pub mod pcap;
