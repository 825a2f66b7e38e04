"""Makes busy networks of quiet captures: dozens of them at once, some hosts shared, attacks among everyday use.

A capture of a public collection, and one of our recordings, shows one thing at a time, so that "many flows" would mean
"attack". Here addresses and times of packets are changed, and nothing else; the binary computes the features of what
comes out like those of any capture, and a flow keeps the truth that it had.
"""

import gzip
import io
import ipaddress
import pathlib
import random
import socket
import struct
import subprocess
import tempfile
from typing import Any

import dpkt
import pandas

from . import flows

# Seconds, where IP begins, frame, length on the wire.
Packet = tuple[float, int, bytes, int]
# A protocol and both ends of a flow.
Name = tuple[Any, ...]
# Label, source, category; None where nobody knows.
Truth = tuple[int, str, str] | None

# Captures that are made, and the most packets taken of one that goes in.
MIXTURES = 400
MOST_PACKETS = 20_000
NANOSECONDS = 0xA1B23C4D
ETHERNET = 1
START = 1_700_000_000
IPV4, IPV6 = b"\x08\x00", b"\x86\xdd"
TAGS = (b"\x81\x00", b"\x88\xa8")


def packets(path: str) -> list[Packet]:
    """[(seconds, where IP begins, frame, length on the wire)] of an Ethernet capture; empty for others."""
    data = pathlib.Path(path).read_bytes()
    if str(path).endswith(".zst"):
        data = subprocess.run(["zstd", "-dcq", str(path)], check=True, capture_output=True).stdout
    elif str(path).endswith(".gz"):
        data = gzip.decompress(data)
    found: list[Packet] = []
    try:
        reader = dpkt.pcap.UniversalReader(io.BytesIO(data))
        if reader.datalink() != ETHERNET:
            return []
        for at, frame in reader:
            kind, start = (frame[16:18], 18) if frame[12:14] in TAGS else (frame[12:14], 14)
            if kind not in (IPV4, IPV6) or len(frame) < start + (20 if kind == IPV4 else 40):
                continue
            length = (
                struct.unpack_from("!H", frame, start + 2)[0]
                if kind == IPV4
                else 40 + struct.unpack_from("!H", frame, start + 4)[0]
            )
            found.append((float(at), start, frame, max(len(frame), start + length)))
            if len(found) == MOST_PACKETS:
                break
    except (dpkt.UnpackError, ValueError, struct.error, gzip.BadGzipFile):
        pass  # what could be read of a damaged capture will do
    return found


def packed(address: str) -> bytes:
    """An address's bytes."""
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def is_group(address: bytes) -> bool:
    """True for addresses that stand for many hosts, or none."""
    ip = ipaddress.ip_address(address)
    return ip.is_multicast or ip.is_unspecified or (ip.version == 4 and address[3] == 255)


def fresh(rng: random.Random, length: int) -> bytes:
    """An address that hardly anybody else has."""
    if length == 16:
        return b"\x20\x01\x0d\xb8" + rng.randbytes(12)
    return bytes(
        [
            rng.choice([10, 45, 93, 151, 172, 192]),
            rng.randrange(16, 32),
            rng.randrange(256),
            rng.randrange(1, 255),
        ]
    )


class Renaming(dict[bytes, bytes]):
    """What each address becomes."""

    def __init__(self, rng: random.Random) -> None:
        """New names are drawn by `rng`."""
        super().__init__()
        self.rng = rng

    def __missing__(self, address: bytes) -> bytes:
        """Draws a new one, but for addresses of groups."""
        self[address] = address if is_group(address) else fresh(self.rng, len(address))
        return self[address]

    def frame(self, frame: bytes, start: int) -> bytes:
        """The frame with other addresses."""
        at, length = (start + 12, 4) if frame[start] >> 4 == 4 else (start + 8, 16)
        source, target = frame[at : at + length], frame[at + length : at + 2 * length]
        return frame[:at] + self[source] + self[target] + frame[at + 2 * length :]


def name(protocol: Any, source: bytes, source_port: Any, target: bytes, target_port: Any) -> Name:
    """The same value for both directions of a flow."""
    return int(protocol), *sorted([(source, int(source_port)), (target, int(target_port))])


