//! When flows end: each rule by an example, and laws that hold for any flow.

use flowmeter_common::aggregate;
use flowmeter_common::flow::{Entry, FlowState, Opening};
use flowmeter_common::key::FlowKey;
use flowmeter_common::lifecycle::{
    Ages, EndReason, Ending, Fate, TWICE_SEGMENT_LIFETIME, Timeouts, ended_before, is_slight,
};
use flowmeter_common::packet::{Packet, protocol, tcp_flags::*};
use flowmeter_common::time::SECOND;
use proptest::prelude::*;

const START: u64 = 1_700_000_000 * SECOND;
const TIMEOUTS: Timeouts = Timeouts { idle: 120 * SECOND, active: 1000 * SECOND, linger: 2 * SECOND };

/// The client's side is direction 0.
const CLIENT: u8 = 0;
const SERVER: u8 = 1;

fn segment(direction: u8, flags: u8, sequence: u32, acknowledgement: u32) -> Packet {
    let key = FlowKey { protocol: protocol::TCP, ip_version: 4, ..FlowKey::default() };
    Packet {
        direction,
        flags,
        header: 20,
        window: 1000,
        size: 40,
        sequence,
        acknowledgement,
        ..Packet::of(key)
    }
}

fn datagram() -> Packet {
    let packet = segment(CLIENT, 0, 0, 0);
    Packet { key: FlowKey { protocol: protocol::UDP, ..packet.key }, header: 8, size: 28, ..packet }
}

/// A flow of packets at seconds after the start.
fn flow(packets: &[(u64, Packet)]) -> FlowState {
    let mut state = FlowState::EMPTY;
    for (second, packet) in packets {
        state.update(packet, START + second * SECOND);
    }
    state
}

fn ages(state: &FlowState) -> Ages {
    // SAFETY: a reference points to a readable flow.
    unsafe { Ages::read(state) }.expect("a packet has been counted")
}

fn ending(state: &FlowState, second: u64, packet: &Packet) -> Option<Ending> {
    ended_before(state, packet, START + second * SECOND, &TIMEOUTS)
}

fn ended(reason: EndReason) -> Option<Ending> {
    Some(Ending { reason, continued: false })
}

/// A connection closed by both sides; the last segment comes at second 3.
fn closed() -> FlowState {
    flow(&[
        (0, segment(CLIENT, SYN, 10, 0)),
        (0, segment(SERVER, SYN | ACK, 70, 11)),
        (1, segment(CLIENT, ACK, 11, 71)),
        (2, segment(CLIENT, FIN | ACK, 11, 71)),
        (3, segment(SERVER, FIN | ACK, 71, 12)),
        (3, segment(CLIENT, ACK, 12, 72)),
    ])
}

#[test]
fn silence_ends_a_flow_after_the_idle_timeout_and_not_at_it() {
    let state = flow(&[(0, datagram()), (50, datagram())]);
    assert_eq!(ending(&state, 170, &datagram()), None);
    assert_eq!(ending(&state, 171, &datagram()), ended(EndReason::Idle));
}

#[test]
fn what_goes_on_beyond_the_active_timeout_continues() {
    let packets: Vec<(u64, Packet)> = (0..=10).map(|i| (i * 100, datagram())).collect();
    let state = flow(&packets);
    assert_eq!(ending(&state, 1000, &datagram()), None);
    assert_eq!(
        ending(&state, 1001, &datagram()),
        Some(Ending { reason: EndReason::Active, continued: true })
    );
    let fate = |second| ages(&state).fate(START + second * SECOND, &TIMEOUTS);
    assert_eq!((fate(1000), fate(1001)), (Fate::Living, Fate::Cut));
    assert_eq!(fate(1121), Fate::Ended(EndReason::Active), "and once it is idle as well, it is over");
}

#[test]
fn both_fins_acknowledged_close_a_connection_and_its_linger_takes_what_comes_late() {
    let state = closed();
    assert_eq!(ending(&state, 5, &segment(SERVER, ACK, 72, 12)), None);
    assert_eq!(ending(&state, 6, &segment(SERVER, ACK, 72, 12)), ended(EndReason::Fin));
}

#[test]
fn a_fin_that_nobody_acknowledged_closes_nothing() {
    let state = flow(&[
        (0, segment(CLIENT, ACK, 11, 71)),
        (0, segment(SERVER, ACK, 71, 11)),
        (1, segment(CLIENT, FIN | ACK, 11, 71)),
        (2, segment(SERVER, FIN | ACK, 71, 11)),
    ]);
    assert_eq!(ending(&state, 60, &segment(SERVER, ACK, 72, 11)), None);
}

