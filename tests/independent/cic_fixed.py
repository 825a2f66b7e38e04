"""Checks FlowMeter against a slow recomputation from tshark's fields of each packet, which shares no code with it.

    cic_fixed.py CAPTURE FLOWS.csv                  every column of cic-fixed/v1, to 1e-9
    cic_fixed.py --conversations CAPTURE FLOWS.csv  packets and bytes of each TCP and UDP conversation, with
                                                    flowmeter/v1, against tshark's conversation statistics

Only Python's standard library and tshark are needed. Lists and exact integers are kept where FlowMeter keeps sums, so that
a mistake there has no counterpart here.
"""

import argparse
import csv
import datetime
import ipaddress
import itertools
import re
import subprocess
import sys
from collections import Counter, defaultdict
from fractions import Fraction
from math import isqrt

TOLERANCE = 1e-9
SECOND = 10**9
IDLE, ACTIVE, LINGER, REUSE = 120 * SECOND, 3600 * SECOND, 2 * SECOND, 60 * SECOND
FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = (1 << bit for bit in range(8))
ICMP, TCP, UDP, ICMP6, SCTP = 1, 6, 17, 58, 132

FIELDS = [
    "frame.time_epoch",
    "frame.len",
    "ieee8021ad.id",
    "vlan.id",
    "ip.src",
    "ip.dst",
    "ip.len",
    "ip.hdr_len",
    "ip.proto",
    "ip.frag_offset",
    "ipv6.src",
    "ipv6.dst",
    "ipv6.plen",
    "ipv6.nxt",
    "ipv6.hopopts.nxt",
    "ipv6.hopopts.len_oct",
    "ipv6.dstopts.nxt",
    "ipv6.dstopts.len_oct",
    "ipv6.routing.nxt",
    "ipv6.routing.len_oct",
    "ipv6.fraghdr.nxt",
    "ipv6.fraghdr.offset",
    "tcp.srcport",
    "tcp.dstport",
    "tcp.seq_raw",
    "tcp.ack_raw",
    "tcp.hdr_len",
    "tcp.flags",
    "tcp.window_size_value",
    "udp.srcport",
    "udp.dstport",
    "sctp.srcport",
    "sctp.dstport",
    "icmp.type",
    "icmp.code",
    "icmp.ident",
    "icmpv6.type",
    "icmpv6.code",
    "icmpv6.echo.identifier",
]

# What tshark must not do: join packets, or number from zero.
PREFERENCES = [
    "ip.defragment:FALSE",
    "ipv6.defragment:FALSE",
    "tcp.desegment_tcp_streams:FALSE",
    "tcp.relative_sequence_numbers:FALSE",
]


def tshark(capture, *words):
    """tshark's output lines for a capture."""
    command = ["tshark", "-n", "-r", capture]
    for preference in PREFERENCES:
        command += ["-o", preference]
    return subprocess.run(
        command + list(words), capture_output=True, text=True, check=True
    ).stdout.splitlines()