class Mixer:
    """Draws captures from a table of labelled flows and puts them together."""

    def __init__(self, table: pandas.DataFrame) -> None:
        """Draws from the captures of these flows."""
        columns = ["src_ip", "src_port", "dst_ip", "dst_port", "protocol", "label", "source", "category"]
        self.flows = {path: rows[columns] for path, rows in table.groupby("observed")}
        whole = table.groupby("observed").agg(
            label=("label", "max"), source=("source", "first"), category=("category", "first")
        )
        self.choices: list[list[list[str]]] = []
        for label in (0, 1):
            rows = whole[whole.label == label]
            self.choices.append([list(group.index) for _, group in rows.groupby(["source", "category"])])
        self.cache: dict[str, list[Packet]] = {}

    def draw(self, rng: random.Random, label: int) -> str | None:
        """A capture of that kind; groups of captures alike. None if no Ethernet is found."""
        for _ in range(10):
            path = rng.choice(rng.choice(self.choices[label]))
            if path not in self.cache:
                self.cache[path] = packets(path)
            if self.cache[path]:
                return path
        return None

    def mix(self, rng: random.Random, target: pathlib.Path) -> dict[Name, Truth]:
        """Writes one capture; returns the truth about its flows."""
        seconds = rng.choice([60, 120, 300, 600, 900])
        clients = [fresh(rng, 4) for _ in range(rng.choice([1, 1, 3, 8, 20]))]
        servers = [fresh(rng, 4) for _ in range(rng.choice([2, 5, 15]))]
        drawn = [0] * rng.choice([8, 15, 25, 40, 60]) + [1] * rng.choice([0, 1, 1, 2])
        frames: list[tuple[float, bytes, int]] = []
        truth: dict[Name, Truth] = {}
        for label in drawn:
            path = self.draw(rng, label)
            if path is None:
                continue
            rows, renaming = self.flows[path], Renaming(rng)
            busiest = [packed(rows[column].value_counts().index[0]) for column in ("src_ip", "dst_ip")]
            for address, pool, share in zip(
                busiest, (clients, servers), (0.5, 0.5) if label else (0.9, 0.6), strict=False
            ):
                if len(address) == 4 and not is_group(address) and rng.random() < share:
                    renaming[address] = rng.choice(pool)
            found = self.cache[path]
            if len(found) > 2000 and rng.random() < 0.5:
                found = found[rng.randrange(len(found) - 1000) :]
            shift = rng.uniform(0.0, 0.9 * seconds) - found[0][0]
            frames += [
                (at + shift, renaming.frame(frame, start), length)
                for at, start, frame, length in found
                if at + shift <= seconds
            ]
            for row in rows.itertuples():
                flow = name(
                    row.protocol,
                    renaming[packed(row.src_ip)],
                    row.src_port,
                    renaming[packed(row.dst_ip)],
                    row.dst_port,
                )
                value = (row.label, row.source, row.category)
                # By chance two flows have become one: nobody knows what it is.
                truth[flow] = value if truth.get(flow, value) == value else None
        frames.sort(key=lambda frame: frame[0])
        with open(target, "wb") as file:
            file.write(struct.pack("<IHHiIII", NANOSECONDS, 2, 4, 0, 0, 1 << 18, ETHERNET))
            for at, frame, length in frames:
                whole, rest = divmod(int(at * 1e9), 10**9)
                file.write(struct.pack("<IIII", START + whole, rest, len(frame), length) + frame)
        return truth


def mixed(
    binary: pathlib.Path, table: pandas.DataFrame, seed: int, count: int = MIXTURES
) -> pandas.DataFrame:
    """The labelled flows of `count` mixtures of the captures whose flows are in `table`."""
    mixer = Mixer(table)
    truths: dict[str, dict[Name, Truth]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(count):
            target = pathlib.Path(folder) / f"{number:04}.pcap"
            truths[str(target)] = mixer.mix(random.Random(f"{seed}/{number}"), target)
        found = flows.table_of(binary, sorted(truths))
    known = [
        truths[path].get(name(protocol, packed(source), source_port, packed(target), target_port))
        for path, protocol, source, source_port, target, target_port in zip(
            found.observed,
            found.protocol,
            found.src_ip,
            found.src_port,
            found.dst_ip,
            found.dst_port,
            strict=False,
        )
    ]
    label, source, category = zip(*(truth or (None, None, None) for truth in known), strict=False)
    # Names that do not change with the temporary folder's, so that the same seed gives the same model.
    found["observed"] = "mixture " + found.observed.str[-9:]
    return flows.labelled(
        found,
        label,
        source=source,
        category=[f"{word}, mixed" for word in category],
    )