#[test]
fn a_reset_closes_at_once() {
    let state = flow(&[(0, segment(CLIENT, SYN, 10, 0)), (1, segment(SERVER, RST | ACK, 0, 11))]);
    assert_eq!(ending(&state, 3, &segment(CLIENT, ACK, 11, 0)), None);
    assert_eq!(ending(&state, 4, &segment(CLIENT, ACK, 11, 0)), ended(EndReason::Reset));
}

#[test]
fn a_syn_after_the_close_is_a_new_connection_even_within_the_linger() {
    assert_eq!(ending(&closed(), 4, &segment(CLIENT, SYN, 999, 0)), ended(EndReason::Fin));
    assert_eq!(ending(&closed(), 4, &segment(SERVER, SYN | ACK, 999, 11)), None, "an answer is none");
}

#[test]
fn ports_are_used_again_when_another_syn_follows_a_long_silence() {
    let state = flow(&[(0, segment(CLIENT, SYN, 10, 0)), (1, segment(SERVER, SYN | ACK, 70, 11))]);
    let later = 1 + TWICE_SEGMENT_LIFETIME / SECOND;
    assert_eq!(ending(&state, later, &segment(CLIENT, SYN, 11, 0)), None);
    assert_eq!(ending(&state, later + 1, &segment(CLIENT, SYN, 11, 0)), ended(EndReason::PortReuse));
    assert_eq!(ending(&state, later + 1, &segment(CLIENT, SYN, 10, 0)), None, "the same SYN again");
    assert_eq!(ending(&state, later + 1, &segment(SERVER, SYN, 11, 0)), ended(EndReason::PortReuse));
    let no_answer = flow(&[(0, segment(CLIENT, SYN, 10, 0))]);
    let other = segment(SERVER, SYN, 11, 0);
    assert_eq!(ending(&no_answer, later + 1, &other), None, "its first SYN, of both at once");
}

#[test]
fn who_begins_is_the_initiator_unless_it_answers() {
    assert_eq!(Opening::of(&segment(SERVER, SYN, 1, 0)).initiator, SERVER);
    assert_eq!(Opening::of(&segment(SERVER, SYN | ACK, 1, 5)).initiator, CLIENT, "its SYN was not seen");
    assert_eq!(Opening::of(&segment(CLIENT, ACK, 1, 5)).initiator, CLIENT);
    let mut cut =
        Entry::opened_by(&segment(SERVER, SYN | ACK, 1, 5), Opening { initiator: CLIENT, earlier: 7 });
    cut.state = flow(&[(0, datagram()), (4, datagram())]);
    cut.state.directions[0].earlier = 7;
    assert_eq!(Opening::continuing(&cut), Opening { initiator: CLIENT, earlier: 7 + 4 * SECOND });
}

/// What a CPU may see of a flow that another one is opening or closing: some words are new, some are not.
#[test]
fn times_that_cannot_be_are_not_seen_yet() {
    // SAFETY: a reference points to a readable flow.
    let read = |state: &FlowState| unsafe { Ages::read(state) };
    assert_eq!(read(&FlowState::EMPTY), None);
    let whole = flow(&[(0, datagram())]);
    let mut without_first = whole;
    without_first.directions[0].first = FlowState::EMPTY.directions[0].first;
    assert_eq!(read(&without_first), None);
    let mut without_last = whole;
    without_last.directions[0].last = FlowState::EMPTY.directions[0].last;
    assert_eq!(read(&without_last), None);

    let reset = flow(&[(0, segment(CLIENT, SYN, 1, 0)), (1, segment(CLIENT, RST, 2, 0))]);
    let long_after = START + 50 * SECOND;
    assert_eq!(ages(&reset).expired(long_after, &TIMEOUTS), Some(EndReason::Reset));
    let mut without_time = reset;
    without_time.directions[0].closed_at = 0;
    assert_eq!(ages(&without_time).expired(long_after, &TIMEOUTS), None);
}

#[test]
fn scans_and_floods_are_slight_and_conversations_are_not() {
    let slight = |packets: &[(u64, Packet)]| {
        let mut entry = Entry::opened_by(&packets[0].1, Opening::of(&packets[0].1));
        entry.state = flow(packets);
        // SAFETY: a reference points to a readable entry.
        unsafe { is_slight(&entry) }
    };
    let (syn, answer) = (segment(CLIENT, SYN, 1, 0), segment(SERVER, SYN | ACK, 70, 2));
    assert!(slight(&[(0, datagram())]), "one packet");
    assert!(slight(&[(0, syn), (1, syn), (3, syn)]), "nobody answers");
    assert!(slight(&[(0, syn), (1, answer)]), "half-open");
    assert!(!slight(&[(0, syn), (1, answer), (2, segment(CLIENT, ACK, 2, 71))]), "established");
    assert!(
        !slight(&[(0, segment(CLIENT, ACK, 2, 71)), (1, segment(SERVER, ACK, 71, 2))]),
        "its start was not seen"
    );
    assert!(!slight(&[(0, datagram()), (1, datagram())]), "more than one packet");
}

