"""`make demo`: the whole path in minutes. Profile the bundled model over HTTP, then ask it with less of its cache.

Everything it writes is under `demo-out/`. Exit code 0 means that every step worked. The cluster came up, the job
succeeded, and every question was answered. No request kept more than it asked for. With the whole cache every answer
was right.
"""

from __future__ import annotations

import base64
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from rich.console import Console
from rich.progress import Progress, TaskID
from rich.table import Table

from headmap.errors import HeadmapError
from headmap.head_scores import HeadScores
from headmap.pictures.heatmap import TOP_SHARE
from headmap.scoring.pages import Page, make_page
from headmap.settings import DEMO_MODEL, Settings
from services.cli.common import progress_bar, waiting
from services.embedded.supervisor import ClusterError, Notices, Supervisor, stop_signals

OUT = Path("demo-out")
PAGES = 40
PROFILE_SEED, ASK_SEED, ASK_PAGES = 0, 1, 3
"""Pages of another series than the profile's; training draws from streams of its own, so neither was seen there."""

START_SECONDS, PROFILE_SECONDS = 120.0, 600.0


@dataclass(frozen=True)
class Way:
    """A way to keep the prompt's cache: a method, and the share it may keep."""

    method: str
    ratio: float | None = None

    @property
    def kv(self) -> dict[str, Any]:
        return {"method": self.method} | ({} if self.ratio is None else {"ratio": self.ratio})


WAYS = (Way("full"), Way("sparsemm", 0.4), Way("snapkv", 0.4), Way("sparsemm", 0.2), Way("snapkv", 0.2))


class DemoFailed(Exception):
    """A step did not work; the text says which and how."""


class Stopped(Exception):
    """Ctrl-C."""


