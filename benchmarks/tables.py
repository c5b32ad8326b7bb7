"""The tables of the README and docs, each from one result."""

from __future__ import annotations

from benchmarks.figures import CONTENDERS, Result, native, series, series_name
from benchmarks.report import ISAS


def where(result: Result) -> str:
    """The machine and the versions, the last line under a table."""
    machine, versions = result["machine"], result["versions"]
    place = f"{machine['cpu']}, {machine['cores']} cores" + (f", {machine['gpu']}" if "gpu" in machine else "")
    note = "" if "gpu" in machine else "; not measured on a GPU"
    cut = "" if result.get("complete", True) else " Cut short: rows are missing."
    return f"\n{place}; torch {versions['torch']}, transformers {versions['transformers']}{note}.{cut}\n"


def accuracy_table(result: Result) -> str:
    ratios = sorted({row["ratio"] for row in result["rows"] if row["method"] != "full"})
    full = next(row for row in result["rows"] if row["method"] == "full")
    lines = [
        "| method | " + " | ".join(f"{ratio:.0%}" for ratio in ratios) + " |",
        "|---|" + "---|" * len(ratios),
    ]
    for (method, select), rows in series(result).items():
        if method != "full":
            cells = {row["ratio"]: _shares(row, ".0%") for row in rows}
            name = series_name(method, select, result)
            lines.append(f"| {name} | " + " | ".join(cells[ratio] for ratio in ratios) + " |")
    read = " / characters of the page right" if "transcription" in full else ""
    head = (
        f"Answers exactly right{read}, by the share of the prompt kept; the full cache has {_shares(full, '.1%')}. "
        f"{full['lookups']} questions on {result['settings']['pages']} held-out pages, "
        f"{result['mean_prompt_tokens']:.0f} prompt tokens on average; "
        f"95 % intervals are within {max(_half(row) for row in result['rows']):.0%} points.\n\n"
    )
    return head + "\n".join(lines) + "\n" + where(result)


def kinds_table(result: Result) -> str:
    """A line for each kind of question and selector."""
    settings, lines = result["settings"], list[str]()
    for kind in dict.fromkeys(row["kind"] for row in result["rows"]):
        rows = [row for row in result["rows"] if row["kind"] == kind]
        for (method, select), of in series({"rows": rows}).items():
            if method == "full":
                full = _shares(of[0], ".0%")
                continue
            if not lines:
                ratios = " | ".join(f"{row['ratio']:.0%}" for row in of)
                lines = [f"| question | number | full cache | selector | {ratios} |", "|---" * (4 + len(of)) + "|"]
            cells = " | ".join(_shares(row, ".0%") for row in of)
            lines.append(f"| {kind} | {of[0]['lookups']} | {full} | {select} | {cells} |")
    head = (
        "Answers exactly right, and after a slash characters of the page right, by the share of the prompt kept. "
        f"SparseMM's budgets, {settings['pages']} held-out pages of seed {settings['question_seed']}; "
        f"95 % intervals are within "
        f"{max(_half(row) for row in result['rows']):.0%} points.\n\n"
    )
    return head + "\n".join(lines) + "\n" + where(result)


def sparsity_line(result: Result) -> str:
    return f"- The top 5 % of the heads hold {result['top5_share']:.0%} of the map's score.\n"


READING = {
    "synthetic": "lines of key and value", "synthetic-long": "the same, longer", "plain-forms": "forms",
    "plain-receipts": "receipts", "plain-notes": "notes",
}  # fmt: skip


def reading_table(result: Result) -> str:
    """How well `headmap/smol-ocr` reads, as `headmap.demo.smol evaluate` writes it."""

    def share(found: Result) -> str:
        return f"{found['value']:.0%} ({found['interval'][0]:.0%} to {found['interval'][1]:.0%}) of {found['n']}"

    lines = ["| pages | visual tokens | question after the picture | question before it |", "|---|---|---|---|"]
    lines += [
        f"| {name} | {result[kind]['visual_tokens']:,} | {share(result[kind]['picture_first'])} "
        f"| {share(result[kind]['text_first'])} |"
        for kind, name in READING.items()
        if kind in result
    ]
    return "\n".join(lines) + f"\n\nExactly right, with 95 % intervals; pages of seed {result['seed']}.\n"


def _shares(row: Result, form: str) -> str:
    return " / ".join(f"{row[key]:{form}}" for key in ("accuracy", "transcription") if key in row)