/// Connections of many clients are one aggregate: one client's close does not end it, nor does another one's SYN.
#[test]
fn an_aggregate_ends_by_the_clock_only() {
    let mut state = FlowState::EMPTY;
    let of = |flags| aggregate::of(&segment(CLIENT, flags, 1, 0));
    for (second, flags) in [(0, SYN), (1, FIN | ACK), (2, RST), (3, SYN)] {
        let packet = of(flags);
        let now = START + second * SECOND;
        assert_eq!(ended_before(&state, &packet, now, &aggregate::TIMEOUTS), None, "{second}");
        state.fold(&packet, now);
    }
    assert_eq!(state.packets(), 4);
    let [a, b] = &state.directions;
    assert_eq!((a.syn + b.syn, a.fin + b.fin, a.rst + b.rst), (2, 1, 1), "flags are counted");
    let after = START + aggregate::PERIOD + 1;
    assert!(ended_before(&state, &of(SYN), after, &aggregate::TIMEOUTS).is_some());
}

prop_compose! {
    fn step()(
        direction in 0..2_u8,
        flags in prop_oneof![Just(ACK), Just(SYN), Just(SYN | ACK), Just(FIN | ACK), Just(RST), any::<u8>()],
        sequence in 0..4_u32,
        acknowledgement in 0..4_u32,
        udp in prop::bool::weighted(0.2),
        gap in prop_oneof![Just(0), 0..3 * SECOND, 0..130 * SECOND],
    ) -> (Packet, u64) {
        (if udp { datagram() } else { segment(direction, flags, sequence, acknowledgement) }, gap)
    }
}

proptest! {
    /// Whenever the clock is looked at, a flow that has ended stays so, for the same reason.
    #[test]
    fn an_ended_flow_stays_ended(
        steps in prop::collection::vec(step(), 1..20),
        wait in 0..1100 * SECOND,
        more in 0..2000 * SECOND,
    ) {
        let (mut now, mut state) = (START, FlowState::EMPTY);
        for (packet, gap) in &steps {
            now += gap;
            state.update(packet, now);
        }
        let ages = ages(&state);
        if let Some(reason) = ages.expired(now + wait, &TIMEOUTS) {
            prop_assert_eq!(ages.expired(now + wait + more, &TIMEOUTS), Some(reason));
        }
        prop_assert!(ages.expired(now + TIMEOUTS.idle + 1, &TIMEOUTS).is_some(), "no flow lives for ever");
    }

    /// Nothing happens before the time for which a timer is set, and something does at it.
    #[test]
    fn the_next_change_is_the_next_change(
        steps in prop::collection::vec(step(), 1..20),
        wait in 0..130 * SECOND,
        part in 0.0..1.0_f64,
    ) {
        let (mut now, mut state) = (START, FlowState::EMPTY);
        for (packet, gap) in &steps {
            now += gap;
            state.update(packet, now);
        }
        now += wait;
        let ages = ages(&state);
        let fate = ages.fate(now, &TIMEOUTS);
        if !matches!(fate, Fate::Ended(_)) {
            let next = ages.next_change(now, &TIMEOUTS);
            prop_assert!(next > now);
            let between = now + ((next - now - 1) as f64 * part) as u64;
            prop_assert_eq!(ages.fate(between, &TIMEOUTS), fate);
            prop_assert_eq!(ages.fate(next - 1, &TIMEOUTS), fate);
            prop_assert_ne!(ages.fate(next, &TIMEOUTS), fate);
        }
    }

    /// What a packet says of the flow before it never contradicts what the clock says.
    #[test]
    fn packets_and_the_clock_agree(
        steps in prop::collection::vec(step(), 1..20),
        (packet, gap) in step(),
    ) {
        let (mut now, mut state) = (START, FlowState::EMPTY);
        for (packet, gap) in &steps {
            now += gap;
            state.update(packet, now);
        }
        now += gap;
        let by_clock = ages(&state).expired(now, &TIMEOUTS);
        let by_packet = ended_before(&state, &packet, now, &TIMEOUTS);
        if let Some(reason) = by_clock {
            let cut = ages(&state).fate(now, &TIMEOUTS) == Fate::Cut;
            prop_assert_eq!(by_packet, Some(Ending { reason, continued: cut }));
        } else if by_packet.is_some() {
            prop_assert!(packet.flags & (SYN | ACK) == SYN, "only a SYN ends a flow that the clock lets live");
        }
    }
}
