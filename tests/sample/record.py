#!/usr/bin/env python3
"""Records labelled traffic of real tools between network namespaces, as packet headers, with the truth beside it.

Without options it re-creates the demo's sample, in this script's folder. With --scale it records a training set:
that many rounds of every activity, each round with hosts, addresses, delays and rates of its own.
"""

import argparse
import concurrent.futures
import csv
import os
import pathlib
import random
import shutil
import sys
import time

from recorder import attacks, benign, capture, lab
from recorder.activity import TABLE, Scene

PROGRAMS = {
    "ip": "iproute2",
    "ethtool": "ethtool",
    "tcpdump": "tcpdump",
    "zstd": "zstd",
    "openssl": "openssl",
    "curl": "curl",
    "nginx": "nginx-light",
    "dnsmasq": "dnsmasq-base",
    "dig": "bind9-dnsutils",
    "ssh": "openssh-client",
    "sshd": "openssh-server",
    "sshpass": "sshpass",
    "rsync": "rsync",
    "iperf3": "iperf3",
    "vsftpd": "vsftpd",
    "mosquitto": "mosquitto",
    "mosquitto_pub": "mosquitto-clients",
    "ntpdig": "ntpsec-ntpdig",
    "ping": "iputils-ping",
    "nmap": "nmap",
    "hping3": "hping3",
    "hydra": "hydra",
    "slowhttptest": "slowhttptest",
    "socat": "socat",
}
HELP = f"""needs: Linux, root, Python 3.9 or newer, and (Debian, Ubuntu):
  apt-get install --no-install-recommends {" ".join(sorted(set(PROGRAMS.values())))}

examples:
  record.py                                          the demo's sample: some minutes, less than 400 KB
  record.py --only scan-syn --output /tmp/try        one activity of it
  record.py --scale 10 --seed 7 --jobs 6 --output D  ten rounds of every activity, six labs at a time
  record.py --list                                   the table of activities

Every namespace and process is its own and is removed at the end, also after Ctrl-C. Nothing leaves the machine.
"""
COLUMNS = ["file", "label", "category", "activity", "packets", "flows", "description"]

# The sample: which activities the demo replays, by which IP version, for how many seconds.
SAMPLE = [
    ("http-pages", 4, 8),
    ("https-pages", 4, 8),
    ("browse", 6, 8),
    ("http-files", 6, 6),
    ("api-polling", 4, 10),
    ("dns-lookups", 4, 8),
    ("dns-lookups", 6, 6),
    ("ssh-session", 4, 14),
    ("scp-copy", 4, 5),
    ("tcp-stream", 4, 4),
    ("ntp-clocks", 4, 6),
    ("ping-some", 6, 5),
    ("mail-sending", 4, 6),
    ("chat-talk", 4, 16),
    ("mqtt-sensors", 4, 10),
    ("voice-call", 4, 4),
    ("database-queries", 4, 6),
    ("scan-syn", 4, 10),
    ("scan-syn", 6, 8),
    ("scan-connect", 4, 8),
    ("scan-version", 4, 18),
    ("flood-syn", 4, 6),
    ("flood-udp", 4, 6),
    ("brute-ssh", 4, 14),
    ("slow-headers", 4, 15),
    ("flood-http", 4, 5),
    ("tunnel-dns", 4, 6),
    ("beacon-kept", 4, 16),
]


def conditions(hosts, rng):
    """A network's day: how far the hosts are from each other and what happens on the way."""
    far = rng.choice([0.0002, 0.002, 0.01, 0.04, 0.08])
    return {
        "delay": {h.port: far * rng.lognormvariate(0.0, 0.5) for h in hosts},
        "jitter": far * rng.choice([0.0, 0.02, 0.1]),
        "loss": rng.choice([0.0, 0.0, 0.0, 0.001, 0.01]),
        "rate": rng.choice([5e6, 2e7, 1e8, 1e9]),
        "filtered": [],
    }


def record(place, row, version, seconds, name, output, rng, known):
    """Plays one activity in a lab and stores its capture; returns the manifest's row and the capture's length.

    `known` has the flows of the lab's earlier captures, and gets this one's: a flow that two captures share, by chance of
    port numbers, would have two truths when they are replayed together.
    """
    place.conditions(**conditions(place.hosts, rng))
    scene = Scene(place, rng, version, seconds)
    expression = row.expression.format(client=scene.client.address(version), server=scene.address())
    raw, target = place.directory / "raw.pcap", output / f"{name}.pcap"
    with capture.Capture(scene.client if row.at_client else scene.server, expression, raw):
        row.play(scene)
    packets, flows, length = capture.cut_to_headers(raw, target)
    if not packets:
        raise RuntimeError("nothing was captured")
    if flows & known:
        raise RuntimeError("has a flow of another capture")
    known |= {flow for flow in flows if flow[1][1]}  # ICMP errors have no ports to tell them apart
    stored = capture.compress(target)
    description = f"{row.description} (IPv{version})"
    return {
        "file": stored.relative_to(output).as_posix(),
        "label": row.label,
        "category": row.category,
        "activity": row.name,
        "packets": packets,
        "flows": len(flows),
        "description": description,
    }, length


