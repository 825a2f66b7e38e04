//! What [`FlowState::update`] accumulates is what the list of packets says, computed here the slow and obvious way.

use flowmeter_common::flow::{FlowState, Gaps, HEAD, IDLE_GAP, Periods, SUBFLOW_GAP, completion};
use flowmeter_common::key::FlowKey;
use flowmeter_common::lifecycle::Timeouts;
use flowmeter_common::packet::{Packet, protocol, tcp_flags};
use flowmeter_common::time::SECOND;
use proptest::prelude::*;

/// Time of the first packet: some time in 2023.
const START: u64 = 1_700_000_000 * SECOND;

/// A packet of one connection.
fn tcp(direction: u8, flags: u8, payload: u32, sequence: u32, window: u16) -> Packet {
    let key = FlowKey { protocol: protocol::TCP, ip_version: 4, ..FlowKey::default() };
    Packet { direction, flags, header: 32, window, size: 52 + payload, payload, sequence, ..Packet::of(key) }
}

prop_compose! {
    /// A packet and the time since the one before, ns.
    fn step()(
        direction in 0..2_u8,
        flags in any::<u8>(),
        payload in prop_oneof![Just(0), 1..1500_u32, Just(65_483)],
        header in (5..=15_u16).prop_map(|words| words * 4),
        sequence in any::<u32>(),
        window in prop_oneof![Just(0), any::<u16>()],
        gap in prop_oneof![Just(0), 1..SECOND, SECOND..IDLE_GAP, IDLE_GAP..100 * SECOND, Just(SUBFLOW_GAP), Just(IDLE_GAP)],
    ) -> (Packet, u64) {
        let packet = tcp(direction, flags, payload, sequence, window);
        (Packet { header, size: 20 + u32::from(header) + payload, ..packet }, gap)
    }
}

fn steps() -> impl Strategy<Value = Vec<(Packet, u64)>> {
    prop::collection::vec(step(), 1..60)
}

/// The packets with their times, and the flow that they make.
fn flow(steps: &[(Packet, u64)]) -> (Vec<(Packet, u64)>, FlowState) {
    let (mut now, mut state) = (START, FlowState::EMPTY);
    let mut packets = Vec::new();
    for (packet, gap) in steps {
        now += gap;
        state.update(packet, now);
        packets.push((*packet, now));
    }
    (packets, state)
}

/// Distances of successive times.
fn distances(times: &[u64]) -> Vec<u64> {
    times.windows(2).map(|pair| pair[1] - pair[0]).collect()
}

fn squares(values: &[u64]) -> u128 {
    values.iter().map(|value| u128::from(*value) * u128::from(*value)).sum()
}

/// What gaps of these lengths are kept as: sum of squares, shortest, longest.
fn as_gaps(values: &[u64]) -> (u128, u64, u64) {
    (
        squares(values),
        values.iter().copied().min().unwrap_or(u64::MAX),
        values.iter().copied().max().unwrap_or(0),
    )
}

/// Gaps of both directions together.
fn merged(a: &Gaps, b: &Gaps) -> (u128, u64, u64) {
    (a.squares() + b.squares(), a.min.min(b.min), a.max.max(b.max))
}

/// Periods of both directions together: count, sum, sum of squares, shortest, longest.
fn merged_periods(a: &Periods, b: &Periods) -> (u32, u64, u64, u32, u32) {
    (a.count + b.count, a.sum + b.sum, a.squares + b.squares, a.min.min(b.min), a.max.max(b.max))
}

/// What periods of these lengths (ns) are kept as.
fn as_periods(values: &[u64]) -> (u32, u64, u64, u32, u32) {
    let values: Vec<u64> = values.iter().map(|value| value / 1000).collect();
    let (min, max) = (values.iter().min(), values.iter().max());
    (
        values.len() as u32,
        values.iter().sum(),
        squares(&values) as u64,
        min.map_or(u32::MAX, |value| *value as u32),
        max.map_or(0, |value| *value as u32),
    )
}

/// The flow's active periods and the silences that end them, ns.
fn activity(times: &[u64]) -> (Vec<u64>, Vec<u64>) {
    let (mut active, mut idle) = (Vec::new(), Vec::new());
    let mut start = times[0];
    for pair in times.windows(2) {
        if pair[1] - pair[0] > IDLE_GAP {
            active.extend(Some(pair[0] - start).filter(|length| *length != 0));
            idle.push(pair[1] - pair[0]);
            start = pair[1];
        }
    }
    (active, idle)
}

