"""Plots of the docs, each from one result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.gpu_bars import Parts, rows_of
from headmap.evaluation.selectors import selector_from_json, selector_label

Result = dict[str, Any]
LABELS = {
    "full": "full", "sparsemm": "SparseMM", "snapkv": "SnapKV", "pyramidkv": "PyramidKV", "adakv": "AdaKV",
    "random": "random map",
}  # fmt: skip
PEERS = {
    "dynamic": "transformers DynamicCache", "static": "transformers StaticCache",
    "kvpress snapkv": "kvpress SnapKV", "kvpress adakv": "kvpress AdaKV",
}  # fmt: skip
COLOURS = {
    "sparsemm": "C0", "snapkv": "C1", "pyramidkv": "C2", "adakv": "C3", "random": "C4", "full": "0.35",
    "kvpress snapkv": "C1", "kvpress adakv": "C3", "dynamic": "0.35", "static": "0.65",
}  # fmt: skip
"""A method has one colour in all plots; peers are dashed."""
CONTENDERS = {**{name: f"ours, {label}" for name, label in LABELS.items()}, **PEERS}


def selector_of(row: Result) -> str:
    """A row's selector in one word; `full` has none, and results may say nothing where it is `snapkv`."""
    return selector_label(selector_from_json(row.get("select")))


def series(result: Result) -> dict[tuple[str, str], list[Result]]:
    """The rows of each method and selector, in the order of LABELS, by the share of the prompt kept."""
    found: dict[tuple[str, str], list[Result]] = {}
    for method in LABELS:
        for row in sorted(result["rows"], key=lambda row: float(row["ratio"])):
            if row["method"] == method:
                found.setdefault((method, selector_of(row)), []).append(row)
    return found


def series_name(method: str, select: str, result: Result) -> str:
    """A method's label, with its selector where the result has several."""
    several = len(_selectors(result)) > 1 and method != "full"
    return f"{LABELS[method]}, {select}" if several else LABELS[method]


def _selectors(result: Result) -> list[str]:
    return list(dict.fromkeys(selector_of(row) for row in result["rows"] if row["method"] != "full"))


def native(rows: Sequence[Result]) -> list[Result]:
    """Those measured with all instructions that the machine has."""
    return [row for row in rows if row.get("isa", "native") == "native"]


def accuracy(result: Result) -> Figure:
    """The paper's figure 5 in small: accuracy over the share kept, a line a method, with 95 % intervals."""
    panels = [("accuracy", "Answers exactly right"), ("transcription", "Characters of the page right")]
    panels = [panel for panel in panels if panel[0] in result["rows"][0]]
    figure = Figure(figsize=(4.5 * len(panels), 3.8), layout="constrained")
    axes = list(figure.subplots(1, len(panels), sharex=True, squeeze=False)[0])
    selectors = _selectors(result)
    for (method, select), rows in series(result).items():
        label = series_name(method, select, result)
        if method == "full":
            for axis, (key, _) in zip(axes, panels, strict=True):
                axis.axhline(rows[0][key], color="0.4", linestyle="--", linewidth=1, label="full")
            continue
        x = [row["ratio"] * 100 for row in rows]
        width: dict[str, Any] = {"linewidth": 2.4 if method == "sparsemm" else 1.2, "marker": "o", "markersize": 3.5}
        width |= {"color": COLOURS[method], "linestyle": ("-", ":", "-.", "--")[selectors.index(select) % 4]}
        axes[0].plot(x, [row["accuracy"] for row in rows], label=label, **width)
        low, high = ([row[f"accuracy_{end}"] for row in rows] for end in ("low", "high"))
        axes[0].fill_between(x, low, high, color=COLOURS[method], alpha=0.12, linewidth=0)
        if len(axes) > 1:
            axes[1].plot(x, [row["transcription"] for row in rows], label=label, **width)
    ticks = sorted({row["ratio"] * 100 for row in result["rows"]} - {100.0})
    for axis, (_, title) in zip(axes, panels, strict=True):
        axis.set(xscale="log", ylim=(-0.02, 1.02), xlabel="share of the prompt kept, %", title=title)
        _finish(axis, ticks)
    axes[-1].legend(frameon=False, fontsize=8)
    return figure


def requests(result: Result) -> Figure | None:
    """A whole request, batch 1: a step's time, the time to the first token, and the most memory, over the prompt.

    None for prompts of one length: they make no line.
    """
    rows = [
        row for row in native(result["rows"]) if row["what"] == "request" and row["batch"] == 1 and "missing" not in row
    ]
    panels = (("token_ms", 1.0, "Next token, ms"), ("first_token_ms", 1e3, "First token, s"),
              ("peak_bytes", 2**30, "Peak memory, GiB"))  # fmt: skip
    prompts = sorted({row["prompt_tokens"] for row in rows})
    if len(prompts) < 2:
        return None
    figure = Figure(figsize=(11, 3.8), layout="constrained")
    axes = figure.subplots(1, 3, sharex=True)
    for contender, label in CONTENDERS.items():
        own = sorted((row for row in rows if row["contender"] == contender), key=lambda row: row["prompt_tokens"])
        if not own:
            continue
        style: dict[str, Any] = {"color": COLOURS[contender], "linestyle": "--" if contender in PEERS else "-"}
        style |= {"linewidth": 2.4 if contender == "sparsemm" else 1.2, "marker": "o", "markersize": 3.5}
        for axis, (key, unit, _) in zip(axes, panels, strict=True):
            axis.plot([row["prompt_tokens"] for row in own], [row[key] / unit for row in own], label=label, **style)
    for axis, (_, _, title) in zip(axes, panels, strict=True):
        axis.set(xscale="log", xlabel="prompt, tokens", title=title, ylim=(0, None))
        _finish(axis, prompts, [f"{prompt // 1024}K" for prompt in prompts])
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=8)
    return figure


