#!/usr/bin/env python3
"""Renders the README's picture: what `flowmeter` prints about four recorded captures, as SVG for light and dark pages.

    python3 docs/picture/render.py [--flowmeter target/release/flowmeter]

The commands are run, and what they print is what the picture shows. Left out is only what differs from run to run and
says nothing here: the time before each line of the diagnostics, and the line about memory.
"""

from __future__ import annotations

import argparse
import html
import os
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
SAMPLE = REPOSITORY / "tests" / "sample"

METER = (
    "flowmeter pcap scan-syn.pcap.zst brute-ssh.pcap.zst browse.pcap.zst dns-lookups.pcap.zst -o flows.jsonl"
)
SHOW = r"jq -rsf verdicts.jq flows.jsonl | column -ts $'\t'"

# Pixels: a cell of the grid of letters, and the space around it.
CELL_WIDTH, LINE_HEIGHT, MARGIN, BAR = 8.0, 19.0, 20.0, 34.0
FONT = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"


@dataclass(frozen=True)
class Theme:
    """Colours of one picture; each stands out from the ground by 4.5 to 1 or more."""

    file: str
    ground: str
    edge: str
    bar: str
    text: str
    quiet: str
    words: dict[str, str]


LIGHT = Theme(
    file="at-work.svg",
    ground="#ffffff",
    edge="#d0d7de",
    bar="#f6f8fa",
    text="#1f2328",
    quiet="#59636e",
    words={"malicious": "#c5221f", "benign": "#116329", "unknown": "#8a5a00", "$": "#0550ae"},
)
DARK = Theme(
    file="at-work-dark.svg",
    ground="#0d1117",
    edge="#30363d",
    bar="#161b22",
    text="#e6edf3",
    quiet="#8d96a0",
    words={"malicious": "#ff7b72", "benign": "#56d364", "unknown": "#e3b341", "$": "#79c0ff"},
)


@dataclass(frozen=True)
class Line:
    """A line of the terminal: typed, printed, or said beside: diagnostics and headings."""

    kind: str
    text: str


def run(flowmeter: Path) -> list[Line]:
    """Runs both commands over the recorded sample and returns what a terminal would show."""
    with tempfile.TemporaryDirectory() as folder:
        for capture in SAMPLE.glob("*.pcap.zst"):
            (Path(folder) / capture.name).symlink_to(capture)
        (Path(folder) / "verdicts.jq").symlink_to(HERE / "verdicts.jq")
        (Path(folder) / "bin").mkdir()
        (Path(folder) / "bin" / "flowmeter").symlink_to(flowmeter)
        path = f"{folder}/bin:{os.environ['PATH']}"
        lines: list[Line] = []
        for command in (METER, SHOW):
            lines.append(Line("typed", f"$ {command}"))
            done = subprocess.run(
                ["bash", "-c", command],
                cwd=folder,
                env={**os.environ, "PATH": path},
                capture_output=True,
                text=True,
                check=True,
            )
            said = [re.sub(r"^\[\S+ (\w+) *\] ", "", text) for text in done.stderr.splitlines()]
            lines += [Line("said", text) for text in said if not text.startswith("memory at most")]
            printed = [text.rstrip() for text in done.stdout.splitlines()]
            lines += [Line("said" if text.isupper() else "printed", text) for text in printed]
            lines.append(Line("printed", ""))
    return lines[:-1]


def spans(line: Line, theme: Theme) -> str:
    """The line as SVG text, its verdicts in their colours."""
    pattern = "|".join(rf"(?<![\w-]){re.escape(word)}(?!\w)" for word in theme.words)
    if line.kind == "typed":
        pattern = r"^\$"
    if line.kind == "said":
        pattern = r"(?!)"
    parts = []
    end = 0
    for match in re.finditer(pattern, line.text):
        parts.append(html.escape(line.text[end : match.start()], quote=False))
        word = match.group()
        parts.append(f'<tspan fill="{theme.words[word]}" font-weight="600">{html.escape(word)}</tspan>')
        end = match.end()
    parts.append(html.escape(line.text[end:], quote=False))
    return "".join(parts)


def svg(lines: list[Line], theme: Theme) -> str:
    """The whole picture: a window with a bar, and the lines in it."""
    columns = max(len(line.text) for line in lines)
    width = 2 * MARGIN + columns * CELL_WIDTH
    height = BAR + 2 * MARGIN + len(lines) * LINE_HEIGHT - 6
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" role="img" aria-labelledby="title">',
        '<title id="title">flowmeter reads four captures and prints a verdict for each flow</title>',
        f'<rect x="0.5" y="0.5" width="{width - 1:g}" height="{height - 1:g}" rx="8" fill="{theme.ground}" '
        f'stroke="{theme.edge}"/>',
        f'<path d="M0.5 {BAR:g} V8.5 a8 8 0 0 1 8 -8 H{width - 8.5:g} a8 8 0 0 1 8 8 V{BAR:g} Z" fill="{theme.bar}" '
        f'stroke="{theme.edge}"/>',
    ]
    out += [f'<circle cx="{20 + 18 * n}" cy="17" r="5.5" fill="{theme.edge}"/>' for n in range(3)]
    out.append(f'<g font-family="{FONT}" font-size="13.2" xml:space="preserve">')
    for number, line in enumerate(lines):
        y = BAR + MARGIN + 9 + number * LINE_HEIGHT
        fill = theme.quiet if line.kind == "said" else theme.text
        if line.text:
            # Where a reader's font is wider or narrower than ours, the line is fitted to the grid.
            out.append(
                f'<text x="{MARGIN:g}" y="{y:g}" fill="{fill}" textLength="{len(line.text) * CELL_WIDTH:g}" '
                f'lengthAdjust="spacingAndGlyphs" xml:space="preserve">{spans(line, theme)}</text>'
            )
    out += ["</g>", "</svg>", ""]
    return "\n".join(out)


def main() -> None:
    """Runs the commands once and writes both pictures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--flowmeter", type=Path, default=REPOSITORY / "target" / "release" / "flowmeter")
    lines = run(parser.parse_args().flowmeter.resolve())
    for theme in (LIGHT, DARK):
        (HERE / theme.file).write_text(svg(lines, theme), encoding="utf-8")
        print(f"wrote {(HERE / theme.file).relative_to(REPOSITORY)}")


if __name__ == "__main__":
    main()
