//! How kernel and agent share the memory that flows live in.
//!
//! The table is set-associative: a flow may sit in one of two buckets, a near one of eight slots or a far one of sixteen.
//! Eight tags fill a cache line; a tag is 35 bits of the key's hash, a state, and the number of the flow's entry, which
//! lies in another array.
//!
//! The near buckets are so few that they stay in a cache, and a flow is in its near one unless that was full. While flows
//! are few, which is most of the time, a packet waits for memory once: for its flow's entry, and not for the tag before
//! it. The far buckets are so many that, with all entries taken, fewer than one flow in a million finds both of its
//! buckets full.
//!
//! Entries are handed out from a stack: what was given back last is taken first. So living flows lie close together, on as
//! few pages as they need, however large the table is. Strewn over all of it, most packets would wait for the translation
//! of an address.
//!
//! ```text
//!            kernel: claim (compare-exchange)        kernel: publish
//!   EMPTY ------------------------------> CLAIMING -----------------> LIVE
//!     ^                                      |                          |
//!     |  agent: free, after a grace period   | kernel: yield            | agent or kernel: retire
//!     +------------------- RETIRED <---------|--------------------------+     (compare-exchange)
//!     +--------------------------------------+
//! ```
//!
//! - Only the program that moved a tag from EMPTY to CLAIMING writes the entry's key, and only before it publishes.
//! - A kernel program that found a LIVE tag may update the entry until it returns, even if the tag is retired meanwhile. So
//!   the agent waits until every program has returned that ran when the tag was retired (a grace period). Only then does
//!   it copy the entry and free the slot.
//! - After retirement nobody finds the entry any more: a late packet opens a new flow.
//! - Free entries are linked, last in first out (Treiber's stack). The word that leads to the first counts every change, so
//!   the exchange fails for a CPU that followed links that have changed since. A CPU takes several entries at once and keeps
//!   them for itself: the word is exchanged once for many flows, and CPUs seldom meet at it.
//! - Two CPUs that open one flow at once both claim, then look whether the other did. With compare-exchange a full
//!   barrier between a claim and that look, at least one sees the other. The claim in the lower slot stands: who is in the
//!   higher one withdraws and finds the other's flow; who is in the lower one waits until the other has withdrawn, or has
//!   published because it had looked too early to see anything, and then gives way. Never two flows for one key, and
//!   always one. If a CPU stands still in the middle, the other gives up after a while, and its packet is folded and
//!   counted as contended.
//!
//! # Processors that reorder
//!
//! x86 keeps loads in order, and stores; ARM64 keeps neither. This is the order that the protocol needs, and what gives it:
//!
//! - *Key and state are read after the tag that says they are there.* The kernel has no load with acquire ordering
//!   before Linux 6.15. A branch on the tag would not do: processors guess it. The entry's address is computed from the
//!   number in the tag instead, and no processor that Linux runs on loads from an address before it knows it. The agent's
//!   loads are acquiring ones.
//! - *A free entry's link is read after the word that leads to it.* Its address is computed from the word, or from the link
//!   before, and it was written before either.
//! - *The entry is written before its tag is published.* Publishing is an exchange, before which all stores are done.
//! - *A claim comes before the look for rivals.* A compare-exchange is a full barrier.
//! - *A slot is freed after its entry was copied.* A store with release ordering; and who then claims it does so by a
//!   compare-exchange, before the first store into the entry.
//! - *An entry is copied after the last store into it.* The grace period is a full barrier on every processor.
//! - *A living flow is read while it is written.* Nothing orders that: the agent may see a packet's stores in any order,
//!   though none older than the few microseconds that a store takes to be seen. When it decides whether the flow has
//!   ended, it takes times that cannot be for times that it cannot see yet (`Ages::read`). The copy from which a living
//!   flow is scored may lack a part of the latest packet. The copy that enters the account is made when nobody writes.

mod buckets;
mod claim;
mod free_list;
mod lookup;
mod magazine;
mod memory;
mod retire;
pub mod tag;

pub use buckets::{Buckets, LINES, Place, WAYS};
pub use claim::{Ended, Found, find_or_open};
pub use free_list::NoSlot;
pub use lookup::{Hit, find, find_living, slot_of};
pub use magazine::Magazine;
pub use memory::{Memory, Opens};
pub use retire::{free, retire};
pub use tag::{Word, state};
