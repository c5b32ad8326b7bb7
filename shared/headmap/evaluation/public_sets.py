"""Public question sets in the parquet form that lmms-eval reads: DocVQA, ChartQA, TextVQA and OCRBench.

The columns identify the set. As in lmms-eval, each question gets a suffix that asks for a short answer, so that results
are comparable with lmms-eval's. `image` is a struct of `bytes` and `path`, or the bytes themselves.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headmap.datasets.parquet import ParquetRows, column_names, picture_of
from headmap.datasets.sources import page_order
from headmap.errors import DatasetUnavailable, InvalidDataset, InvalidParameter
from headmap.evaluation.questions import SHORT_ANSWER_TOKENS, Question

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(/[\w.-]+)*")
_PART = re.compile(r"-\d+-of-\d+$")


@dataclass(frozen=True)
class Schema:
    """A public set: the columns that only it has, and how its questions are asked and marked.

    `repo`: where it is on the Hub; copies elsewhere have the same columns. `id`: the column that names a question, ""
    where only its row does. `answers`: the column of its right answers, a text or a list of texts. `suffix`: what
    follows each question.
    """

    name: str
    repo: str
    columns: frozenset[str]
    id: str
    answers: str
    metric: str
    suffix: str = "\nAnswer the question using a single word or phrase."
    max_new_tokens: int = SHORT_ANSWER_TOKENS


SCHEMAS = (
    Schema(
        "DocVQA", "lmms-lab/DocVQA", frozenset({"questionId", "question", "image", "answers"}), "questionId", "answers",
        "anls",
    ),
    Schema(
        "TextVQA", "lmms-lab/textvqa", frozenset({"question_id", "image_id", "question", "image", "answers"}),
        "question_id", "answers", "vqa",
    ),
    Schema(
        "ChartQA", "lmms-lab/ChartQA", frozenset({"type", "question", "image", "answer"}), "", "answer", "relaxed",
        "\nAnswer the question with a single word.",
    ),
    Schema(
        "OCRBench", "echo840/OCRBench", frozenset({"dataset", "question_type", "question", "image", "answer"}), "",
        "answer", "contains", "", 128,
    ),
)  # fmt: skip
"""With the columns that these repositories have."""


def is_hub_id(dataset: str) -> bool:
    """Whether `dataset` has the form OWNER/NAME[/PART]."""
    return _HUB_ID.fullmatch(dataset) is not None and not {".", ".."} & set(dataset.split("/"))


def known_schema(dataset: str) -> Schema | None:
    """The schema of OWNER/NAME[/PART] by its repository alone; None for a repository that is not known."""
    return next((one for one in SCHEMAS if f"{dataset}/".startswith(f"{one.repo}/")), None)


def find_local_files(place: str) -> list[Path]:
    """Find the parquet files of a file or folder, sorted by name; none if `place` is neither."""
    local = Path(place).expanduser()
    if local.is_file() and local.suffix == ".parquet":
        return [local]
    return sorted(local.rglob("*.parquet")) if local.is_dir() else []


def find_hub_files(dataset: str) -> list[Path]:
    """Find the parquet files of OWNER/NAME[/PART] in the local Hub cache, sorted by name.

    PART is the start of the files' paths: `lmms-lab/DocVQA/DocVQA/validation`. Raises DatasetUnavailable for a
    repository that is not in the cache, and InvalidParameter if no file's path starts so.
    """
    owner, name, *part = dataset.split("/")
    snapshot = _cached(f"{owner}/{name}")
    start = "/".join(part)
    found = [file for file in sorted(snapshot.rglob("*.parquet")) if str(file.relative_to(snapshot)).startswith(start)]
    if not found:
        raise InvalidParameter(f"dataset: {owner}/{name} has no parquet files at {start!r} here", param="dataset")
    return found


def open_public_set(place: str, files: Sequence[Path], *, max_pixels: int) -> PublicSet:
    """The set in these files.

    Raises InvalidParameter if the files belong to several splits, InvalidDataset if they match no schema, and
    DatasetUnavailable without pyarrow.
    """
    splits = sorted({str(file.parent / _PART.sub("", file.stem)) for file in files})
    if len(splits) > 1:
        names = ", ".join(Path(split).name for split in splits)
        raise InvalidParameter(f"dataset: {place!r} has several splits, name one of them: {names}", param="dataset")
    return PublicSet(files, max_pixels=max_pixels)


class PublicSet:
    """The questions in parquet files of one schema."""

    def __init__(self, files: Sequence[Path], *, max_pixels: int) -> None:
        self.schema = schema = _schema(files[0], column_names(files[0]))
        self.metric, self.max_new_tokens = schema.metric, schema.max_new_tokens
        self._max_pixels = max_pixels
        self._rows = ParquetRows(files, list(filter(None, ("question", "image", schema.answers, schema.id))))

    @property
    def size(self) -> int:
        return len(self._rows)

    def questions(self, seed: int, first: int, count: int) -> Iterator[Question]:
        order = page_order(self.size, seed)
        return (self._question(order[index]) for index in range(first, min(first + count, self.size)))

    def _question(self, row: int) -> Question:
        file, values = self._rows.row(row)
        where, schema = f"{file}, row {row}", self.schema
        text = values["question"]
        if not isinstance(text, str) or not text.strip():
            raise InvalidDataset(f"{where}: column 'question' must be a text, not {text!r:.80}", param="dataset")
        picture = picture_of(values, where, max_pixels=self._max_pixels)
        answers = _answers(values[schema.answers], f"{where}: column {schema.answers!r}")
        return Question(str(values.get(schema.id, row)), f"{text}{schema.suffix}", (picture,), answers)


def _answers(value: Any, where: str) -> tuple[str, ...]:
    answers = [value] if isinstance(value, str) else value
    if not isinstance(answers, list) or not answers or not all(isinstance(one, str) for one in answers):
        raise InvalidDataset(f"{where} must hold right answers, not {value!r:.80}", param="dataset")
    return tuple(answers)


def _schema(file: Path, columns: Sequence[str]) -> Schema:
    for schema in SCHEMAS:
        if schema.columns <= set(columns):
            return schema
    raise InvalidDataset(
        f"{file.name}: has the columns of none of {', '.join(one.name for one in SCHEMAS)}: {', '.join(columns)}",
        param="dataset",
    )


def _cached(repo: str) -> Path:
    """Find the newest snapshot of a dataset in the local Hub cache. Fetches nothing."""
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(repo, repo_type="dataset", local_files_only=True))
    except ImportError as error:
        raise DatasetUnavailable("dataset: the Hub cache needs huggingface_hub, which is not here") from error
    except Exception as error:  # of several kinds: the cache does not have it
        raise DatasetUnavailable(f"dataset: {repo!r} is not in the local Hub cache", param="dataset") from error
