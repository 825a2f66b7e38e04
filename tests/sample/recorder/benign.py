"""Activities of everyday use, some of which look like an attack at first sight."""

import os
import random
import socket
import subprocess
import time

from . import services
from .activity import activity

CURL = ["curl", "-s", "-k", "-o", "/dev/null", "--max-time", "20"]


def curl(scene, *words, **options):
    return scene.run(*CURL, *words, **options)


def pages(scene, scheme):
    """Loads pages with their parts over one connection each, with pauses to read."""
    while not scene.over:
        parts = scene.rng.choices(["tiny", "small", "page", "image"], k=scene.pick(1, 8))
        words = []
        for part in ["index.html", *(f"{p}.bin" for p in parts)]:
            words += ["-o", "/dev/null", scene.url(part, scheme)]
        scene.run("curl", "-s", "-k", *words)
        scene.pause(1.2)


@activity("benign", "web", "Pages with their parts, loaded by curl over kept-alive HTTP connections of nginx")
def http_pages(scene):
    scene.need("web")
    scene.start()
    pages(scene, "http")


@activity("benign", "web", "The same over TLS 1.3")
def https_pages(scene):
    scene.need("web")
    scene.start()
    pages(scene, "https")


@activity("benign", "web", "Single files from Python's http.server, a connection each")
def http_files(scene):
    port = scene.need("simple_web")
    scene.start()
    while not scene.over:
        curl(scene, scene.url(scene.rng.choice(["", "tiny.bin", "small.bin", "page.bin"]), port=port))
        scene.pause(0.5)


@activity("benign", "web", "A browser's start: many connections at once, objects of all sizes, think time")
def browse(scene):
    scene.need("web")
    scene.start()
    while not scene.over:
        words = ["curl", "-s", "-k", "--parallel", "--parallel-immediate", "--parallel-max", "6"]
        if scene.rng.random() < 0.5:
            words.append("--http1.1")
        scheme = scene.rng.choice(["http", "https", "https"])
        for _ in range(scene.pick(3, 20)):
            size = scene.rng.choice(["tiny", "small", "small", "page", "image"])
            words += ["-o", "/dev/null", scene.url(f"{size}.bin", scheme)]
        scene.run(*words)
        scene.pause(2.0)


@activity("benign", "download", "Package-update-like downloads, several in a row, at a limited rate")
def downloads(scene):
    scene.need("web")
    scene.start()
    scheme = scene.rng.choice(["http", "https"])
    while not scene.over:
        size = scene.rng.choice(["large", "large", "package"])
        curl(scene, "--limit-rate", f"{scene.pick(200, 4000)}k", scene.url(f"{size}.bin", scheme))
        scene.pause(0.3)


@activity("benign", "api", "A program that polls an interface every so often")
def api_polling(scene):
    scene.need("web")
    scene.start()
    period = scene.rng.uniform(0.4, 3.0)
    scheme = scene.rng.choice(["http", "https"])
    while scene.wait(period * scene.rng.uniform(0.95, 1.05)):
        curl(scene, scene.url(scene.rng.choice(["tiny.bin", "small.bin"]), scheme))


@activity("benign", "api", "Long polling: the answer waits until there is news")
def long_poll(scene):
    port = scene.need("longpoll")
    scene.start()
    while not scene.over:
        urls = []
        for _ in range(scene.rng.randrange(1, 6)):
            urls += ["-o", "/dev/null", scene.url("news", port=port)]
        scene.run("curl", "-s", *urls)


@activity("benign", "api", "A balancer's health checks: connect to one port, close, again")
def health_checks(scene):
    scene.need("web")
    scene.start()
    period = scene.rng.uniform(0.3, 1.0)

    def check():
        while scene.wait(period):
            try:
                with socket.create_connection((scene.address(), 80), 2) as s:
                    if scene.rng.random() < 0.5:
                        s.sendall(b"HEAD / HTTP/1.0\r\n\r\n")
                        s.recv(1000)
            except OSError:
                pass

    scene.on_client(check)


@activity("benign", "misconfigured", "A client that tries again and again to reach a service that is down")
def service_down(scene):
    scene.start()
    port = scene.rng.choice([5000, 6379, 8081, 9092])
    while not scene.over:
        curl(scene, scene.url("", port=port))
        scene.pause(1.0)