def round_of(number, entries, seed, output, hosts):
    """One lab, and a list of (activity, version, seconds, file name) played in it one after the other."""
    rng = random.Random(f"{seed}/{number}")
    done, known = [], set()
    with lab.Lab(str(number), hosts, rng) as place:
        for activity, version, seconds, name in entries:
            for attempt in range(3):
                try:
                    row, length = record(place, TABLE[activity], version, seconds, name, output, rng, known)
                except (RuntimeError, OSError) as error:
                    print(
                        f"{name}: {error}" + ("; once more" if attempt < 2 else "; left out"), file=sys.stderr
                    )
                    time.sleep(1)
                    continue
                done.append(row)
                print(
                    f"{row['file']:40} {row['label']:9} {row['packets']:6} packets {row['flows']:5} flows {length:5.1f} s",
                    flush=True,
                )
                break
    return done


def rounds(arguments):
    """What is to be recorded: a list of lists of entries, a lab for each inner one."""
    wanted = set(arguments.only or TABLE)
    if unknown := wanted - set(TABLE):
        sys.exit(f"no such activity: {', '.join(sorted(unknown))}; --list shows them")
    if not arguments.scale:
        entries = [
            (a, v, s, a if v == 4 or (a, 4) not in {x[:2] for x in SAMPLE} else f"{a}-ipv6")
            for a, v, s in SAMPLE
        ]
        if arguments.only:
            entries = [e for e in entries if e[0] in wanted] or [
                (a, TABLE[a].versions[0], 8, a) for a in sorted(wanted)
            ]
        return [entries]
    result = []
    for number in range(arguments.scale):
        rng = random.Random(f"{arguments.seed}/{number}/plan")
        entries = [
            (name, rng.choice([*row.versions, row.versions[0]]), rng.uniform(6, 25), f"{number:03}/{name}")
            for name, row in TABLE.items()
            if name in wanted
        ]
        rng.shuffle(entries)
        result.append(entries)
    return result


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    here = pathlib.Path(__file__).resolve().parent
    parser.add_argument(
        "--output", type=pathlib.Path, default=here, help="folder for captures and manifest.csv"
    )
    parser.add_argument(
        "--scale", type=int, default=0, metavar="N", help="rounds of a training set; 0: the sample"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the dice; timing stays the machine's own")
    parser.add_argument("--jobs", type=int, default=3, help="labs at a time, with --scale")
    parser.add_argument("--hosts", type=int, default=6, help="hosts of a lab")
    parser.add_argument("--only", nargs="+", metavar="ACTIVITY", help="these activities only")
    parser.add_argument("--missing", action="store_true", help="prints the Debian packages that are missing")
    parser.add_argument("--list", action="store_true", help="prints the table of activities")
    arguments = parser.parse_args()
    if arguments.list:
        for row in TABLE.values():
            print(f"{row.name:24} {row.label:9} {row.category:14} {row.description}")
        return
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    os.environ["PATH"] = path
    missing = sorted({package for program, package in PROGRAMS.items() if not shutil.which(program)})
    if arguments.missing:
        print("\n".join(missing))
        return
    if os.geteuid():
        sys.exit("record.py makes network namespaces and needs root: run it with sudo")
    if missing:
        sys.exit(f"missing programs; run: apt-get install --no-install-recommends {' '.join(missing)}")
    arguments.output.mkdir(parents=True, exist_ok=True)
    plan = rounds(arguments)
    for entries in plan:
        for *_, name in entries:
            (arguments.output / name).parent.mkdir(parents=True, exist_ok=True)
    # Processes, not threads: the hosts' own small servers share an interpreter with the activity.
    with concurrent.futures.ProcessPoolExecutor(max_workers=arguments.jobs) as pool:
        jobs = [
            pool.submit(round_of, number, entries, arguments.seed, arguments.output, arguments.hosts)
            for number, entries in enumerate(plan)
        ]
        rows = [row for job in jobs for row in job.result()]
    rows.sort(key=lambda row: (row["label"], row["file"]))
    with open(arguments.output / "manifest.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    size = sum((arguments.output / row["file"]).stat().st_size for row in rows)
    print(
        f"{len(rows)} captures, {sum(r['packets'] for r in rows)} packets, {sum(r['flows'] for r in rows)} flows, "
        f"{size / 1000:.0f} kB in {arguments.output}"
    )


if __name__ == "__main__":
    assert benign and attacks  # imported for the rows that they put into TABLE
    main()
