"""Captures: tcpdump on a host's interface while an activity runs, cut to headers, counted, and stored."""

import pathlib
import signal
import struct
import subprocess
import time

# Address configuration and group membership are the kernel's chatter, not the activity.
NO_CHATTER = "(ip or ip6) and not igmp and not ip6[6] == 0 and not (icmp6 and ip6[40] >= 130)"
NANOSECONDS = 0xA1B23C4D
ETHERNET = 1
SNAPLEN = 128
TCP, UDP, ICMP, ICMPV6 = 6, 17, 1, 58


class Capture:
    """`with Capture(host, filter, file):` records what passes the host's interface."""

    def __init__(self, host, expression, path):
        self.host, self.path = host, path
        self.expression = f"{NO_CHATTER} and ({expression})"
        self.process = None

    def __enter__(self):
        self.process = self.host.spawn(
            [
                "tcpdump",
                "-i",
                "eth0",
                "-s",
                str(SNAPLEN),
                "-B",
                "16384",
                "--time-stamp-precision=nano",
                "-Z",
                "root",
                "-n",
                "-U",
                "--immediate-mode",
                "-w",
                str(self.path),
                self.expression,
            ],
            stderr=subprocess.PIPE,
            text=True,
        )
        said = ""
        for line in self.process.stderr:
            said += line
            if "listening on" in line:
                return self
        raise RuntimeError(f"tcpdump did not start: {said.strip()}")

    def __exit__(self, *_):
        time.sleep(0.3)  # the last packets are still between kernel and tcpdump
        self.process.send_signal(signal.SIGINT)
        said = self.process.communicate(timeout=10)[1]
        for line in said.splitlines():
            if "dropped by kernel" in line and not line.startswith("0 "):
                raise RuntimeError(f"tcpdump lost packets, record again: {line}")


def read(path):
    """Yields (timestamp ns, wire length, bytes) of a little-endian nanosecond capture, as tcpdump writes it here."""
    data = pathlib.Path(path).read_bytes()
    magic, _, _, _, _, _, link = struct.unpack_from("<IHHiIII", data)
    if magic != NANOSECONDS or link != ETHERNET:
        raise ValueError(f"{path} is not a nanosecond Ethernet capture")
    at = 24
    while at + 16 <= len(data):
        seconds, nanos, kept, wire = struct.unpack_from("<IIII", data, at)
        at += 16
        yield seconds * 1_000_000_000 + nanos, wire, data[at : at + kept]
        at += kept


def layers(frame):
    """(source, destination, protocol, offset of what follows the IP header, first fragment or none) of a frame."""
    if frame[12:14] == b"\x08\x00":
        later = struct.unpack_from("!H", frame, 20)[0] & 0x1FFF
        return frame[26:30], frame[30:34], frame[23], 14 + (frame[14] & 15) * 4, not later
    # IPv6 with extension headers is not made by any activity but fragments.
    if frame[20] == 44:
        return frame[22:38], frame[38:54], frame[54], 62, not struct.unpack_from("!H", frame, 56)[0] & 0xFFF8
    return frame[22:38], frame[38:54], frame[20], 54, True


def headers_end(frame):
    """Where the transport header ends: what follows is content, which no file of ours keeps."""
    _, _, protocol, at, first = layers(frame)
    if not first:
        return at
    if protocol == TCP and len(frame) > at + 12:
        return at + (frame[at + 12] >> 4) * 4
    return at + 8


def flow_of(frame):
    """The same value for both directions of a conversation."""
    source, target, protocol, at, first = layers(frame)
    ports = (0, 0)
    if first and protocol in (TCP, UDP) and len(frame) >= at + 4:
        ports = struct.unpack_from("!HH", frame, at)
    if first and protocol in (ICMP, ICMPV6) and frame[at] in (0, 8, 128, 129) and len(frame) >= at + 6:
        identifier = struct.unpack_from("!H", frame, at + 4)[0]
        ports = (identifier, identifier)
    return protocol, *sorted([(source, ports[0]), (target, ports[1])])


def cut_to_headers(raw, target):
    """Writes a capture's headers to `target`; returns (packets, set of flows, seconds)."""
    packets, flows, first, last = 0, set(), None, 0
    with open(target, "wb") as file:
        file.write(struct.pack("<IHHiIII", NANOSECONDS, 2, 4, 0, 0, SNAPLEN, ETHERNET))
        for stamp, wire, frame in read(raw):
            kept = frame[: headers_end(frame)]
            file.write(
                struct.pack("<IIII", stamp // 1_000_000_000, stamp % 1_000_000_000, len(kept), wire) + kept
            )
            packets += 1
            flows.add(flow_of(frame))
            first, last = stamp if first is None else first, stamp
    return packets, flows, (last - first) / 1e9 if first is not None else 0.0


def compress(path):
    """Replaces a file by its zstd form and returns that path."""
    subprocess.run(["zstd", "-q", "-19", "--rm", "-f", str(path)], check=True)
    return path.with_name(path.name + ".zst")
