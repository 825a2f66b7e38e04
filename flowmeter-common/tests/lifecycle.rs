//! When flows end: each rule by an example, and laws that hold for any flow.

use flowmeter_common::aggregate;
use flowmeter_common::flow::{Entry, FlowState, Opening};
use flowmeter_common::key::FlowKey;
use flowmeter_common::lifecycle::{
    Ages, Census, EndReason, Ending, Fate, Level, Pressure, Standing, TWICE_SEGMENT_LIFETIME, Timeouts,
    ended_before,
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
        unsafe { Standing::read(&entry) }.is_slight()
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
    let answer = Packet { direction: SERVER, ..datagram() };
    assert!(slight(&[(0, datagram()), (1, datagram())]), "nobody answers, whatever is sent");
    assert!(!slight(&[(0, datagram()), (1, answer)]), "answered");
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

/// A flow with so many packets from the client and from the server, a second apart, the last at `START`.
fn standing(from_client: u64, from_server: u64, age: u64, silence: u64) -> Standing {
    let client = datagram();
    let mut entry = Entry::opened_by(&client, Opening::of(&client));
    let packets = from_client + from_server;
    for i in 0..packets {
        let direction = if i < from_client { CLIENT } else { SERVER };
        let passed = (age - silence) * i / packets.saturating_sub(1).max(1);
        entry.state.update(&Packet { direction, ..client }, START - age + passed);
    }
    // SAFETY: a reference points to a readable entry.
    unsafe { Standing::read(&entry) }
}

#[test]
fn the_least_known_leave_first_until_there_is_room() {
    const ROOM: u64 = 8192;
    // Unanswered flows of two packets, kept alive by one more now and then; and conversations that go on.
    let flood = standing(2, 0, 2 * SECOND, SECOND / 10);
    let honest = standing(5, 5, 2 * SECOND, SECOND / 10);
    let mut census = Census::default();
    (0..7000).for_each(|_| census.add(&flood, START));
    (0..1000).for_each(|_| census.add(&honest, START));
    let pressure = Pressure::of(8000, ROOM, false, &census);
    assert_eq!(pressure.level, Level::High);
    assert!(pressure.evicts(&flood, START, TIMEOUTS.idle), "it is not silent, and leaves all the same");
    assert!(!pressure.evicts(&honest, START, TIMEOUTS.idle));
    let newcomer = standing(1, 0, SECOND / 10, SECOND / 10);
    assert!(!pressure.evicts(&newcomer, START, TIMEOUTS.idle), "its answer may be on the way");
    // A table full of answered flows: those with fewest packets make room, if they are silent.
    let mut census = Census::default();
    let (probe, silent) =
        (standing(1, 1, 20 * SECOND, 10 * SECOND), standing(80, 80, 20 * SECOND, 10 * SECOND));
    (0..8000).for_each(|_| census.add(&probe, START));
    (0..192).for_each(|_| census.add(&silent, START));
    let pressure = Pressure::of(8192, ROOM, true, &census);
    assert!(pressure.evicts(&probe, START, TIMEOUTS.idle) && !pressure.evicts(&silent, START, TIMEOUTS.idle));
    let pressure = Pressure::of(ROOM / 2, ROOM, false, &census);
    assert!(!pressure.evicts(&flood, START, TIMEOUTS.idle), "there is room");
}

/// A flood renews the table faster than its flows come of age.
#[test]
fn conversations_do_not_make_room_for_newcomers() {
    const ROOM: u64 = 8192;
    let newcomer = standing(1, 0, SECOND / 10, SECOND / 10);
    // It has been silent since before the flood.
    let conversation = standing(5, 4, 20 * SECOND, 19 * SECOND);
    let mut census = Census::default();
    (0..8092).for_each(|_| census.add(&newcomer, START));
    (0..100).for_each(|_| census.add(&conversation, START));
    let pressure = Pressure::of(ROOM, ROOM, true, &census);
    assert_eq!(pressure.level, Level::High);
    assert!(!pressure.evicts(&conversation, START, TIMEOUTS.idle));
    let later = START + SECOND;
    assert!(pressure.evicts(&newcomer, later, TIMEOUTS.idle), "the flood leaves once it is of age");
}

#[test]
fn ranks_follow_what_is_known() {
    let ranks = [(1, 0), (2, 0), (4, 0), (1000, 0), (1, 1), (10, 10), (100, 100)]
        .map(|(client, server)| standing(client, server, 10 * SECOND, SECOND).rank());
    assert!(ranks.is_sorted_by(|a, b| a < b), "{ranks:?}");
}

#[test]
fn a_reset_counts_if_the_receiver_would_take_it() {
    let closes = |before: &[Packet], reset: Packet| {
        let mut packets: Vec<(u64, Packet)> = before.iter().map(|packet| (0, *packet)).collect();
        packets.push((1, reset));
        ages(&flow(&packets)).expired(START + 9 * SECOND, &TIMEOUTS) == Some(EndReason::Reset)
    };
    let data = |direction, sequence, acknowledgement| Packet {
        payload: 100,
        size: 140,
        ..segment(direction, ACK, sequence, acknowledgement)
    };
    let refused = [segment(CLIENT, SYN, 1000, 0)];
    assert!(closes(&refused, segment(SERVER, RST | ACK, 0, 1001)), "a SYN is refused");
    assert!(!closes(&refused, segment(SERVER, RST | ACK, 0, 7)), "another SYN is");
    assert!(!closes(&refused, segment(SERVER, RST, 0, 0)), "none is");
    assert!(closes(&refused, segment(CLIENT, RST, 1001, 0)), "a half-open scan");
    let going_on = [data(CLIENT, 1001, 71), data(SERVER, 71, 1101), data(CLIENT, 1101, 171)];
    assert!(closes(&going_on, segment(CLIENT, RST | ACK, 1201, 171)), "after all that was sent");
    assert!(closes(&going_on, segment(CLIENT, RST, 1101, 0)), "where the server's acknowledgement stands");
    assert!(closes(&going_on, segment(SERVER, RST, 171, 0)), "what the client acknowledges");
    for forged in [0, 1000, 1200, 1202, 5000, u32::MAX] {
        assert!(!closes(&going_on, segment(CLIENT, RST, forged, 171)), "within the window or not: {forged}");
    }
    assert!(closes(&[], segment(CLIENT, RST, 5, 0)), "nothing is known");
    // A forged SYN restarts the numbers; what the stream goes on with shows that it was not the stream's.
    let forged = [segment(CLIENT, SYN, 90_000, 0), data(CLIENT, 1201, 171)];
    assert!(!closes(&forged, segment(CLIENT, RST, 90_001, 0)));
    assert!(!closes(&forged, segment(CLIENT, RST, 1301, 0)));
}

#[test]
fn forged_resets_and_syns_do_not_keep_a_flow_below_its_checkpoint() {
    let mut entry =
        Entry::opened_by(&segment(CLIENT, SYN, 1000, 0), Opening::of(&segment(CLIENT, SYN, 1000, 0)));
    let (mut flows, mut checkpoints, mut now) = (1, 0, START);
    let mut sequence = 1001;
    for i in 0..400_u32 {
        let data = Packet { payload: 200, size: 240, ..segment(CLIENT, ACK | PSH, sequence, 1) };
        sequence += 200;
        let mut packets = vec![data];
        if i % 4 == 3 {
            packets.extend([segment(CLIENT, RST, sequence, 0), segment(CLIENT, SYN, sequence + 99_999, 0)]);
        }
        for packet in packets {
            now += SECOND / 200;
            if ended_before(&entry.state, &packet, now, &TIMEOUTS).is_some() {
                entry = Entry::opened_by(&packet, Opening::of(&packet));
                flows += 1;
            }
            checkpoints += u32::from(entry.state.update(&packet, now).checkpoint);
        }
    }
    assert!(flows <= 2 && checkpoints >= 6, "{flows} flows, {checkpoints} checkpoints");
}