class Packet:
    """One packet as tshark dissected it; `skipped` says why it is in no flow."""

    def __init__(self, row):
        self.time = 0  # of the capture, set as it is read: never less than before
        values = dict(zip(FIELDS, row, strict=False))
        first = {name: value.split("|")[0] for name, value in values.items()}

        def number(name):
            text = first[name]
            return int(text, 16) if text.startswith("0x") else int(float(text)) if text else 0

        self.skipped = None
        seconds, _, fraction = first["frame.time_epoch"].partition(".")
        self.stamp = int(seconds) * SECOND + int((fraction + "0" * 9)[:9])
        self.frame_length = number("frame.len")
        self.vlans = values["ieee8021ad.id"], values["vlan.id"]
        self.later_fragment = False
        if first["ip.src"] and first["ipv6.src"]:
            self.skipped = "IPv4 and IPv6, one in the other"
            return
        if first["ip.src"]:
            self.source, self.target = first["ip.src"], first["ip.dst"]
            self.size, headers, self.protocol = number("ip.len"), number("ip.hdr_len"), number("ip.proto")
            self.later_fragment = number("ip.frag_offset") != 0
        elif first["ipv6.src"]:
            self.source, self.target = first["ipv6.src"], first["ipv6.dst"]
            self.size, headers, self.protocol = number("ipv6.plen") + 40, 40, number("ipv6.nxt")
            for kind in ("hopopts", "dstopts", "routing"):
                if first[f"ipv6.{kind}.nxt"]:
                    headers += number(f"ipv6.{kind}.len_oct")
                    self.protocol = number(f"ipv6.{kind}.nxt")
            if first["ipv6.fraghdr.nxt"]:
                headers += 8
                self.protocol = number("ipv6.fraghdr.nxt")
                self.later_fragment = number("ipv6.fraghdr.offset") != 0
        else:
            self.skipped = "not IP"
            return
        self.source, self.target = (
            str(ipaddress.ip_address(self.source)),
            str(ipaddress.ip_address(self.target)),
        )
        self.header = self.flags = self.window = self.sequence = self.acknowledgement = 0
        self.ports, self.icmp = (0, 0), None
        if not self.later_fragment:
            self.transport(first, number)
        self.payload = self.size - headers - self.header
        if self.payload < 0:
            self.skipped = "too short"

    def transport(self, first, number):
        """Reads what follows the IP header."""
        if self.protocol == TCP:
            if not first["tcp.flags"]:
                self.skipped = "no TCP header"
                return
            self.ports = number("tcp.srcport"), number("tcp.dstport")
            self.header, self.flags = number("tcp.hdr_len"), number("tcp.flags") & 0xFF
            self.sequence, self.acknowledgement = number("tcp.seq_raw"), number("tcp.ack_raw")
            self.window = number("tcp.window_size_value")
        elif self.protocol == UDP:
            self.ports, self.header = (number("udp.srcport"), number("udp.dstport")), 8
        elif self.protocol == SCTP:
            self.ports, self.header = (number("sctp.srcport"), number("sctp.dstport")), 12
        elif self.protocol in (ICMP, ICMP6):
            self.header = 8
            name = "icmp" if self.protocol == ICMP else "icmpv6"
            kind, code = number(f"{name}.type"), number(f"{name}.code")
            self.icmp = kind, code
            asks = {8: 0, 13: 14, 15: 16, 17: 18} if self.protocol == ICMP else {128: 129}
            identifier = number("icmp.ident" if self.protocol == ICMP else "icmpv6.echo.identifier")
            if kind in asks:
                self.ports = kind, identifier
            elif kind in asks.values():
                self.ports = identifier, next(ask for ask, answer in asks.items() if answer == kind)
            else:
                self.ports = kind, code

    def has(self, flags):
        """True if all of these flags are set."""
        return self.protocol == TCP and not self.later_fragment and self.flags & flags == flags


def after(a, b):
    """True if sequence number a comes after b, modulo 2**32 (RFC 9293 section 3.4)."""
    return 0 < (a - b) % 2**32 < 2**31


class Side:
    """One direction: its packets, and its TCP state."""

    def __init__(self):
        self.packets = []
        self.initial = self.fin_end = self.highest_ack = self.expected = self.hole = None
        self.retransmissions = 0

    def segment(self, packet):
        """Follows sequence numbers."""
        length = packet.payload + packet.has(SYN) + packet.has(FIN)
        end = (packet.sequence + length) % 2**32
        if packet.has(SYN):
            self.initial = packet.sequence
        if packet.has(FIN):
            self.fin_end = end
        if packet.has(ACK) and (self.highest_ack is None or after(packet.acknowledgement, self.highest_ack)):
            self.highest_ack = packet.acknowledgement
        if packet.has(RST):
            return
        if self.expected is None:
            self.expected = end
        elif length:
            start, expected = packet.sequence, self.expected
            if not after(expected, start):
                if start != expected:
                    self.hole = expected, start
                self.expected = end
                return
            if self.hole and not after(self.hole[0], start) and after(self.hole[1], start):
                self.hole = (end, self.hole[1]) if after(self.hole[1], end) else None
            else:
                self.retransmissions += 1
            if after(end, expected):
                self.expected = end