class Demo:
    """The steps. `check` is called while waiting: it raises when the cluster has died or the user has stopped."""

    def __init__(self, out: Console, client: httpx.Client, check: Callable[[], None]) -> None:
        self._out, self._client, self._check = out, client, check
        self.failures: list[str] = []

    def profile(self) -> str:
        """Run a scoring job; returns the map's id."""
        body = {"model": DEMO_MODEL, "pages": PAGES, "seed": PROFILE_SEED, "max_new_tokens": 512}
        job = self._ok(self._client.post("/score", json=body)).json()
        deadline = time.monotonic() + PROFILE_SECONDS
        with progress_bar("pages", self._out) as bar:
            task = bar.add_task("   loading the model", total=PAGES)
            told = 0
            while job["state"] in ("queued", "running"):
                if time.monotonic() > deadline:
                    raise DemoFailed(f"the job was not done within {PROFILE_SECONDS:.0f} seconds")
                self._check()
                time.sleep(0.3)
                job = self._ok(self._client.get(f"/score/{job['id']}")).json()
                done = job["progress"]["done"]
                bar.update(task, completed=done, description="   reading" if done else None)
                if not self._out.is_terminal and done >= told + 8:
                    told = done
                    self._out.print(f"   {done} of {PAGES} pages")
        if job["state"] != "succeeded":
            raise DemoFailed(f"the scoring job {job['state']}: {job['error']}")
        return str(job["map_id"])

    def show_map(self, map_id: str) -> None:
        """Save the heatmap, and tell how much the strongest heads hold."""
        record = self._ok(self._client.get(f"/maps/{map_id}")).json()
        matrix = self._ok(self._client.get(f"/maps/{map_id}/scores")).json()
        scores = HeadScores(np.array(matrix), record["num_kv_heads"])
        picture = OUT / "heatmap.png"
        picture.write_bytes(self._ok(self._client.get(f"/maps/{map_id}/heatmap.png")).content)
        top = len(scores.top_heads(TOP_SHARE))
        heads = f"{top} of {record['num_layers'] * record['num_heads']} heads"
        self._out.print(f"   map       {map_id}, version {record['version']}, {record['hits']} hits")
        self._out.print(f"   top 5 %   {heads} hold {100 * scores.top_share(TOP_SHARE):.1f} % of the score")
        self._out.print(f"   heatmap   {picture}")

    def wait_for_map(self, map_id: str) -> None:
        """Inference takes the new map up by itself."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            model = self._ok(self._client.get(f"/v1/models/{DEMO_MODEL}")).json()
            if model["map"] is not None and model["map"]["id"] == map_id:
                return
            self._check()
            time.sleep(0.2)
        raise DemoFailed("inference did not take up the map")

    def ask(self) -> None:
        """Ask about each page in every way at once; requests of all methods share one batch."""
        right = dict.fromkeys(WAYS, 0)
        kept: dict[Way, list[float]] = {way: [] for way in WAYS}
        for number in range(ASK_PAGES):
            page = make_page(ASK_SEED, number)
            path = OUT / f"page-{number + 1}.png"
            page.image.save(path)
            question = page.questions[0]
            self._out.print()
            self._out.print(f"   {path}: {question.question}  Expected: [bold]{question.answer}[/]")
            table = _table("cache", "answer", "", "tokens kept", "bytes kept")
            self._check()
            with progress_bar("answers", self._out) as bar, ThreadPoolExecutor(len(WAYS)) as pool:
                task = bar.add_task("   asking", total=len(WAYS))

                def answer_in(way: Way, page: Page = page, bar: Progress = bar, task: TaskID = task) -> dict[str, Any]:
                    answer = self._answer(page, way)
                    bar.advance(task)
                    return answer

                answers = list(pool.map(answer_in, WAYS))
            for way, answer in zip(WAYS, answers, strict=True):
                text, kv = answer["generated_text"].strip(), answer["details"]["kv"]
                is_right = text == question.answer
                right[way] += is_right
                kept[way].append(kv["bytes"] / kv["full_bytes"])
                mark = "[green]right[/]" if is_right else "[red]wrong[/]"
                table.add_row(_name(way), text, mark, *_kept(kv))
                self._verify(way, kv, is_right, path)
            self._out.print(table)
        self._out.print()
        table = _table("cache", "right", "bytes kept")
        for way in WAYS:
            table.add_row(_name(way), f"{right[way]} of {ASK_PAGES}", f"{100 * sum(kept[way]) / ASK_PAGES:.1f} %")
        self._out.print(table)

    def _answer(self, page: Page, way: Way) -> dict[str, Any]:
        file = BytesIO()
        page.image.save(file, "PNG")
        body = {
            "inputs": page.questions[0].question,
            "images": [base64.b64encode(file.getvalue()).decode("ascii")],
            "parameters": {"max_new_tokens": 32, "kv": way.kv},
        }
        answer: dict[str, Any] = self._ok(self._client.post("/generate", json=body)).json()
        return answer

    def _verify(self, way: Way, kv: dict[str, Any], is_right: bool, path: Path) -> None:
        if kv["kept_tokens"] > (way.ratio or 1) * kv["full_tokens"]:
            self.failures.append(f"{path}: {_name(way)} kept {kv['kept_tokens']} of {kv['full_tokens']} tokens")
        if kv["method"] != way.method:
            self.failures.append(f"{path}: {_name(way)} was answered with {kv['method']}")
        if way.method == "full" and not is_right:
            self.failures.append(f"{path}: the answer with the whole cache is wrong")

    def _ok(self, response: httpx.Response) -> httpx.Response:
        if response.is_error:
            request = response.request
            raise DemoFailed(f"{request.method} {request.url.path} answered {response.status_code}: {response.text}")
        return response


def main() -> int:
    out = Console(highlight=False, soft_wrap=True)
    for name in [name for name in os.environ if name.startswith("HEADMAP_")]:
        del os.environ[name]  # the demo is the same whatever is set
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    settings = Settings(data_dir=OUT / "data", drain_seconds=5)
    started = time.monotonic()
    try:
        failures = _run(out, settings)
    except Stopped:
        out.print("\nStopped.")
        return 130
    except (DemoFailed, HeadmapError, httpx.HTTPError) as error:
        failures = [str(error)]
    if failures:
        out.print("\n[bold red]The demo did not work:[/]")
        for failure in failures:
            out.print(f"   {failure}", markup=False)
        out.print(f"   logs: {settings.data_dir / 'logs'}")
        return 1
    out.print(f"\n[bold green]All of it worked[/], in {time.monotonic() - started:.0f} s.\n")
    out.print("Ask the same pages in the browser, with the map that the demo has made:\n")
    out.print(f"   [bold]{shlex.join(next_command(settings))}[/]\n")
    out.print(f"   The pages are {OUT / 'page-1.png'} to {OUT / f'page-{ASK_PAGES}.png'}; Ctrl-C ends it.")
    return 0


def _run(out: Console, settings: Settings) -> list[str]:
    notices = Notices(ready=lambda url: None, trouble=lambda line: out.print(f"   [yellow]{line}[/]"))
    out.print(f"[bold]Headmap demo[/]  [dim]everything it writes is in {OUT}/[/]\n")
    out.print("[bold]1  Start the cluster[/]")
    began = time.monotonic()
    with (
        stop_signals() as stopped,
        waiting("   starting, mostly 10 to 30 s", out) as starting,
        Supervisor(settings, host="127.0.0.1", port=0, notices=notices) as cluster,
    ):

        def check() -> None:
            if stopped():
                raise Stopped
            cluster.check()

        while not cluster.ready:
            if time.monotonic() - began > START_SECONDS:
                raise ClusterError(f"the cluster was not up within {START_SECONDS:.0f} seconds")
            check()
            time.sleep(0.1)
        starting.stop()
        took = time.monotonic() - began
        out.print(f"   {cluster.url}  [dim]scoring API, worker and inference on one port; {took:.0f} s[/]\n")
        with httpx.Client(base_url=cluster.url, timeout=120, trust_env=False) as client:
            demo = Demo(out, client, check)
            out.print(f"[bold]2  Profile {DEMO_MODEL}: which of its heads look at the picture?[/]")
            map_id = demo.profile()
            demo.show_map(map_id)
            demo.wait_for_map(map_id)
            out.print(f"\n[bold]3  Ask about {ASK_PAGES} pages nobody trained on[/]")
            demo.ask()
        out.print("\n[bold]4  End the cluster[/]")
    out.print("   ended")
    return demo.failures


def next_command(settings: Settings) -> list[str]:
    """The command that starts the same cluster again, with the demo's map, and opens it in the browser."""
    program = Path(sys.executable).parent / "headmap"
    shown = program.relative_to(Path.cwd()) if program.is_relative_to(Path.cwd()) else program
    return [str(shown), "up", "--data-dir", os.path.relpath(settings.data_dir), "--open"]


def _table(*columns: str) -> Table:
    table = Table(*columns, box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    table.columns[0].header = f"      {columns[0]}"
    for column in table.columns:
        if "kept" in str(column.header):
            column.justify = "right"
    return table


def _name(way: Way) -> str:
    share = "" if way.ratio is None else f" {100 * way.ratio:.0f} %"
    return f"      {way.method}{share}"


def _kept(kv: dict[str, Any]) -> tuple[str, str]:
    return (
        f"{kv['kept_tokens']:,} of {kv['full_tokens']:,}",
        f"{kv['bytes'] / 1024:,.0f} of {kv['full_bytes'] / 1024:,.0f} KiB",
    )


if __name__ == "__main__":
    sys.exit(main())