proptest! {
    #[test]
    fn a_direction_is_the_sum_of_its_packets(steps in steps()) {
        let (packets, state) = flow(&steps);
        for (number, direction) in state.directions.iter().enumerate() {
            let own: Vec<(Packet, u64)> = packets.iter().filter(|(p, _)| usize::from(p.direction) == number).copied().collect();
            let times: Vec<u64> = own.iter().map(|(_, at)| *at).collect();
            let sizes: Vec<u64> = own.iter().map(|(p, _)| u64::from(p.size)).collect();
            let payloads: Vec<u64> = own.iter().map(|(p, _)| u64::from(p.payload)).collect();
            prop_assert_eq!(direction.packets, own.len() as u64);
            prop_assert_eq!(direction.bytes, sizes.iter().sum::<u64>());
            prop_assert_eq!(u128::from(direction.bytes_squares), squares(&sizes));
            prop_assert_eq!(direction.payload_bytes, payloads.iter().sum::<u64>());
            prop_assert_eq!(u128::from(direction.payload_squares), squares(&payloads));
            prop_assert_eq!(direction.data_packets, payloads.iter().filter(|payload| **payload != 0).count() as u64);
            prop_assert_eq!(direction.header_bytes, own.iter().map(|(p, _)| u64::from(p.header)).sum::<u64>());
            if own.is_empty() {
                prop_assert_eq!(direction.complete, 0);
                continue;
            }
            prop_assert_eq!(direction.complete, completion(own.len() as u64));
            let extremes = (direction.size_min, direction.size_max, direction.payload_min, direction.payload_max);
            let of = |values: &[u64]| (*values.iter().min().unwrap() as u32, *values.iter().max().unwrap() as u32);
            prop_assert_eq!(extremes, (of(&sizes).0, of(&sizes).1, of(&payloads).0, of(&payloads).1));
            prop_assert_eq!((direction.first, direction.last), (times[0], times[times.len() - 1]));
            let gaps = as_gaps(&distances(&times));
            prop_assert_eq!((direction.gaps.squares(), direction.gaps.min, direction.gaps.max), gaps);

            let with = |flag: u8| own.iter().filter(|(p, _)| p.has(flag)).count();
            let flags = [direction.fin, direction.syn, direction.rst, direction.urg, direction.ece, direction.cwr];
            use tcp_flags::{ACK, CWR, ECE, FIN, PSH, RST, SYN, URG};
            prop_assert_eq!(flags.map(|n| n as usize), [FIN, SYN, RST, URG, ECE, CWR].map(with));
            prop_assert_eq!((direction.acks(protocol::TCP) as usize, direction.psh as usize), (with(ACK), with(PSH)));
            let windows: Vec<u16> = own.iter().map(|(p, _)| p.window).collect();
            prop_assert_eq!(direction.window_first, windows[0]);
            prop_assert_eq!(Some(&direction.window_min), windows.iter().min());
            prop_assert_eq!(Some(&direction.window_max), windows.iter().max());
            prop_assert_eq!(direction.zero_windows as usize, own.iter().filter(|(p, _)| p.window == 0 && !p.has(RST)).count());
            prop_assert_eq!(Some(direction.header_min), own.iter().map(|(p, _)| p.header).min());
            for (i, (packet, at)) in own.iter().take(HEAD).enumerate() {
                prop_assert_eq!(u32::from(direction.head_sizes[i]), packet.size.min(u32::from(u16::MAX)));
                prop_assert_eq!(u64::from(direction.head_offsets[i]), (at - packets[0].1) / 1000);
            }
        }
    }

    /// What belongs to the flow is kept in two parts, which no processor waits for, and merged in any order.
    #[test]
    fn the_flow_is_the_merge_of_its_directions(steps in steps()) {
        let (packets, state) = flow(&steps);
        let [a, b] = &state.directions;
        let times: Vec<u64> = packets.iter().map(|(_, at)| *at).collect();
        let gaps = distances(&times);
        prop_assert_eq!(merged(&a.flow_gaps, &b.flow_gaps), as_gaps(&gaps));
        prop_assert_eq!(merged(&b.flow_gaps, &a.flow_gaps), as_gaps(&gaps));
        let subflows = gaps.iter().filter(|gap| **gap > SUBFLOW_GAP).count();
        prop_assert_eq!((a.subflow_gaps + b.subflow_gaps) as usize, subflows);
        let (active, idle) = activity(&times);
        prop_assert_eq!(merged_periods(&a.active, &b.active), as_periods(&active));
        prop_assert_eq!(merged_periods(&a.idle, &b.idle), as_periods(&idle));
        prop_assert_eq!((state.first(), state.last()), (START + steps[0].1, *times.last().unwrap()));
        prop_assert_eq!(state.packets(), packets.len() as u64);
    }

    /// Which end of the key is `a` means nothing.
    #[test]
    fn exchanged_ends_exchange_the_directions(steps in steps()) {
        let exchanged: Vec<(Packet, u64)> =
            steps.iter().map(|(packet, gap)| (Packet { direction: packet.direction ^ 1, ..*packet }, *gap)).collect();
        let ((_, one), (_, other)) = (flow(&steps), flow(&exchanged));
        prop_assert_eq!(one.directions, [other.directions[1], other.directions[0]]);
    }

    /// A super-packet that the stack has still to segment counts as the segments that the wire will see.
    #[test]
    fn a_super_packet_is_its_segments(
        before in prop::collection::vec(step(), 0..6),
        segments in 2..20_u16,
        segment in 1..1449_u32,
        last in 1..1449_u32,
        gap in 0..SECOND,
    ) {
        let last = last.min(segment);
        let payload = segment * u32::from(segments - 1) + last;
        let whole = Packet { segments, segment_payload: segment, ..tcp(0, tcp_flags::ACK, payload, 7, 100) };
        let parts = (0..segments).map(|i| {
            let payload = if i + 1 == segments { last } else { segment };
            (tcp(0, tcp_flags::ACK, payload, 7 + u32::from(i) * segment, 100), if i == 0 { gap } else { 0 })
        });
        let (_, at_once) = flow(&[before.clone(), vec![(whole, gap)]].concat());
        let (_, singly) = flow(&before.into_iter().chain(parts).collect::<Vec<_>>());
        let [mut at_once, _] = at_once.directions;
        let [mut singly, _] = singly.directions;
        // Several packets at one time are one packet for what looks at the stream, see `Direction`.
        for direction in [&mut at_once, &mut singly] {
            (direction.bulk_start, direction.bulk_last, direction.bulk_time) = (0, 0, 0);
            (direction.bulk_packets, direction.bulk_bytes) = (0, 0);
            (direction.bulk_count, direction.bulk_pending, direction.bulks) = (0, 0, 0);
            (direction.retransmissions, direction.out_of_order) = (0, 0);
            (direction.hole_start, direction.hole_end, direction.next_sequence, direction.tcp_seen) = (0, 0, 0, 0);
        }
        prop_assert_eq!(at_once, singly);
    }
}