class Flow:
    """A flow: who began it, and all of its packets."""

    def __init__(self, packet, continues=None):
        self.first_packet = packet
        sender = packet.source, packet.ports[0]
        receiver = packet.target, packet.ports[1]
        if packet.has(SYN | ACK):
            sender, receiver = receiver, sender
        self.initiator, self.responder, self.earlier = sender, receiver, 0
        if continues:
            self.initiator, self.responder = continues.initiator, continues.responder
            self.earlier = continues.earlier + continues.last - continues.first
        self.sides = Side(), Side()
        self.all = []
        self.closed = None

    @property
    def first(self):
        """Time of the first packet."""
        return self.all[0].time

    @property
    def last(self):
        """Time of the last packet."""
        return self.all[-1].time

    def add(self, packet):
        """Counts a packet."""
        backward = (packet.source, packet.ports[0]) != self.initiator
        packet.backward = backward
        own, other = self.sides[backward], self.sides[not backward]
        own.packets.append(packet)
        self.all.append(packet)
        if packet.protocol == TCP and not packet.later_fragment:
            own.segment(packet)
            finished = None not in (own.fin_end, other.fin_end, own.highest_ack, other.highest_ack) and not (
                after(other.fin_end, own.highest_ack) or after(own.fin_end, other.highest_ack)
            )
            if self.closed is None and (packet.has(RST) or finished):
                self.closed = packet.time

    def ended_before(self, packet):
        """None, or "continued" or "ended"."""
        deadlines = [(self.last + IDLE, "idle"), (self.first + ACTIVE, "active")]
        if self.closed is not None:
            deadlines.append((self.closed + LINGER, "linger"))
        passed = sorted(deadline for deadline in deadlines if packet.time > deadline[0])
        if passed:
            fresh = packet.time <= self.last + IDLE
            return "continued" if passed[0][1] == "active" and fresh else "ended"
        if packet.has(SYN) and not packet.has(ACK):
            if self.closed is not None:
                return "ended"
            own = self.sides[(packet.source, packet.ports[0]) != self.initiator]
            if own.initial is not None and own.initial != packet.sequence and packet.time - self.last > REUSE:
                return "ended"
        return None


def read_flows(capture):
    """All flows of a capture, and how many packets are in none, by reason."""
    words = ["-T", "fields", "-E", "separator=/t", "-E", "occurrence=a", "-E", "aggregator=|"]
    for field in FIELDS:
        words += ["-e", field]
    living: dict[tuple, Flow] = {}
    ended: list[Flow] = []
    skipped: Counter = Counter()
    now = 0
    for line in tshark(capture, *words):
        packet = Packet(line.split("\t"))
        packet.time = now = max(now, packet.stamp)
        if packet.skipped:
            skipped[packet.skipped] += 1
            continue
        ends = frozenset(((packet.source, packet.ports[0]), (packet.target, packet.ports[1])))
        query = packet.icmp is not None and packet.icmp[0] in (
            (0, 8, 13, 14, 15, 16, 17, 18) if packet.protocol == ICMP else (128, 129)
        )
        key = ends, packet.protocol, packet.vlans, packet.later_fragment, query
        flow = living.get(key)
        how = flow.ended_before(packet) if flow else "ended"
        if flow is None or how:
            if flow:
                ended.append(flow)
            flow = living[key] = Flow(packet, flow if how == "continued" else None)
        flow.add(packet)
    return ended + list(living.values()), skipped