def _half(row: dict[str, float]) -> float:
    return max(row["accuracy_high"] - row["accuracy"], row["accuracy"] - row["accuracy_low"])


def efficiency_table(result: Result) -> str:
    """A line for each step, with what was measured as on a machine that ends at AVX2 beside it, where there is any."""
    rows = [row for row in result["rows"] if row["what"] in ("decode", "prefill")]
    lines = [
        "| | batch | budget | ours | DynamicCache + sdpa | ours / theirs (quartiles) | the same on AVX2 |",
        "|---|---|---|---|---|---|---|",
    ]
    by_isa: dict[str, dict[str, Result]] = {}
    for row in rows:
        budget = row["budget"] if row["what"] == "decode" else f"{row['budget']} of {row['prompt_tokens']}"
        head = f"{row['what']}, {row['dtype']}, {row['shape']} | {row['batch']} | {budget}"
        by_isa.setdefault(head, {})[row.get("isa", "native")] = row
    for head, of in by_isa.items():
        cells = [_took(of.get("native"), "ours_ms"), _took(of.get("native"), "dense_ms")]
        cells += [_spread(of.get(isa)) for isa in ISAS]
        lines.append(f"| {head} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n" + where(result) if rows else ""


def _took(row: Result | None, key: str) -> str:
    return "-" if row is None else f"{row[key]:.0f} ms"


def _spread(row: Result | None) -> str:
    return "-" if row is None else f"{row['ratio']:.2f} ({row['ratio_q1']:.2f} to {row['ratio_q3']:.2f})"


def ways_table(result: Result) -> str:
    rows = native([row for row in result["rows"] if row["what"] == "ways"])
    if not rows:
        return ""
    lines = [
        "| | batch | budget | sdpa for each row | like lengths padded | all padded | padding "
        "| ours, torch | ours, native |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        # Results of the first design call the way in torch's operations "blocks".
        ms = {"blocks" if way == "torch" else way: took for way, took in row["ms"].items()}
        cells = [f"{ms[way]:.1f} ms" if way in ms else "-" for way in ("each row", "buckets", "padded")]
        cells += [
            f"x {row['padding']:.1f}",
            *(f"{ms[way]:.1f} ms" if way in ms else "-" for way in ("blocks", "native")),
        ]
        lines.append(
            f"| {row['dtype']}, {row['shape']} | {row['batch']} | {row['budget']} | " + " | ".join(cells) + " |"
        )
    return "\n".join(lines) + "\n" + where(result)


def selection_table(result: Result) -> str:
    rows = native([row for row in result["rows"] if row["what"] == "selection"])
    if not rows:
        return ""
    lines = ["| | prompt | selector | choosing | share of the layer's prefill (quartiles) |", "|---|---|---|---|---|"]
    lines += [
        f"| {row['dtype']}, {row['shape']} | {row['prompt_tokens']} | {row['select']} | {row['selection_ms']:.2f} ms "
        f"| {row['ratio']:.1%} ({row['ratio_q1']:.1%} to {row['ratio_q3']:.1%}) |"
        for row in rows
    ]
    return "\n".join(lines) + "\n" + where(result)


def requests_table(result: Result) -> str:
    """A line for each contender, a group of columns for each prompt length and batch size."""
    rows = {(row["contender"], row["prompt_tokens"], row["batch"]): row for row in native(result["rows"])
            if row["what"] == "request"}  # fmt: skip
    cells = list(dict.fromkeys((prompt, batch) for _, prompt, batch in rows))
    lines = []
    for prompt, batch in cells:
        some = next(row for key, row in rows.items() if key[1:] == (prompt, batch))
        lines += [
            f"\nPrompts of {prompt:,} tokens, batch {batch}, B = {some['budget']}, {some['dtype']}:\n",
            "| | next token (quartiles) | first token | KV | peak memory |",
            "|---|---|---|---|---|",
        ]
        for contender, label in CONTENDERS.items():
            row = rows.get((contender, prompt, batch))
            if row is not None:
                lines.append(f"| {label} | {_request(row)} |")
    return "\n".join(lines).lstrip("\n") + "\n" + where(result) if rows else ""


def _request(row: Result) -> str:
    if "missing" in row:
        return f"{row['missing']} | | |"
    return (
        f"{row['token_ms']:.0f} ms ({row['token_ms_q1']:.0f} to {row['token_ms_q3']:.0f}) "
        f"| {row['first_token_ms'] / 1e3:.1f} s | {row['kv_bytes'] / 2**20:,.0f} MiB "
        f"| {row['peak_bytes'] / 2**30:.2f} GiB"
    )


def books_table(result: Result) -> str:
    lines = ["| figure | shape | value | bar |", "|---|---|---|---|"]
    for row in result["rows"]:
        bar = "-" if row["bar"] is None else f"{row['bar']:g}{'' if row['holds'] else ', **missed**'}"
        value = f"{row['value']:,.0f}" if float(row["value"]).is_integer() else f"{row['value']:,.3f}"
        lines.append(f"| {row['figure']} | {row['shape']} | {value} {row['unit']} | {bar} |".replace("  |", " |"))
    return "\n".join(lines) + "\n" + where(result)


def scoring_table(result: Result) -> str:
    lines = [
        "| model | tokens of prompt + answer | pages | ours, pages a minute | plain loop | ratio | limit "
        "| ratio to its best | limit | same scores, else correlation | ours in bare forwards |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        lines.append(
            f"| {row['model']} | {row['prompt_tokens']:.0f} + {row['answer_tokens']:.0f} | {row['pages']} "
            f"| {row['ours_pages_per_minute']:.1f} | {row['plain_pages_per_minute']:.1f} | **{row['speedup']:.1f}** "
            f"| {row['limit_default']:.1f} | {row['speedup_best']:.1f} | {row['limit']:.1f} "
            f"| {'yes' if row['same_scores'] else format(row['correlation'], '.3f')} | {row['passes']:.2f} |"
        )
    lines += ["", "| workers | pages | seconds | share of one worker's |", "|---|---|---|---|"]
    for row in result["workers"]:
        lines.append(f"| {row['workers']} | {row['pages']} | {row['seconds']:.1f} | {row['share']:.2f} |")
    return "\n".join(lines) + "\n" + where(result)


def heads_table(result: Result) -> str:
    settings = result["settings"]
    lines = [
        f"- The top {row['share']:.0%} of the heads ({row['heads']}) hold {row['held']:.1%} of the score{_layers(row)}."
        for row in result["rows"]
        if row["what"] == "sparsity"
    ]
    alike = next((row for row in result["rows"] if row["what"] == "stability"), None)
    if alike is not None:
        lines.append(
            f"- Maps from two disjoint sets of {settings['map_pages']} pages: rank correlation "
            f"{_interval(alike, 'spearman', '.3f')}; in common are {_interval(alike, 'top5pct_overlap', '.0%')} of the "
            f"top 5 % and {_interval(alike, 'top10pct_overlap', '.0%')} of the top 10 %; in brackets 95 % intervals, "
            f"bootstrap over the pages."
        )
    masking = [row for row in result["rows"] if row["what"] == "masking"]
    none = next((row["accuracy"] for row in masking if row["masked"] == "none"), 0.0)
    lines += [
        "",
        "| masked | heads | lookups right (95 % interval) | drop | draws, worst to best |",
        "|---|---|---|---|---|",
    ]
    for row in masking:
        draws = f"{row['draws']}, {row['worst_draw']:.0%} to {row['best_draw']:.0%}" if row["draws"] > 1 else "-"
        lines.append(
            f"| {row['masked']} | {row['heads']} | {_interval(row, 'accuracy', '.0%')} "
            f"| {none - row['accuracy']:.0%} | {draws} |"
        )
    return "\n".join(lines) + "\n" + where(result)


def _layers(row: Result) -> str:
    """Layers counted from 0, with the number of such heads in each."""
    layers: dict[str, int] = row.get("layers", {})
    return " and lie in layers " + ", ".join(f"{layer} ({count})" for layer, count in layers.items()) if layers else ""


def _interval(row: Result, key: str, form: str) -> str:
    return f"{row[key]:{form}} ({row[f'{key}_low']:{form}} to {row[f'{key}_high']:{form}})"


def serving_table(result: Result) -> str:
    lines = [
        "| clients | cache | tokens/s (rounds, least to most) | first token p50 / p95 | next token p50 / p95 "
        "| KV a request |",
        "|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        rounds = f"{row['tokens_per_second_low']:.0f} to {row['tokens_per_second_high']:.0f}"
        lines.append(
            f"| {row['clients']} | {row['method']} | {row['tokens_per_second']:.0f} ({rounds}) "
            f"| {row['first_token_ms_p50']:.0f} / {row['first_token_ms_p95']:.0f} ms "
            f"| {row['token_ms_p50']:.0f} / {row['token_ms_p95']:.0f} ms "
            f"| {row['kv_bytes_per_request'] / 2**10:,.0f} KiB |"
        )
    settings = result["settings"]
    after = (
        f"\n{settings['requests']} pages a variant and round, {min(settings['max_new_tokens'])} to "
        f"{max(settings['max_new_tokens'])} new tokens, median of {result['rows'][0]['rounds']} rounds in turn.\n"
    )
    return "\n".join(lines) + "\n" + after + where(result)


def gaps_table(result: Result) -> str:
    setting = result["settings"]
    lines = [
        "| a turn at the latest after | next token p50 / p99 / longest | the prompt's own answer |",
        "|---|---|---|",
    ]
    for row in result["rows"]:
        limit = row["max_decode_gap_ms"]
        lines.append(
            f"| {f'{limit} ms' if limit < 10_000 else 'its end'} | {row['gap_ms_p50']:.0f} / {row['gap_ms_p99']:.0f} / "
            f"{row['gap_ms_max']:.0f} ms | {row['prompt_ms_p50'] / 1e3:.1f} s |"
        )
    after = (
        f"\n{setting['prompts']} prompts of {setting['pictures']} pictures one after the other beside one running "
        f"answer, {setting['rounds']} rounds in turn.\n"
    )
    return "\n".join(lines) + "\n" + after + where(result)


FAMILY_CHECKS = {
    "prompt": "prompt", "geometry": "geometry", "scoring": "scoring", "parity": "full budget = transformers",
    "batch": "batched = alone", "several": "several pictures", "sliding": "sliding window",
    "services": "`/score`, `/generate`",
}  # fmt: skip


def families_table(result: Result) -> str:
    """Numbers are tests passed; a family whose tests were all skipped or that has none shows a dash."""
    lines = ["| small model of | " + " | ".join(FAMILY_CHECKS.values()) + " |", "|---|" + "---|" * len(FAMILY_CHECKS)]
    for row in result["rows"]:
        cells = []
        for check in FAMILY_CHECKS:
            count = row["checks"].get(check, {"passed": 0, "failed": 0})
            failed = f", **{count['failed']} failed**" if count["failed"] else ""
            cells.append(f"{count['passed']} passed{failed}" if count["passed"] or failed else "-")
        lines.append(f"| {row['model']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n" + where(result)


def soak_table(result: Result) -> str:
    rows = result["rows"]
    shown = [row for row in rows if row["requests"] % max(1, rows[-1]["requests"] // 8) == 0]
    lines = [
        "| requests | " + " | ".join(f"{row['requests']:,}" for row in shown) + " |",
        "|---|" + "---|" * len(shown),
        "| resident memory, MiB | " + " | ".join(f"{row['rss_mib']:.0f}" for row in shown) + " |",
    ]
    ended = ", ".join(f"{count:,} {how}" for how, count in result["ended"].items())
    setting = result["settings"]
    after = (
        f"\n{ended}; {len(setting['methods'])} methods, {setting['clients']} clients. After a fifth as warm-up the "
        f"line through the rest rises by {result['growth_kib_per_request']:.2f} KiB a request (medians of its first "
        f"and last quarter: {result['rss_mib_first']:.0f} and {result['rss_mib_last']:.0f} MiB). {_preempted(result)}"
        f"KV bytes held at the end: {_held_after(result):.0f}; exit code after SIGTERM: {result['exit_code']}.\n"
    )
    return "\n".join(lines) + "\n" + after + where(result)


def _held_after(result: Result) -> float:
    """Results of the first design say what was reserved."""
    return result["kv_held_bytes_after" if "kv_held_bytes_after" in result else "kv_reserved_bytes_after"]


def _preempted(result: Result) -> str:
    return f"{result['preempted']:,.0f} were preempted. " if "preempted" in result else ""


def health_table(result: Result) -> str:
    lines = ["| decoded meanwhile | looks | p50 | p99 | slowest |", "|---|---|---|---|---|"]
    for row in result["rows"]:
        what = f"{row['pictures']} {row['decoded']} pictures" if row["pictures"] else row["decoded"]
        lines.append(
            f"| {what} | {row['looks']} | {row['p50_ms']:.0f} ms | {row['p99_ms']:.0f} ms | {row['max_ms']:.0f} ms |"
        )
    return "\n".join(lines) + "\n" + where(result)
