"""What hosts of the lab serve: real servers where there are any, small ones of our own elsewhere.

`need(host, name)` starts a service once per host and returns the port it listens on.
"""

import os
import pathlib
import random
import shutil
import socket
import subprocess
import threading
import time

SIZES = {
    "tiny": 300,
    "small": 4_000,
    "page": 25_000,
    "image": 120_000,
    "large": 600_000,
    "package": 1_500_000,
}
PASSWORD = "correct-horse"


def files(host):
    """Pages of several sizes, the same for every web server of the host."""
    root = host.directory / "www"
    if not root.exists():
        root.mkdir()
        for name, size in SIZES.items():
            (root / f"{name}.bin").write_bytes(os.urandom(size))
        (root / "private").mkdir()
        (root / "private" / "index.html").write_text("for members")
        (root / "index.html").write_text("<html>" + "x" * 3000)
    return root


def web(host):
    """nginx: HTTP on 80, HTTPS on 443, a password before /private/."""
    root, base = files(host), host.directory
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-keyout",
            base / "key.pem",
            "-out",
            base / "cert.pem",
            "-days",
            "2",
            "-subj",
            "/CN=lab.example",
        ],
        check=True,
        stderr=subprocess.DEVNULL,
    )
    hashed = subprocess.run(
        ["openssl", "passwd", "-apr1", PASSWORD], check=True, capture_output=True, text=True
    ).stdout
    (base / "htpasswd").write_text(f"member:{hashed}")
    (base / "nginx.conf").write_text(f"""
daemon off; user root; worker_processes 1; pid {base}/nginx.pid; error_log /dev/null;
events {{ worker_connections 1024; }}
http {{
  access_log off; keepalive_timeout 15; client_max_body_size 64m; default_type text/html;
  client_body_temp_path {base}/t1; proxy_temp_path {base}/t2; fastcgi_temp_path {base}/t3;
  uwsgi_temp_path {base}/t4; scgi_temp_path {base}/t5;
  server {{
    listen 80; listen [::]:80; listen 443 ssl http2; listen [::]:443 ssl http2;
    ssl_certificate {base}/cert.pem; ssl_certificate_key {base}/key.pem;
    root {root};
    location /private/ {{ auth_basic "members"; auth_basic_user_file {base}/htpasswd; }}
  }}
}}""")
    host.spawn(["nginx", "-p", base, "-c", base / "nginx.conf"])
    return 80


def simple_web(host):
    """Python's own web server: HTTP/1.0, a connection a page."""
    host.spawn(["python3", "-m", "http.server", "8000", "--bind", "::", "--directory", files(host)])
    return 8000


def ssh(host):
    """OpenSSH; the client's key lies beside it."""
    base = host.directory
    for name in ("hostkey", "clientkey"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f", base / name], check=True
        )
    shutil.copy(base / "clientkey.pub", base / "authorized")
    pathlib.Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    (base / "sshd.conf").write_text(f"""
HostKey {base}/hostkey
AuthorizedKeysFile {base}/authorized
PidFile none
StrictModes no
UsePAM no
PermitRootLogin yes
PasswordAuthentication yes
MaxStartups 200
PrintMotd no
Subsystem sftp internal-sftp
""")
    host.spawn(["/usr/sbin/sshd", "-D", "-f", base / "sshd.conf"])
    return 22


def names(host):
    """dnsmasq: answers any name, some with several records and long texts."""
    words = [
        "dnsmasq",
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--user=root",
        "--no-resolv",
        "--no-hosts",
        "--pid-file=",
        "--log-facility=/dev/null",
        "--address=/#/198.51.100.7",
        "--address=/#/2001:db8::7",
        "--mx-host=lab.example,mail.lab.example,10",
        "--txt-record=lab.example," + "v=spf1 -all " * 8,
    ]
    words += [f"--host-record=cdn{i}.lab.example,203.0.113.{j}" for i in range(3) for j in range(1, 6)]
    words += ["--txt-record=big.lab.example," + ",".join("x" * 250 for _ in range(9))]
    host.spawn(words)
    return 53


def iperf(host):
    """iperf3's server."""
    host.spawn(["iperf3", "-s"])
    return 5201


def rsync(host):
    """rsync's own daemon, offering the web pages."""
    (host.directory / "rsyncd.conf").write_text(
        f"use chroot = no\n[pages]\npath = {files(host)}\nread only = yes\n"
    )
    host.spawn(["rsync", "--daemon", "--no-detach", "--config", host.directory / "rsyncd.conf"])
    return 873


def ftp(host):
    """vsftpd: anonymous downloads; every named log-in fails, for nobody has an account."""
    for name in ("empty", "ftproot"):
        (host.directory / name).mkdir()
    (host.directory / "ftproot" / "image.bin").write_bytes(os.urandom(SIZES["image"]))
    (host.directory / "vsftpd.conf").write_text(f"""
listen=NO
listen_ipv6=YES
anonymous_enable=YES
local_enable=YES
anon_root={host.directory}/ftproot
secure_chroot_dir={host.directory}/empty
pasv_enable=YES
seccomp_sandbox=NO
background=NO
""")
    host.spawn(["vsftpd", host.directory / "vsftpd.conf"])
    return 21


def mqtt(host):
    """mosquitto, open to all."""
    (host.directory / "mosquitto.conf").write_text("listener 1883\nallow_anonymous true\npersistence false\n")
    host.spawn(["mosquitto", "-c", host.directory / "mosquitto.conf"])
    return 1883


# What follows are servers of our own, each a socket and a loop in a thread of the host's namespace.


