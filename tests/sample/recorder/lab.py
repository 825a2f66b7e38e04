"""The lab: hosts, each in a separate network namespace, joined by the wire; everything is removed at the end."""

import ctypes
import ipaddress
import json
import os
import pathlib
import signal
import subprocess
import tempfile
import threading

CLONE_NEWNET = 0x40000000
GATEWAY_MAC = "02:00:00:00:00:fe"
GATEWAY = {4: "192.0.2.254", 6: "2001:db8:ffff::fe"}
LIBC = ctypes.CDLL(None, use_errno=True)


def sh(*words, check=True):
    """Runs a command to its end, quietly; a failure shows what it said."""
    run = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if check and run.returncode:
        raise RuntimeError(f"{' '.join(words)}: {run.stdout.strip()}")
    return run.stdout


class Host:
    """One machine of the lab: a namespace with `eth0`, an IPv4 and an IPv6 address, and what runs in it."""

    def __init__(self, lab, index, rng):
        self.lab, self.index = lab, index
        self.namespace = f"{lab.prefix}h{index}"
        self.mac = f"02:00:00:{rng.randrange(256):02x}:{rng.randrange(256):02x}:{index:02x}"
        self.ip4, self.ip6 = lab.next_addresses(rng)
        self.port = f"p{index}"
        self.services = {}
        self.processes = []
        self.directory = lab.directory / f"h{index}"
        self.directory.mkdir()

    def make(self, rng):
        """Creates the namespace, with the traits that tell one operating system's packets from another's."""
        name, wire = self.namespace, self.lab.wire
        sh("ip", "netns", "add", name)
        self.sysctl("net.ipv6.conf.default.accept_dad", 0)
        self.sysctl("net.ipv6.conf.default.router_solicitations", 0)
        self.sysctl("net.ipv6.conf.default.addr_gen_mode", 1)
        sh(
            "ip",
            "-n",
            name,
            "link",
            "add",
            "eth0",
            "address",
            self.mac,
            "type",
            "veth",
            "peer",
            "name",
            self.port,
            "netns",
            wire,
        )
        # Frames as a network carries them: no segments that only a network card would have cut.
        for namespace, interface in ((name, "eth0"), (wire, self.port)):
            sh(
                "ip",
                "netns",
                "exec",
                namespace,
                "ethtool",
                "-K",
                interface,
                "tx",
                "off",
                "rx",
                "off",
                "tso",
                "off",
                "gso",
                "off",
                "gro",
                "off",
            )
        sh("ip", "netns", "exec", wire, "sysctl", "-qw", f"net.ipv6.conf.{self.port}.disable_ipv6=1")
        sh("ip", "-n", wire, "link", "set", self.port, "up")
        for interface in ("lo", "eth0"):
            sh("ip", "-n", name, "link", "set", interface, "up")
        sh("ip", "-n", name, "link", "set", "eth0", "mtu", str(rng.choice([1500, 1500, 1500, 1492, 1400])))
        for version, address in ((4, f"{self.ip4}/32"), (6, f"{self.ip6}/128")):
            gateway = GATEWAY[version]
            sh("ip", "-n", name, f"-{version}", "address", "add", address, "dev", "eth0")
            sh(
                "ip",
                "-n",
                name,
                "neighbour",
                "add",
                gateway,
                "lladdr",
                GATEWAY_MAC,
                "dev",
                "eth0",
                "nud",
                "permanent",
            )
            sh("ip", "-n", name, f"-{version}", "route", "add", gateway, "dev", "eth0")
            sh("ip", "-n", name, f"-{version}", "route", "add", "default", "via", gateway, "dev", "eth0")
        hops = rng.choice([64, 64, 128, 255]) - rng.randrange(0, 12)
        self.sysctl("net.ipv4.ip_default_ttl", hops)
        self.sysctl("net.ipv6.conf.all.hop_limit", hops)
        self.sysctl("net.ipv6.conf.eth0.hop_limit", hops)
        self.sysctl("net.ipv4.tcp_rmem", f"4096 {rng.choice([16384, 65536, 87380, 131072, 262144])} 6291456")
        self.sysctl("net.ipv4.tcp_timestamps", rng.choice([1, 1, 0]))
        self.sysctl("net.ipv4.tcp_window_scaling", rng.choice([1, 1, 1, 0]))
        self.sysctl("net.ipv4.tcp_sack", rng.choice([1, 1, 1, 0]))
        # Only what the machine's owner has allowed may be chosen in a namespace.
        allowed = pathlib.Path("/proc/sys/net/ipv4/tcp_allowed_congestion_control").read_text().split()
        self.sysctl("net.ipv4.tcp_congestion_control", rng.choice(sorted(allowed)))
        self.sysctl("net.ipv4.tcp_synack_retries", 2)
        self.sysctl("net.ipv4.ping_group_range", "0 2147483647")

    def sysctl(self, name, value):
        sh("ip", "netns", "exec", self.namespace, "sysctl", "-qw", f"{name}={value}")

    def address(self, version):
        """The host's address of that IP version, as text."""
        return self.ip6 if version == 6 else self.ip4

    def literal(self, version):
        """The same as it stands in a URL."""
        return f"[{self.ip6}]" if version == 6 else self.ip4

    def spawn(self, words, **options):
        """Starts a program in the namespace; it ends with the lab at the latest."""
        options.setdefault("stdin", subprocess.DEVNULL)
        options.setdefault("stdout", subprocess.DEVNULL)
        options.setdefault("stderr", subprocess.DEVNULL)
        words = ["ip", "netns", "exec", self.namespace, *map(str, words)]
        process = subprocess.Popen(words, start_new_session=True, cwd=self.directory, **options)
        self.processes.append(process)
        return process

    def run(self, words, seconds=30, **options):
        """Runs a program in the namespace to its end, or to a time limit; returns its exit code, None if cut off."""
        process = self.spawn(words, **options)
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            end(process)
            self.processes.remove(process)

    def inside(self, function, *arguments):
        """Starts a thread that calls `function` within the namespace; sockets made there belong to it for good."""

        def enter():
            with open(f"/run/netns/{self.namespace}", "rb") as namespace:
                if LIBC.setns(namespace.fileno(), CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), f"setns to {self.namespace}")
            function(*arguments)

        thread = threading.Thread(target=enter, daemon=True)
        thread.start()
        return thread

    def end(self):
        """Ends every program of the host and removes its namespace."""
        for process in self.processes:
            end(process)
        for stop in self.services.values():
            if callable(stop):
                stop()
        sh("ip", "netns", "del", self.namespace, check=False)