#[test]
fn a_gap_as_long_as_a_flow_may_live_is_squared_exactly() {
    let hour = Timeouts::MAX_ACTIVE;
    let (_, state) = flow(&[(tcp(0, 0, 0, 0, 0), 0), (tcp(0, 0, 0, 0, 0), hour)]);
    let [a, _] = &state.directions;
    let square = u128::from(hour) * u128::from(hour);
    assert!(square > u128::from(u64::MAX), "which takes more than 64 bits");
    assert_eq!((a.gaps.squares(), a.flow_gaps.squares()), (square, square));
    assert_eq!((a.idle.sum, a.idle.squares), (hour / 1000, (hour / 1000) * (hour / 1000)));
    assert_eq!((a.idle.min, a.idle.max, a.idle.count), (3_600_000_000, 3_600_000_000, 1));
}

#[test]
fn carries_between_the_halves_of_the_squares_are_kept() {
    // Around where one multiplication no longer does, and where the low half overflows.
    let four_seconds = 1_u64 << 32;
    let gaps =
        [four_seconds - 1, four_seconds, four_seconds + 1, u64::from(u32::MAX) * 2, 100 * SECOND, 1, 0];
    let steps: Vec<(Packet, u64)> =
        gaps.iter().cycle().take(70).map(|gap| (tcp(1, 0, 9, 0, 0), *gap)).collect();
    let (packets, state) = flow(&steps);
    let times: Vec<u64> = packets.iter().map(|(_, at)| *at).collect();
    assert_eq!(state.directions[1].gaps.squares(), squares(&distances(&times)));
}