def root(value):
    """The square root of a fraction, correct to far more digits than are compared."""
    scale = 10**40
    return isqrt(value.numerator * scale // value.denominator) / 10**20


class Moments:
    """Statistics of a list of integers; deviations are of the sample."""

    def __init__(self, values, unit=1):
        n = len(values)
        self.total = Fraction(sum(values), unit)
        self.mean = self.total / n if n else Fraction(0)
        self.low = Fraction(min(values, default=0), unit)
        self.high = Fraction(max(values, default=0), unit)
        self.variance = Fraction(0)
        if n > 1:
            # n times the squares less the square of the sum: the same, with fewer fractions.
            spread = n * sum(value * value for value in values) - sum(values) ** 2
            self.variance = Fraction(spread, n * (n - 1) * unit * unit)
        self.std = root(self.variance)


def gaps(packets):
    """Times between successive packets, ns."""
    return [b.time - a.time for a, b in itertools.pairwise(packets)]


def bulks(flow, side):
    """Bulks, packets, bytes and time (ns) in them, of one direction."""
    start = last = count = 0
    pending = number = packets = volume = time = 0
    peer_last = None
    for packet in flow.all:
        if not packet.payload:
            continue
        if packet.backward != side:
            peer_last = packet.time
            continue
        broken = peer_last is not None and peer_last > start
        if count == 0 or broken or packet.time - last > SECOND:
            start, count, pending = packet.time, 0, 0
        count += 1
        pending += packet.payload
        if count == 4:
            number, packets, volume, time = (
                number + 1,
                packets + 4,
                volume + pending,
                time + packet.time - start,
            )
        elif count > 4:
            packets, volume, time = packets + 1, volume + packet.payload, time + packet.time - last
        last = packet.time
    return number, packets, volume, time


def periods(flow):
    """Active and idle periods in whole microseconds."""
    active, idle, start = [], [], flow.all[0].time
    for a, b in zip(flow.all, flow.all[1:], strict=False):
        if b.time - a.time > 5 * SECOND:
            active.append(a.time - start)
            idle.append((b.time - a.time) // 1000)
            start = b.time
    active.append(flow.last - start)
    # A run of less than a microsecond is none at the end, and one of none before.
    runs = [run // 1000 for run in active[:-1] if run] + [run // 1000 for run in active[-1:] if run // 1000]
    return runs, idle


def timestamp(time):
    """RFC 3339 with nine digits of the second; `time` in ns."""
    seconds, fraction = divmod(time, SECOND)
    whole = datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{whole}.{fraction:09}Z"


def columns(flow):
    """Every column of cic-fixed/v1 for a flow."""
    us = 1000
    duration = flow.last - flow.first
    forward, backward = (side.packets for side in flow.sides)
    payload = [packet.payload for packet in flow.all]
    lengths = Moments(payload)
    sides = [Moments([packet.payload for packet in packets]) for packets in (forward, backward)]
    row: dict[str, str | int | Fraction] = {}

    def flags(packets, flag):
        return sum(packet.has(flag) for packet in packets)

    (source, source_port), (target, target_port) = flow.initiator, flow.responder
    protocol = flow.first_packet.protocol
    row["Flow ID"] = f"{source}-{target}-{source_port}-{target_port}-{protocol}"
    row["Src IP"], row["Src Port"], row["Dst IP"], row["Dst Port"] = source, source_port, target, target_port
    row["Protocol"], row["Timestamp"] = protocol, timestamp(flow.first)
    row["Flow Duration"] = Fraction(duration, us)
    row["Total Fwd Packet"], row["Total Bwd packets"] = len(forward), len(backward)
    for name, side in zip(("Fwd", "Bwd"), sides, strict=False):
        row[f"Total Length of {name} Packet"] = side.total
        row[f"{name} Packet Length Max"], row[f"{name} Packet Length Min"] = side.high, side.low
        row[f"{name} Packet Length Mean"], row[f"{name} Packet Length Std"] = side.mean, side.std
        row[f"{name} Segment Size Avg"] = side.mean

    def rate(amount, otherwise):
        return Fraction(amount * SECOND, duration) if duration else otherwise

    row["Flow Bytes/s"], row["Flow Packets/s"] = rate(sum(payload), -1), rate(len(flow.all), -1)
    for name, packets in (("Flow", flow.all), ("Fwd", forward), ("Bwd", backward)):
        gap = Moments(gaps(packets), us)
        row[f"{name} IAT Mean"], row[f"{name} IAT Std"] = gap.mean, gap.std
        row[f"{name} IAT Max"], row[f"{name} IAT Min"] = gap.high, gap.low
        if name != "Flow":
            row[f"{name} IAT Total"] = gap.total
            for flag, value in (("PSH", PSH), ("URG", URG), ("RST", RST)):
                row[f"{name} {flag} Flags"] = flags(packets, value)
            row[f"{name} Header Length"] = sum(packet.header for packet in packets)
            row[f"{name} Packets/s"] = rate(len(packets), 0)
            row[f"{name} Act Data Pkts"] = sum(packet.payload > 0 for packet in packets)
            row[f"{name} Seg Size Min"] = min((packet.header for packet in packets), default=0)
    row["Packet Length Min"], row["Packet Length Max"] = lengths.low, lengths.high
    row["Packet Length Mean"], row["Average Packet Size"] = lengths.mean, lengths.mean
    row["Packet Length Std"], row["Packet Length Variance"] = lengths.std, lengths.variance
    for flag, value in (
        ("FIN", FIN),
        ("SYN", SYN),
        ("RST", RST),
        ("PSH", PSH),
        ("ACK", ACK),
        ("URG", URG),
        ("CWR", CWR),
        ("ECE", ECE),
    ):
        row[f"{flag} Flag Count"] = flags(flow.all, value)
    row["Down/Up Ratio"] = Fraction(len(backward), len(forward)) if forward else 0
    for name, backwards in (("Fwd", False), ("Bwd", True)):
        number, packets, volume, time = bulks(flow, backwards)
        row[f"{name} Bytes/Bulk Avg"] = Fraction(volume, number) if number else 0
        row[f"{name} Packet/Bulk Avg"] = Fraction(packets, number) if number else 0
        row[f"{name} Bulk Rate Avg"] = Fraction(volume * SECOND, time) if time else 0
    subflows = 1 + sum(gap > SECOND for gap in gaps(flow.all))
    for name, packets, side in (("Fwd", forward, sides[0]), ("Bwd", backward, sides[1])):
        row[f"Subflow {name} Packets"] = Fraction(len(packets), subflows)
        row[f"Subflow {name} Bytes"] = side.total / subflows
        row[f"{'FWD' if name == 'Fwd' else name} Init Win Bytes"] = packets[0].window if packets else 0
    for name, values in zip(("Active", "Idle"), periods(flow), strict=False):
        moments = Moments(values)
        row[f"{name} Mean"], row[f"{name} Std"] = moments.mean, moments.std
        row[f"{name} Max"], row[f"{name} Min"] = moments.high, moments.low
    row["ICMP Type"], row["ICMP Code"] = flow.all[0].icmp or (-1, -1)
    counts = [side.retransmissions for side in flow.sides]
    row["Fwd TCP Retrans. Count"], row["Bwd TCP Retrans. Count"] = counts
    row["Total TCP Retrans. Count"] = sum(counts)
    row["Total Connection Flow Time"] = Fraction(duration + flow.earlier, us)
    return row


TEXTS = {"Flow ID", "Src IP", "Dst IP", "Timestamp"}


def compare_columns(capture, table):
    """Prints differences; returns how many there are."""
    flows, skipped = read_flows(capture)
    with open(table, newline="", encoding="utf-8") as file:
        theirs = list(csv.DictReader(file))

    def order(row):
        return (
            row["Flow ID"],
            row["Timestamp"],
            float(row["Total Fwd Packet"]),
            float(row["Total Bwd packets"]),
        )

    ours = sorted((columns(flow) for flow in flows), key=order)
    theirs.sort(key=order)
    wrong, worst, compared = [], 0.0, 0
    if len(ours) != len(theirs):
        wrong.append(f"{len(ours)} flows here, {len(theirs)} in the table")
        names = Counter(row["Flow ID"] for row in ours), Counter(row["Flow ID"] for row in theirs)
        wrong += [f"  only here: {name}" for name in (names[0] - names[1])]
        wrong += [f"  only in the table: {name}" for name in (names[1] - names[0])]
    for own, other in zip(ours, theirs, strict=False) if not wrong else ():
        if set(own) - set(other) or len(own) != 93:
            wrong.append(f"columns differ: {set(own) ^ set(other)}")
            break
        for name, value in own.items():
            compared += 1
            if name in TEXTS:
                if value != other[name]:
                    wrong.append(f"{own['Flow ID']} {name}: {value} here, {other[name]} in the table")
                continue
            computed, found = float(value), float(other[name])
            difference = abs(computed - found) / max(1.0, abs(computed), abs(found))
            worst = max(worst, difference)
            if not difference <= TOLERANCE:
                wrong.append(
                    f"{own['Flow ID']} {own['Timestamp']} {name}: {computed!r} here, {found!r} in the table"
                )
    for line in wrong[:20]:
        print(line)
    print(
        f"{capture}: {len(ours)} flows, {compared} values, {len(wrong)} differ, largest difference {worst:.2g}, "
        f"packets in no flow: {dict(skipped)}"
    )
    return len(wrong)


def conversations(capture, kind):
    """tshark's packets of each conversation and direction."""
    found: defaultdict[tuple, int] = defaultdict(int)
    # A, B, then frames towards A with their bytes (rounded, with a unit), and frames towards B.
    pattern = re.compile(r"^(\S+):(\d+)\s+<->\s+(\S+):(\d+)\s+(\d+)\s+\d+ \w+\s+(\d+) ")
    for line in tshark(capture, "-q", "-z", f"conv,{kind}"):
        match = pattern.match(line)
        if match:
            a, a_port, b, b_port, to_a, to_b = match.groups()
            a, b = (str(ipaddress.ip_address(end)) for end in (a, b))
            found[(b, int(b_port), a, int(a_port))] += int(to_a)
            found[(a, int(a_port), b, int(b_port))] += int(to_b)
    return found


def compare_conversations(capture, table):
    """Prints differences; returns how many there are."""
    Sums = defaultdict[tuple, int]
    ours: dict[str, tuple[Sums, Sums]] = {
        kind: (defaultdict(int), defaultdict(int)) for kind in ("tcp", "udp")
    }
    with open(table, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            kind = {TCP: "tcp", UDP: "udp"}.get(int(row["protocol"]))
            if kind and (int(row["src_port"]) or int(row["dst_port"])):
                there = row["src_ip"], int(row["src_port"]), row["dst_ip"], int(row["dst_port"])
                for name, way in (("forward", there), ("backward", there[2:] + there[:2])):
                    ours[kind][0][way] += int(row[f"{name}_packets"])
                    ours[kind][1][way] += int(row[f"{name}_bytes"])
    wrong, compared = [], 0
    for kind, (packets, volume) in ours.items():
        theirs = conversations(capture, kind)
        # Bytes of IP packets: tshark's statistics count frames and round, so its own fields are summed.
        fields = [
            "ip.src",
            "ip.dst",
            "ipv6.src",
            "ipv6.dst",
            f"{kind}.srcport",
            f"{kind}.dstport",
            "ip.len",
            "ipv6.plen",
        ]
        words = [word for field in fields for word in ("-e", field)]
        sums: defaultdict[tuple, int] = defaultdict(int)
        for line in tshark(
            capture, "-Y", f"{kind} and not icmp and not icmpv6", "-T", "fields", "-E", "occurrence=f", *words
        ):
            v4, v4_to, v6, v6_to, port, to_port, size, plen = line.split("\t")
            way = (
                str(ipaddress.ip_address(v4 or v6)),
                int(port),
                str(ipaddress.ip_address(v4_to or v6_to)),
                int(to_port),
            )
            sums[way] += int(size) if size else int(plen) + 40
        for what, own, other in (("packets", packets, theirs), ("bytes", volume, sums)):
            for way in set(own) | set(other):
                compared += 1
                if own[way] != other[way]:
                    wrong.append(f"{kind} {way}: {own[way]} {what}, tshark has {other[way]}")
    for line in wrong[:20]:
        print(line)
    print(f"{capture}: {compared} sums of conversations, {len(wrong)} differ")
    return len(wrong)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--conversations", action="store_true")
    parser.add_argument("capture")
    parser.add_argument("flows")
    options = parser.parse_args()
    check = compare_conversations if options.conversations else compare_columns
    return 1 if check(options.capture, options.flows) else 0


if __name__ == "__main__":
    sys.exit(main())