def end(process):
    """Ends a program and what it started: the group is its own, see Host.spawn."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            pass
        try:
            process.wait(1.5)
            if number == signal.SIGTERM:
                continue
            return
        except subprocess.TimeoutExpired:
            continue


class Lab:
    """`with Lab(name, hosts, rng) as lab:` makes the hosts and the wire, and removes them."""

    def __init__(self, name, hosts, rng):
        self.prefix = f"fmrec{os.getpid()}{name}"
        self.wire = f"{self.prefix}w"
        self.rng = rng
        self.count = hosts
        self.hosts = []
        self.process = None
        self.temporary = tempfile.TemporaryDirectory(prefix=self.prefix)
        self.directory = pathlib.Path(self.temporary.name)
        self.directory.chmod(0o755)  # servers that give up their privileges read their files here
        self.networks = [
            ipaddress.ip_network(n)
            for n in (
                f"10.{rng.randrange(256)}.{rng.randrange(256)}.0/24",
                "198.51.100.0/24",
                "203.0.113.0/24",
            )
        ]
        self.taken = set()

    def next_addresses(self, rng):
        """An IPv4 and an IPv6 address that no other host has, from the ranges that documentation is free to use."""
        while True:
            four = str(rng.choice(self.networks)[rng.randrange(1, 255)])
            if four not in self.taken:
                self.taken.add(four)
                return four, f"2001:db8:{rng.randrange(1, 0x7FFF):x}::{rng.randrange(1, 0xFFFF):x}"

    def empty_address(self, rng, version):
        """An address that no host of the lab has, as text; what is sent there is lost."""
        if version == 6:
            return f"2001:db8:{rng.randrange(0x8000, 0xFFFF):x}::{rng.randrange(1, 0xFFFF):x}"
        while True:
            address = str(rng.choice(self.networks)[rng.randrange(1, 255)])
            if address not in self.taken:
                return address

    def __enter__(self):
        try:
            sh("ip", "netns", "add", self.wire)
            for index in range(self.count):
                host = Host(self, index, self.rng)
                self.hosts.append(host)
                host.make(self.rng)
            config = self.directory / "wire.json"
            config.write_text(
                json.dumps(
                    {
                        "gateway": GATEWAY_MAC,
                        "ports": [
                            {"interface": h.port, "mac": h.mac, "addresses": [h.ip4, h.ip6]}
                            for h in self.hosts
                        ],
                    }
                )
            )
            program = pathlib.Path(__file__).with_name("wire.py")
            self.process = subprocess.Popen(
                ["ip", "netns", "exec", self.wire, "python3", str(program), str(config)],
                start_new_session=True,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            self.process.stdout.readline()
        except BaseException:
            self.__exit__()
            raise
        return self

    def conditions(self, **values):
        """Changes the wire's delay, jitter, loss, rate or what is filtered, and waits until it holds."""
        self.process.stdin.write(json.dumps(values) + "\n")
        self.process.stdin.flush()
        self.process.stdout.readline()

    def __exit__(self, *_):
        for host in self.hosts:
            host.end()
        if self.process:
            self.process.stdin.close()
            end(self.process)
        sh("ip", "netns", "del", self.wire, check=False)
        self.temporary.cleanup()
