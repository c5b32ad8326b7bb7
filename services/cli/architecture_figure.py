"""The picture of the processes in docs/design.md: `python -m services.cli.architecture_figure` draws it again.

One SVG for light and dark pages: its colours are classes, and a media query inside of it has the dark ones.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 920, 520
TEXT = (
    "What runs, and what is handed on. Clients and browsers come in through the gateway. It hands /generate and /v1 to "
    "inference, /score and /maps to the scoring API, and pages to the dashboard. The scoring API files jobs in the "
    "registry and tells workers of their shards through Redis. Workers file maps, and inference reads them."
)

_STYLE = """
text { font: 14px system-ui, sans-serif; fill: #1c2333; }
.name { font-weight: 600; }
.note { font-size: 12px; fill: #57606f; }
.group { fill: #f4f6fb; stroke: #c3cad9; }
.box { fill: #ffffff; stroke: #7c879d; }
.torch { fill: #e7ecff; stroke: #4263eb; }
.store { fill: #fff4de; stroke: #b7791f; }
.arrow { fill: none; stroke: #57606f; stroke-width: 1.5; marker-end: url(#tip); }
.maps { stroke: #b7791f; stroke-width: 2.5; marker-end: url(#map-tip); }
#tip path { fill: #57606f; }
#map-tip path { fill: #b7791f; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6e9f0; }
  .note { fill: #a9b1c2; }
  .group { fill: #20242e; stroke: #454c5c; }
  .box { fill: #2a2f3b; stroke: #8791a6; }
  .torch { fill: #27325f; stroke: #8aa0ff; }
  .store { fill: #42351c; stroke: #e0ab55; }
  .arrow { stroke: #a9b1c2; }
  .maps { stroke: #e0ab55; }
  #tip path { fill: #a9b1c2; }
  #map-tip path { fill: #e0ab55; }
}
"""


@dataclass(frozen=True)
class Box:
    """A rectangle, in pixels, with a name and notes in its middle, a line each; a group has its name at the top."""

    x: int
    y: int
    width: int
    height: int
    name: str
    notes: tuple[str, ...] = ()
    kind: str = "box"

    def svg(self) -> str:
        middle = self.x + self.width / 2
        top = self.y + (22 if self.kind == "group" else self.height / 2 - 8.5 * len(self.notes) + 5)
        lines = [f'<text class="name" x="{middle:g}" y="{top:g}" text-anchor="middle">{escape(self.name)}</text>']
        for number, note in enumerate(self.notes, 1):
            y = top + 17 * number
            lines.append(f'<text class="note" x="{middle:g}" y="{y:g}" text-anchor="middle">{escape(note)}</text>')
        frame = (
            f'<rect class="{self.kind}" x="{self.x}" y="{self.y}" width="{self.width}" height="{self.height}" rx="8"/>'
        )
        return "\n".join([frame, *lines])


@dataclass(frozen=True)
class Arrow:
    """A line through `points` with a tip at its end. Its note begins, or ends, at `note_at`."""

    points: Sequence[tuple[int, int]]
    note: str = ""
    note_at: tuple[int, int] = (0, 0)
    anchor: str = "start"
    kind: str = ""

    def svg(self) -> str:
        path = " L ".join(f"{x} {y}" for x, y in self.points)
        line = f'<path class="{" ".join(("arrow", self.kind)).strip()}" d="M {path}"/>'
        if not self.note:
            return line
        x, y = self.note_at
        return f'{line}\n<text class="note" x="{x}" y="{y}" text-anchor="{self.anchor}">{escape(self.note)}</text>'


BOXES = (
    Box(15, 40, 155, 60, "clients", ("OpenAI's, TGI's, curl",)),
    Box(15, 130, 155, 60, "browsers"),
    Box(225, 40, 155, 150, "gateway", ("Caddy: one port,", "spread over replicas")),
    Box(480, 20, 425, 150, "inference, any number", kind="group"),
    Box(495, 60, 125, 90, "prepare", ("messages and", "pictures become", "a prompt")),
    Box(640, 60, 130, 90, "engine", ("one thread owns", "the model: prefill,", "decode, sampling"), "torch"),
    Box(790, 60, 105, 90, "pool", ("pages of the", "KV cache, by", "layer and head"), "torch"),
    Box(225, 270, 155, 60, "dashboard", ("pages for browsers",)),
    Box(465, 270, 175, 60, "scoring API", ("jobs and maps, no torch",)),
    Box(720, 270, 175, 60, "registry", ("PostgreSQL or SQLite",), "store"),
    Box(465, 420, 175, 60, "Redis, Celery", ("which shards are due",), "store"),
    Box(720, 420, 175, 60, "workers", ("they profile models",), "torch"),
)
ARROWS = (
    Arrow([(170, 70), (225, 70)]),
    Arrow([(170, 160), (225, 160)]),
    Arrow([(380, 105), (495, 105)], "/generate, /v1", (386, 97)),
    Arrow([(620, 105), (640, 105)]),
    Arrow([(770, 105), (790, 105)]),
    Arrow([(302, 190), (302, 270)], "/, /dashboard", (294, 235), "end"),
    Arrow([(345, 190), (345, 230), (552, 230), (552, 270)], "/score, /maps", (355, 222)),
    Arrow([(640, 300), (720, 300)], "jobs", (680, 292), "middle"),
    Arrow([(552, 330), (552, 420)], "shards by name", (544, 380), "end"),
    Arrow([(640, 450), (720, 450)]),
    Arrow([(780, 330), (780, 420)], "shards", (772, 380), "end"),
    Arrow([(835, 420), (835, 330)], "maps", (845, 380), kind="maps"),
    Arrow([(835, 270), (835, 170)], "maps", (845, 225), kind="maps"),
)


def figure() -> str:
    """The picture as an SVG document."""
    tips = "".join(
        f'<marker id="{name}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="{size}" markerHeight="{size}" '
        f'markerUnits="userSpaceOnUse" orient="auto"><path d="M 0 0 L 8 4 L 0 8 z"/></marker>'
        for name, size in (("tip", 10), ("map-tip", 12))
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="told">',
        f'<title id="told">{escape(TEXT)}</title>',
        f"<style>{_STYLE}</style>",
        f"<defs>{tips}</defs>",
        *(box.svg() for box in BOXES),
        *(arrow.svg() for arrow in ARROWS),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    Path(sys.argv[1] if len(sys.argv) > 1 else "docs/figures/architecture.svg").write_text(figure(), encoding="utf-8")