def listen(kind, port):
    """A socket on all addresses of both IP versions."""
    server = socket.socket(socket.AF_INET6, kind)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    server.bind(("::", port))
    if kind == socket.SOCK_STREAM:
        server.listen(256)
    return server


def tcp_server(host, port, talk):
    """Serves each connection by `talk(connection)` in a thread; returns the port."""
    ready = threading.Event()
    opened = []

    def guarded(connection):
        with connection:
            try:
                connection.settimeout(60)
                talk(connection)
            except OSError:
                pass

    def serve():
        server = listen(socket.SOCK_STREAM, port)
        opened.append(server)
        ready.set()
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=guarded, args=(connection,), daemon=True).start()

    host.inside(serve)
    ready.wait(5)
    host.services[f"tcp {port}"] = lambda: [shut(s) for s in opened]
    return port


def udp_server(host, port, answer):
    """Answers each datagram by those that `answer(data)` yields; returns the port."""
    ready = threading.Event()
    opened = []

    def serve():
        server = listen(socket.SOCK_DGRAM, port)
        opened.append(server)
        ready.set()
        while True:
            try:
                data, peer = server.recvfrom(65535)
                if not peer:
                    return  # shut down
                for reply in answer(data):
                    server.sendto(reply, peer)
            except OSError:
                return

    host.inside(serve)
    ready.wait(5)
    host.services[f"udp {port}"] = lambda: [shut(s) for s in opened]
    return port


def shut(server):
    """Closes a socket on which another thread waits: close() alone would leave that thread, and the namespace."""
    try:
        server.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    server.close()


def lines(connection):
    """The lines that arrive on a connection."""
    held = b""
    while chunk := connection.recv(4096):
        held += chunk
        while b"\n" in held:
            line, held = held.split(b"\n", 1)
            yield line


def mail(host):
    """Takes mail by SMTP as RFC 5321 has it, and forgets it."""

    def talk(connection):
        connection.sendall(b"220 mail.lab.example ESMTP\r\n")
        content = False
        for line in lines(connection):
            if content:
                if line.strip() == b".":
                    content = False
                    connection.sendall(b"250 queued\r\n")
                continue
            word = line[:4].upper()
            if word == b"EHLO":
                connection.sendall(b"250-mail.lab.example\r\n250-SIZE 52428800\r\n250 8BITMIME\r\n")
            elif word == b"DATA":
                content = True
                connection.sendall(b"354 go on\r\n")
            elif word == b"QUIT":
                connection.sendall(b"221 bye\r\n")
                return
            else:
                connection.sendall(b"250 ok\r\n")

    return tcp_server(host, 25, talk)


def chat(host):
    """Answers each line after a while, as someone who types."""

    def talk(connection):
        dice = random.Random(2)
        for _ in lines(connection):
            time.sleep(dice.uniform(0.05, 1.0))
            connection.sendall(b"y" * dice.randrange(8, 160) + b"\n")

    return tcp_server(host, 5222, talk)


def longpoll(host):
    """An HTTP server that answers only when there is news."""

    def talk(connection):
        dice = random.Random()
        for line in lines(connection):
            if line.strip():
                continue
            time.sleep(dice.uniform(0.3, 3.0))
            body = b"{}" * dice.randrange(4, 300)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    return tcp_server(host, 8090, talk)


def records(host):
    """A database of sorts: a short question, an answer of any size, on one long connection."""

    def talk(connection):
        dice = random.Random(4)
        for _ in lines(connection):
            connection.sendall(b"r" * int(dice.lognormvariate(5.5, 1.3)) + b"\n")

    return tcp_server(host, 5432, talk)


def sink(host):
    """Takes whatever comes and says little: where stolen data goes, and what steers bots."""

    def talk(connection):
        while connection.recv(65536):
            pass

    return tcp_server(host, 4443, talk)


def control(host):
    """What a bot asks for orders: mostly there are none."""

    def talk(connection):
        dice = random.Random()
        for _ in lines(connection):
            connection.sendall(b"0" * dice.choice([16, 16, 16, 64, 700]) + b"\n")

    return tcp_server(host, 8443, talk)


def clock(host):
    """Answers NTP requests (RFC 5905) with this machine's time."""

    def answer(data):
        if len(data) >= 48:
            now = int((time.time() + 2_208_988_800) * 2**32).to_bytes(8, "big")
            yield bytes([0x24, 2, data[2], 0xEC]) + bytes(12) + now + data[40:48] + now + now

    return udp_server(host, 123, answer)


def echo(host):
    """Sends datagrams back: the other side of a call."""
    return udp_server(host, 5004, lambda data: [data])


def quiet(host):
    """Takes datagrams and answers none."""
    return udp_server(host, 9000, lambda data: [])


START = {
    "web": web,
    "simple_web": simple_web,
    "ssh": ssh,
    "names": names,
    "iperf": iperf,
    "rsync": rsync,
    "ftp": ftp,
    "mqtt": mqtt,
    "mail": mail,
    "chat": chat,
    "longpoll": longpoll,
    "records": records,
    "sink": sink,
    "control": control,
    "clock": clock,
    "echo": echo,
    "quiet": quiet,
}
UDP_SERVICES = {"clock", "echo", "quiet"}


def need(host, name):
    """Starts a service unless it runs, waits until it answers, returns its port."""
    if name not in host.services:
        port = START[name](host)
        host.services[name] = port
        for _ in range(100):
            words = ["ss", "-Hlnu" if name in UDP_SERVICES else "-Hlnt", f"sport = :{port}"]
            if subprocess.run(
                ["ip", "netns", "exec", host.namespace, *words], capture_output=True, check=False
            ).stdout:
                break
            time.sleep(0.05)
        else:
            raise RuntimeError(f"{name} did not start on port {port}")
    return host.services[name]