#[test]
fn accumulators_hold_a_flow_of_the_longest_life_at_400_gigabits() {
    let seconds = u128::from(Timeouts::MAX_ACTIVE / SECOND);
    let bytes = 400_000_000_000 / 8 * seconds;
    let longest_packet = 65_535 + 40;
    assert!(bytes * longest_packet <= u128::from(u64::MAX), "sum of squared lengths");
    let microseconds = seconds * 1_000_000;
    assert!(microseconds * microseconds <= u128::from(u64::MAX), "sum of squared periods");
    assert!(microseconds <= u128::from(u32::MAX), "one period");
    let nanoseconds = seconds * u128::from(SECOND);
    assert!(nanoseconds.checked_mul(nanoseconds).is_some(), "sum of squared gaps");
    assert!(nanoseconds >> 32 < 1 << 10, "the cross term of a squared gap");
}

#[test]
fn counters_of_32_bits_stay_at_their_largest_value() {
    let mut state = FlowState::EMPTY;
    let all = tcp(0, !tcp_flags::ACK, 10, 5, 0);
    state.update(&all, START);
    {
        let [a, _] = &mut state.directions;
        for counter in [&mut a.fin, &mut a.syn, &mut a.rst, &mut a.urg, &mut a.ece, &mut a.cwr] {
            *counter = u32::MAX;
        }
        (a.zero_windows, a.subflow_gaps, a.retransmissions, a.out_of_order) =
            (u32::MAX, u32::MAX, u32::MAX, u32::MAX);
        (a.bulk_count, a.bulks) = (u32::MAX, u32::MAX);
    }
    let plain = tcp(0, !(tcp_flags::RST | tcp_flags::ACK), 10, 5, 0);
    for second in 1..5 {
        state.update(&plain, START + second * 2 * SECOND);
        state.update(&plain, START + second * 2 * SECOND);
    }
    let [a, _] = &state.directions;
    assert_eq!([a.fin, a.syn, a.urg, a.ece, a.cwr], [u32::MAX; 5]);
    assert_eq!([a.zero_windows, a.subflow_gaps, a.retransmissions, a.bulks], [u32::MAX; 4]);
}

#[test]
fn time_that_steps_back_stands_still() {
    let mut state = FlowState::EMPTY;
    for at in [10, 4, 12] {
        state.update(&tcp(0, 0, 0, 0, 0), START + at * SECOND);
    }
    let [a, _] = &state.directions;
    assert_eq!((a.first, a.last), (START + 10 * SECOND, START + 12 * SECOND));
    assert_eq!((a.gaps.min, a.gaps.max), (0, 2 * SECOND));
}

/// What two CPUs leave that count packets of one direction at once: one has added to the number of packets, and nothing else.
#[test]
fn a_packet_amid_another_one_s_update_records_no_gap_since_the_system_started() {
    let up = 864_000 * SECOND;
    for (first, last) in [(u64::MAX, 0), (up, 0)] {
        let mut state = FlowState::EMPTY;
        (state.directions[0].packets, state.directions[0].first, state.directions[0].last) = (1, first, last);
        state.update(&datagram_at(0), up);
        let direction = &state.directions[0];
        assert_eq!(
            (direction.gaps.max, direction.flow_gaps.max, direction.idle.sum),
            (0, 0, 0),
            "{first} {last}"
        );
        assert_eq!(direction.packets, 2);
        assert_eq!(direction.overlaps, 1, "the record says so");
    }
}

#[test]
fn updates_one_after_the_other_do_not_overlap() {
    let mut state = FlowState::EMPTY;
    for i in 0..100 {
        state.update(&datagram_at(i as u8 & 1), START + i);
    }
    assert_eq!(state.directions.map(|direction| direction.overlaps), [0, 0]);
}

/// 7 packets become 9 by one on each of two CPUs, each of which sees that the other has begun.
#[test]
fn a_checkpoint_that_both_directions_pass_at_once_is_told() {
    let mut state = FlowState::EMPTY;
    for i in 0..7 {
        state.update(&datagram_at(u8::from(i >= 4)), START + i);
    }
    for own in 0..2_u8 {
        let mut seen = state;
        seen.directions[usize::from(own ^ 1)].packets += 1;
        assert!(seen.update(&datagram_at(own), START + 20).checkpoint, "by direction {own}");
    }
    // And not twice where nobody else counts.
    state.update(&datagram_at(0), START + 20);
    assert!(!state.update(&datagram_at(1), START + 21).checkpoint);
}

fn datagram_at(direction: u8) -> Packet {
    let key = FlowKey { protocol: protocol::UDP, ip_version: 4, ..FlowKey::default() };
    Packet { direction, header: 8, size: 28, ..Packet::of(key) }
}