@activity(
    "benign",
    "misconfigured",
    "Some hosts that have gone, tried again and again: the system repeats each attempt",
    expression="host {client}",
    at_client=True,
)
def host_gone(scene):
    scene.start()
    gone = [
        (
            scene.lab.empty_address(scene.rng, scene.version),
            scene.rng.choice([80, 443, 445, 631, 8080, 1883, 22]),
        )
        for _ in range(scene.rng.randrange(1, 4))
    ]
    pause, ping = scene.rng.uniform(0.5, 4.0), scene.rng.random() < 0.3

    def knock():
        tried = []
        while not scene.over:
            if ping:
                scene.run("ping", "-n", "-c", "1", "-W", "1", gone[0][0])
            for where in gone:
                s = socket.socket(socket.AF_INET6 if scene.version == 6 else socket.AF_INET)
                s.setblocking(False)
                s.connect_ex(where)
                tried.append(s)
            scene.pause(pause)
        for s in tried:
            s.close()

    scene.on_client(knock)


@activity("benign", "api", "Services that call each other: a short connection each, many a second at times")
def service_calls(scene):
    scene.need("web")
    scene.start()
    busy = scene.pick(2, 25)

    def worker():
        while not scene.over:
            path = scene.rng.choice(["tiny.bin", "small.bin", "page.bin", "index.html"])
            body = b"x" * scene.pick(1, 900) if scene.rng.random() < 0.4 else b""
            request = (
                f"{'POST' if body else 'GET'} /{path} HTTP/1.1\r\nHost: api\r\nUser-Agent: client/2.1\r\n"
                f"Accept: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            )
            try:
                with socket.create_connection((scene.address(), 80), 3) as s:
                    s.settimeout(3)
                    s.sendall(request.encode() + body)
                    while s.recv(65536):
                        pass
            except OSError:
                pass
            scene.wait(scene.rng.expovariate(busy / 3))

    for thread in [scene.client.inside(worker) for _ in range(3)]:
        thread.join(scene.left + 4)


@activity(
    "benign",
    "web",
    "A reader of many pages: a connection for each object, several at once, to all of the lab's hosts",
    expression="host {client}",
    at_client=True,
)
def crawl(scene):
    for host in (scene.server, *scene.others):
        services.need(host, "web")
    scene.start()
    while not scene.over:
        words = [
            "curl",
            "-s",
            "-k",
            "--parallel",
            "--parallel-max",
            "8",
            "--no-keepalive",
            "-H",
            "Connection: close",
        ]
        for _ in range(scene.pick(5, 40)):
            host = scene.rng.choice([scene.server, *scene.others])
            scheme, size = (
                scene.rng.choice(["http", "https", "https"]),
                scene.rng.choice(["tiny", "small", "page", "image"]),
            )
            words += ["-o", "/dev/null", f"{scheme}://{host.literal(scene.version)}/{size}.bin"]
        scene.run(*words)
        scene.pause(0.8)


@activity("benign", "dns", "Look-ups of addresses, mail servers and texts with dig")
def dns_lookups(scene):
    scene.need("names")
    scene.start()
    while not scene.over:
        name = f"{scene.rng.choice(['www', 'mail', 'cdn0', 'cdn1', 'api', 'img', 'static'])}.lab.example"
        kind = scene.rng.choice(["A", "A", "AAAA", "AAAA", "MX", "TXT", "PTR"])
        if kind in ("MX", "TXT"):
            name = "lab.example"
        extra = scene.rng.choice([[], [], ["+noedns"], ["+tcp"], ["+dnssec"]])
        scene.run("dig", "+tries=1", "+time=2", f"@{scene.address()}", name, kind, *extra)
        scene.pause(0.25)


@activity("benign", "dns", "A resolver's busy minute: many questions over one socket")
def dns_resolver(scene):
    scene.need("names")
    scene.start()

    def ask():
        family = socket.AF_INET6 if scene.version == 6 else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as s:
            s.settimeout(1.0)
            s.connect((scene.address(), 53))
            while not scene.over:
                label = "".join(scene.rng.choices("abcdefghij", k=scene.rng.randrange(3, 14)))
                name = b"".join(bytes([len(p)]) + p.encode() for p in (label, "lab", "example")) + b"\0"
                s.send(os.urandom(2) + b"\1\0\0\1\0\0\0\0\0\0" + name + b"\0\1\0\1")
                try:
                    s.recv(4096)
                except OSError:
                    pass
                scene.pause(0.15, 1.0)

    scene.on_client(ask)


@activity(
    "benign",
    "dns",
    "A resolver's clients: a socket for each question, up to dozens a second, some names unknown",
)
def dns_sockets(scene):
    scene.need("names")
    scene.start()
    gap = 1 / scene.pick(2, 50)

    def ask():
        family = socket.AF_INET6 if scene.version == 6 else socket.AF_INET
        while not scene.over:
            for _ in range(scene.rng.choice([1, 2, 2, 4])):
                with socket.socket(family, socket.SOCK_DGRAM) as s:
                    s.settimeout(0.3)
                    s.connect((scene.address(), 53))
                    labels = [
                        "".join(scene.rng.choices("abcdefghij-", k=scene.pick(2, 24)))
                        for _ in range(scene.rng.randrange(1, 4))
                    ]
                    name = b"".join(bytes([len(p)]) + p.encode() for p in (*labels, "lab", "example")) + b"\0"
                    s.send(
                        os.urandom(2)
                        + b"\1\0\0\1\0\0\0\0\0\0"
                        + name
                        + scene.rng.choice([b"\0\1", b"\0\x1c"])
                        + b"\0\1"
                    )
                    try:
                        s.recv(4096)
                    except OSError:
                        pass
            scene.wait(scene.rng.expovariate(1 / gap))

    scene.on_client(ask)


def ssh_words(scene, program="ssh", port_flag="-p"):
    return [
        program,
        "-F",
        "/dev/null",
        port_flag,
        scene.need("ssh"),
        "-i",
        scene.server.directory / "clientkey",
        "-o",
        "StrictHostKeyChecking=no",
        "-o",
        "UserKnownHostsFile=/dev/null",
        "-o",
        "LogLevel=ERROR",
    ]


COMMANDS = [
    "ls -l /usr/bin | head -30",
    "uptime",
    "cat /etc/os-release",
    "df -h",
    "ps | head",
    "echo hello there",
    "ls /etc | wc -l",
    "date",
    "head -c 3000 /etc/services",
    "who",
    "uname -a",
]


@activity("benign", "remote-shell", "A log-in by key, commands typed key by key, their output, log-out")
def ssh_session(scene):
    words = ssh_words(scene)
    scene.start()
    shell = scene.client.spawn([*words, "-tt", f"root@{scene.address()}", "sh"], stdin=subprocess.PIPE)

    def press(text):
        try:
            shell.stdin.write(text.encode())
            shell.stdin.flush()
        except BrokenPipeError:
            pass

    scene.wait(0.6)
    while not scene.over:
        for letter in scene.rng.choice(COMMANDS):
            press(letter)
            time.sleep(min(0.6, scene.rng.lognormvariate(-2.3, 0.5)))
        press("\n")
        scene.pause(0.8)
    press("exit\n")
    try:
        shell.wait(3)
    except subprocess.TimeoutExpired:
        pass


@activity("benign", "remote-shell", "Single remote commands, as a scheduled job gives them")
def ssh_jobs(scene):
    words = ssh_words(scene)
    scene.start()
    while not scene.over:
        scene.run(*words, f"root@{scene.address()}", scene.rng.choice(COMMANDS))
        scene.pause(1.0)


@activity("benign", "file-transfer", "Files copied by scp, in either direction")
def scp_copy(scene):
    words = ssh_words(scene, "scp", "-P")
    for host in (scene.client, scene.server):
        (host.directory / "load").write_bytes(os.urandom(scene.pick(20_000, 600_000)))
    there = f"root@{scene.server.literal(scene.version)}:"
    scene.start()
    while not scene.over:
        if scene.rng.random() < 0.5:
            scene.run(*words, "load", f"{there}{scene.server.directory}/got")
        else:
            scene.run(*words, f"{there}{scene.server.directory}/load", "got")
        scene.pause(1.5)


@activity("benign", "file-transfer", "A folder brought up to date by rsync")
def rsync_sync(scene):
    scene.need("rsync")
    scene.start()
    while not scene.over:
        if scene.rng.random() < 0.5:
            for path in (scene.client.directory / "mirror").glob("*.bin"):
                path.unlink()
        scene.run(
            "rsync",
            "-a",
            "--bwlimit=2000",
            f"rsync://{scene.server.literal(scene.version)}/pages/",
            "mirror/",
        )
        scene.pause(1.5)


@activity("benign", "file-transfer", "Downloads by FTP, with its second connection")
def ftp_download(scene):
    scene.need("ftp")
    scene.start()
    while not scene.over:
        curl(scene, scene.url("image.bin", "ftp"))
        scene.pause(1.0)


@activity("benign", "stream", "A TCP stream of iperf3 at a limited rate, up or down")
def tcp_stream(scene):
    scene.need("iperf")
    scene.start()
    rate = scene.pick(1, 8)
    words = [
        "iperf3",
        "-c",
        scene.address(),
        "-b",
        f"{rate}M",
        "-t",
        f"{max(2, min(6, int(scene.seconds) - 1))}",
    ]
    scene.run(*words, *scene.rng.choice([[], ["-R"]]))


@activity("benign", "stream", "Video-like chunks over one kept-alive connection")
def video_chunks(scene):
    scene.need("web")
    scene.start()
    words = ["curl", "-s", "-k", "--rate", f"{scene.rng.choice([30, 60, 90])}/m"]
    for _ in range(int(scene.seconds)):
        words += ["-o", "/dev/null", scene.url("image.bin", "https")]
    scene.run(*words, seconds=scene.left)


@activity("benign", "voice", "A call: small datagrams both ways, one every twenty milliseconds")
def voice_call(scene):
    port = scene.need("echo")
    scene.start()

    def call():
        family = socket.AF_INET6 if scene.version == 6 else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as s:
            s.connect((scene.address(), port))
            s.setblocking(False)
            begin, sent = time.monotonic(), 0
            while not scene.over:
                s.send(bytes(172))
                sent += 1
                try:
                    s.recv(2000)
                except OSError:
                    pass
                time.sleep(max(0.0, begin + sent * 0.02 - time.monotonic()))

    scene.on_client(call)


@activity("benign", "time", "Clocks asked by NTP, a few requests a host")
def ntp_clocks(scene):
    scene.need("clock")
    scene.start()
    while not scene.over:
        scene.run("ntpdig", "-t", "2", scene.address())
        scene.pause(1.0)


@activity("benign", "ping", "Some echo requests, one a second or less")
def ping_some(scene):
    scene.start()
    while not scene.over:
        scene.run(
            "ping",
            "-n",
            "-c",
            scene.rng.randrange(3, 8),
            "-i",
            scene.rng.choice(["0.3", "0.5", "1"]),
            "-s",
            scene.rng.choice([56, 56, 32, 1000]),
            scene.address(),
        )
        scene.pause(1.0)


@activity("benign", "mail", "Mails of several sizes by SMTP")
def mail_sending(scene):
    scene.need("mail")
    scene.start()
    while not scene.over:
        (scene.client.directory / "mail").write_text(
            "Subject: hello\r\n\r\n" + "text\r\n" * scene.pick(20, 5000)
        )
        scene.run(
            "curl",
            "-s",
            scene.url("", "smtp"),
            "--mail-from",
            "a@lab.example",
            "--mail-rcpt",
            "b@lab.example",
            "-T",
            "mail",
        )
        scene.pause(1.0)


@activity("benign", "mqtt", "Sensors that publish now and then, and keep their connection alive")
def mqtt_sensors(scene):
    port = scene.need("mqtt")
    scene.start()
    listener = scene.client.spawn(
        ["mosquitto_sub", "-h", scene.address(), "-p", port, "-k", "5", "-t", "sensor/#"]
    )
    while not scene.over:
        scene.run(
            "mosquitto_pub",
            "-h",
            scene.address(),
            "-p",
            port,
            "-t",
            "sensor/a",
            "-m",
            "x" * scene.pick(8, 400),
        )
        scene.pause(0.8)
    listener.terminate()


def conversation(scene, port, pause, low, high):
    """Lines there, lines back, on one connection."""

    def talk():
        try:
            with socket.create_connection((scene.address(), port), 5) as s:
                s.settimeout(5)
                while not scene.over:
                    s.sendall(b"x" * scene.pick(low, high) + b"\n")
                    answer = b""
                    while not answer.endswith(b"\n"):
                        got = s.recv(65536)
                        if not got:
                            return
                        answer += got
                    scene.pause(pause)
        except OSError:
            pass

    scene.on_client(talk)


@activity("benign", "chat", "Two people who write to each other, slowly, on one connection")
def chat_talk(scene):
    port = scene.need("chat")
    scene.start()
    conversation(scene, port, 0.9, 5, 200)


@activity("benign", "database", "Short questions and answers of all sizes on one connection")
def database_queries(scene):
    port = scene.need("records")
    scene.start()
    conversation(scene, port, 0.08, 30, 600)


@activity(
    "benign",
    "discovery",
    "Announcements by multicast, as printers and televisions send them",
    versions=(4,),
    expression="host {client} and udp port 5353",
)
def multicast_announcements(scene):
    scene.start()

    def announce():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            s.bind(("", 5353))
            while not scene.over:
                s.sendto(random.randbytes(scene.rng.randrange(40, 400)), ("224.0.0.251", 5353))
                scene.pause(1.0)

    scene.on_client(announce)


@activity("benign", "backup", "An upload of one's own files to one's own server")
def backup_upload(scene):
    scene.need("ssh")
    words = [str(w) for w in ssh_words(scene)]
    (scene.client.directory / "load").write_bytes(os.urandom(scene.pick(100_000, 900_000)))
    scene.start()
    while not scene.over:
        scene.run(
            "rsync",
            "-a",
            "--ignore-times",
            "--whole-file",
            "-e",
            " ".join(words),
            "load",
            f"root@{scene.server.literal(scene.version)}:{scene.server.directory}/kept",
        )
        scene.pause(2.0)
