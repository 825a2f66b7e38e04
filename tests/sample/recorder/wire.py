"""The wire between the lab's hosts: carries frames by destination address, with delay, jitter, loss and a rate.

Kernels without the netem queueing discipline cannot delay packets, and traffic without round-trip times looks
like no network outside of a laboratory. So one process holds the far ends of all hosts' veth pairs and is their
router. Run by lab.py inside the wire's namespace; ends when its standard input does.

    wire.py CONFIG.json      {"gateway": MAC, "ports": [{"interface": .., "mac": .., "addresses": [..]}, ..]}

Each line of standard input is a JSON object that changes conditions: {"delay": {INTERFACE: seconds}, "jitter": s,
"loss": share, "rate": bits a second, "filtered": [[address, protocol, port], ..]}. What is filtered disappears
as it would at a firewall that answers nothing.
"""

import heapq
import ipaddress
import json
import random
import select
import socket
import struct
import sys
import time

ETH_P_ALL = 0x0003
SOL_PACKET = 263
PACKET_IGNORE_OUTGOING = 23
QUEUE_SECONDS = 0.3  # a router's buffer: what would wait longer is dropped
BURST = 64  # frames taken from one host before the others are looked at


class Port:
    """A host's end of the wire."""

    def __init__(self, entry):
        self.interface = entry["interface"]
        self.mac = bytes.fromhex(entry["mac"].replace(":", ""))
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self.socket.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        self.socket.bind((self.interface, ETH_P_ALL))
        self.socket.setblocking(False)
        self.delay = 0.0
        self.free_at = 0.0  # when the last frame has left towards this host
        self.last_due = 0.0  # frames to one host keep their order


def destination(frame):
    """(destination address, protocol, destination port, is multicast) of a frame; None for what is not IP."""
    ethertype = frame[12:14]
    if ethertype == b"\x08\x00" and len(frame) >= 34:
        header = 14 + (frame[14] & 15) * 4
        address, protocol, multicast = frame[30:34], frame[23], frame[30] >= 224
    elif ethertype == b"\x86\xdd" and len(frame) >= 54:
        header = 54
        address, protocol, multicast = frame[38:54], frame[20], frame[38] == 0xFF
    else:
        return None
    port = struct.unpack_from("!H", frame, header + 2)[0] if len(frame) >= header + 4 else 0
    return address, protocol, port, multicast


class Wire:
    """Ports, conditions, and the frames on their way."""

    def __init__(self, config):
        self.gateway = bytes.fromhex(config["gateway"].replace(":", ""))
        self.ports = [Port(entry) for entry in config["ports"]]
        self.table = {}
        for port, entry in zip(self.ports, config["ports"], strict=False):
            for address in entry["addresses"]:
                self.table[ipaddress.ip_address(address).packed] = port
        self.jitter = self.loss = 0.0
        self.rate = 1e9
        self.filtered = set()
        self.random = random.Random(1)
        self.under_way = []
        self.number = 0  # breaks ties between frames due at the same time

    def change(self, conditions):
        """Applies one line of standard input."""
        for port in self.ports:
            port.delay = conditions.get("delay", {}).get(port.interface, port.delay)
        self.jitter = conditions.get("jitter", self.jitter)
        self.loss = conditions.get("loss", self.loss)
        self.rate = conditions.get("rate", self.rate)
        if "filtered" in conditions:
            self.filtered = {(ipaddress.ip_address(a).packed, p, n) for a, p, n in conditions["filtered"]}

    def take(self, source, frame, now):
        """Accepts a frame from a host and decides when, if at all, it arrives."""
        where = destination(frame)
        if where is None:
            return
        address, protocol, number, multicast = where
        if multicast:
            for port in self.ports:
                if port is not source:
                    self.send_later(source, port, frame, now)
            return
        port = self.table.get(address)
        if port is None or port is source or (address, protocol, number) in self.filtered:
            return
        self.send_later(source, port, port.mac + self.gateway + frame[12:], now)

    def send_later(self, source, port, frame, now):
        if self.loss and self.random.random() < self.loss:
            return
        start = max(now, port.free_at)
        if start - now > QUEUE_SECONDS:
            return
        port.free_at = start + len(frame) * 8 / self.rate
        due = port.free_at + source.delay + port.delay
        if self.jitter:
            due += self.random.expovariate(1 / self.jitter)
        port.last_due = due = max(due, port.last_due)
        self.number += 1
        heapq.heappush(self.under_way, (due, self.number, port, frame))

    def deliver(self, now):
        """Sends what is due; returns the seconds until something is again."""
        while self.under_way and self.under_way[0][0] <= now:
            _, _, port, frame = heapq.heappop(self.under_way)
            try:
                port.socket.send(frame)
            except OSError:
                pass  # the host went away or its queue is full: lost, as on any wire
        return max(0.0, self.under_way[0][0] - now) if self.under_way else 1.0

    def run(self, commands):
        """Until standard input ends."""
        by_number = {port.socket.fileno(): port for port in self.ports}
        poll = [commands.fileno(), *by_number]
        pause = 1.0
        while True:
            ready, _, _ = select.select(poll, [], [], pause)
            for number in ready:
                port = by_number.get(number)
                if port is None:
                    line = commands.readline()
                    if not line:
                        return
                    self.change(json.loads(line))
                    print("ok", flush=True)
                    continue
                for _ in range(BURST):
                    try:
                        frame = port.socket.recv(65535)
                    except BlockingIOError:
                        break
                    except OSError:
                        break
                    self.take(port, frame, time.monotonic())
            pause = self.deliver(time.monotonic())


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as file:
        wire = Wire(json.load(file))
    print("ready", flush=True)
    # Unbuffered by hand: a line that select() has announced must not hide behind another one in a buffer.
    with open(sys.stdin.fileno(), buffering=1, encoding="utf-8", closefd=False) as orders:
        wire.run(orders)