def gpu(parts: Parts) -> Figure | None:
    """A step's time and its floor over the prompt, a panel for each batch, for the shape without grouped heads.

    None for prompts of one length: they make no line.
    """
    rows = [row for row in rows_of(parts) if row["what"] == "decode" and not row["grouped"] and "missing" not in row]
    prompts = sorted({row["prompt_tokens"] for row in rows})
    if len(prompts) < 2:
        return None
    batches = sorted({row["batch"] for row in rows})
    figure = Figure(figsize=(4.5 * len(batches), 3.6), layout="constrained")
    axes = figure.subplots(1, len(batches), sharex=True, squeeze=False)[0]
    for axis, batch in zip(axes, batches, strict=True):
        for method in ("sparsemm", "full"):
            own = sorted((row["prompt_tokens"], row["token_ms"], row["floor_ms"]) for row in rows
                         if (row["method"], row["batch"]) == (method, batch))  # fmt: skip
            x, measured, floor = zip(*own, strict=True) if own else ((), (), ())
            style: dict[str, Any] = {"color": COLOURS[method], "linewidth": 2.4 if method == "sparsemm" else 1.2}
            axis.plot(x, measured, label=LABELS[method], marker="o", markersize=3.5, **style)
            axis.plot(x, floor, label=f"{LABELS[method]}, floor", linestyle=":", **style)
        axis.set(xscale="log", xlabel="prompt, tokens", title=f"Next token, ms, batch {batch}", ylim=(0, None))
        _finish(axis, prompts, [f"{prompt // 1024}K" for prompt in prompts])
    axes[0].legend(frameon=False, fontsize=8)
    return figure


def heads(result: Result) -> Figure:
    """Lookups right over the share of heads masked, with 95 % intervals."""
    figure = Figure(figsize=(5.5, 3.6), layout="constrained")
    axis = figure.subplots()
    rows = [row for row in result["rows"] if row["what"] == "masking"]
    none = next(row["accuracy"] for row in rows if row["masked"] == "none")
    shares = sorted({row["share"] for row in rows})
    for nudge, (masked, label) in enumerate(
        {"top": "top by score", "random": "random", "random, same layers": "random, same layers"}.items(), start=-1
    ):
        own = sorted((row for row in rows if row["masked"] == masked), key=lambda row: row["share"])
        errors = [[row["accuracy"] - row["accuracy_low"] for row in own],
                  [row["accuracy_high"] - row["accuracy"] for row in own]]  # fmt: skip
        x = [0.0, *(row["share"] * 100 + 0.15 * nudge for row in own)]
        y = [none, *(row["accuracy"] for row in own)]
        axis.errorbar(x, y, [[0, *errors[0]], [0, *errors[1]]], label=label, marker="o", markersize=4, capsize=3)
    axis.set(ylim=(-0.02, 1.05), xlabel="share of the heads masked, %", title="Lookups exactly right")
    _finish(axis, [share * 100 for share in shares])
    axis.legend(frameon=False, fontsize=8)
    return figure


def serving(result: Result) -> Figure:
    """Throughput and the slow end of both latencies over the number of clients."""
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    axes = figure.subplots(1, 3, sharex=True)
    panels = (("tokens_per_second", 1.0, "Tokens a second"), ("first_token_ms_p95", 1e3, "First token, p95, s"),
              ("token_ms_p95", 1.0, "Next token, p95, ms"))  # fmt: skip
    counts = sorted({row["clients"] for row in result["rows"]})
    for variant in dict.fromkeys(row["method"] for row in result["rows"]):
        colour = COLOURS.get(variant.split()[0], "C5")
        own = [row for row in result["rows"] if row["method"] == variant]
        for axis, (key, unit, _) in zip(axes, panels, strict=True):
            y = [row[key] / unit for row in own]
            axis.plot([row["clients"] for row in own], y, color=colour, marker="o", markersize=4, label=variant)
    for axis, (_, _, title) in zip(axes, panels, strict=True):
        axis.set(xscale="log", xlabel="clients", title=title, ylim=(0, None))
        _finish(axis, counts)
    axes[0].legend(frameon=False, fontsize=8)
    return figure


def _finish(axis: Axes, ticks: list[float], labels: list[str] | None = None) -> None:
    axis.set_xticks(ticks, labels or [f"{tick:g}" for tick in ticks])
    axis.minorticks_off()
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
