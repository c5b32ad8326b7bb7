"""Map files: everything comes back, and what is wrong is named."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import headmap
from headmap.errors import HeadmapError, InvalidParameter, InvalidScores
from headmap.head_scores import HeadScores
from headmap.map_kinds import MAP_KINDS
from headmap.registry.map_file import MapFile, add_map_file, find_map_file, parse_map_file, read_map_file
from headmap.registry.maps import Provenance, get_map
from headmap.registry.session import Database
from headmap.settings import DEMO_MODEL
from tests.shared.jobs import steps

NAMES = st.text(st.characters(exclude_categories=("C", "Zl", "Zp")), min_size=1, max_size=32)
COUNTS = st.integers(0, 2**31 - 1)
IDS = st.text("0123456789abcdef", min_size=32, max_size=32)
TIMES = st.datetimes(datetime(2020, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))
PROVENANCES = st.builds(
    Provenance,
    model=NAMES,
    revision=st.none() | NAMES,
    architecture=st.none() | NAMES,
    kind=st.sampled_from(MAP_KINDS),
    dataset=NAMES,
    pages=st.none() | COUNTS,
    hits=st.none() | st.integers(0, 2**63 - 1),
    tokens_seen=st.none() | COUNTS,
    tokens_matched=st.none() | COUNTS,
    halves_top5pct_overlap=st.none() | st.floats(0, 1),
    halves_spearman=st.none() | st.floats(-1, 1),
    rule=st.none() | NAMES,
    seed=st.none() | st.integers(0, 2**63 - 1),
    max_new_tokens=st.none() | st.integers(1, 2**31 - 1),
    dataset_checksum=st.none() | NAMES,
    origin_map_id=IDS,
    origin_version=st.integers(1, 2**31 - 1),
    origin_created_at=TIMES,
    origin_repo=st.none() | NAMES,
)


@st.composite
def map_files(draw: st.DrawFn) -> MapFile:
    layers, kv_heads, group = (draw(st.integers(1, 3)) for _ in range(3))
    shape, seed = (layers, kv_heads * group), draw(st.integers(0, 2**32))
    numbers = np.random.default_rng(seed)
    return MapFile(
        draw(PROVENANCES),
        HeadScores(numbers.exponential(size=shape) ** 3, kv_heads),
        draw(st.sampled_from([None, numbers.random(shape)])),
        draw(NAMES),
        tuple(draw(st.lists(NAMES, max_size=3))),
        draw(st.none() | NAMES),
    )


@given(file=map_files())
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_file_comes_back_to_the_byte_through_a_registry(database: Database, file: MapFile) -> None:
    text = file.text()
    with database.write() as session:
        map_id = add_map_file(session, parse_map_file(json.loads(text)), promote="auto", by=None)
        assert read_map_file(session, map_id).text() == text
        record = get_map(session, map_id)
    assert (record.id, record.job_id) != (file.provenance.origin_map_id, None)
    assert (record.checksum, record.tags) == (file.scores.checksum(), list(file.tags))


def test_a_negative_zero_comes_back_to_the_byte(database: Database) -> None:
    file = profiled(database)
    file = replace(file, provenance=replace(file.provenance, halves_spearman=-0.0))
    with database.write() as session:
        map_id = add_map_file(session, parse_map_file(json.loads(file.text())), promote="auto", by=None)
        assert read_map_file(session, map_id).text() == file.text()


def profiled(database: Database) -> MapFile:
    job = steps.make_job(database)
    for number in range(steps.SHARDS):
        steps.finish(database, steps.held(database, job, number))
    with database.read() as session:
        return read_map_file(session, steps.read_job(database, job).map_id or "")


def test_a_profiles_file_tells_all_that_is_known_and_where_it_was_made(database: Database) -> None:
    file = profiled(database)
    known = json.loads(file.text())
    unknown = {name for name, value in known.items() if value is None}
    assert unknown <= {"notes", "origin_repo", "dataset_checksum", "halves_top5pct_overlap", "halves_spearman"}
    assert (known["origin_version"], known["code_version"]) == (1, headmap.__version__)
    assert np.array(known["standard_errors"]).shape == file.scores.matrix.shape


def test_a_bare_map_has_pages_of_unknown_number(database: Database) -> None:
    bare = {"model": "m", "num_kv_heads": 1, "scores": {"0-0": [1, 3], "0-1": 6}}
    with database.write() as session:
        record = get_map(session, add_map_file(session, parse_map_file(bare), promote=False, by=None))
    assert (record.pages, record.dataset, record.origin_map_id) == (None, "import", None)
    assert record.kind == "visual"


GOOD: dict[str, Any] = {"model": "a/b", "num_kv_heads": 1, "scores": {"0-0": 1, "0-1": 2}}


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"checksum": "0" * 64}, "checksum: the scores have"),
        ({"checksum": "abc"}, "checksum: "),
        ({"name": "x"}, "name: unknown field"),
        ({"model": None}, "model: "),
        ({"kind": "audio"}, "kind: "),
        ({"pages": "many"}, "pages: "),
        ({"pages": -1}, "pages: "),
        ({"pages": 2**31}, "pages: "),
        ({"hits": 1.5}, "hits: "),
        ({"seed": True}, "seed: "),
        ({"halves_spearman": 1.1}, "halves_spearman: "),
        ({"tags": "prod"}, "tags: "),
        ({"tags": ["a", ""]}, "tags.1: "),
        ({"notes": "a\x00"}, "notes: "),
        ({"revision": "a\ufffe"}, "revision: "),
        ({"origin_map_id": "nope"}, "origin_map_id: "),
        ({"origin_created_at": "yesterday"}, "origin_created_at: "),
        ({"origin_created_at": "2026-11-29T12:00:00"}, "origin_created_at: "),
        ({"origin_created_at": 5}, "origin_created_at: "),
        ({"origin_created_at": "0001-01-01T00:00:00+23:00"}, "origin_created_at: "),
        ({"standard_errors": [[1, 2], [3, 4]]}, "standard_errors: must be 1 lists"),
        ({"standard_errors": [[1]]}, r"standard_errors\[0\]"),
        ({"standard_errors": [[1, -1]]}, r"standard_errors\[0\]"),
        ({"standard_errors": [[1, float("nan")]]}, r"standard_errors\[0\]"),
        ({"standard_errors": [[1, "2"]]}, r"standard_errors\[0\]"),
        ({"standard_errors": ["12"]}, r"standard_errors\[0\]"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidParameter, match=f"^{named}"):
        parse_map_file(GOOD | fields)


@pytest.mark.parametrize("body", [None, 3, [], "text", {}])
def test_what_is_no_map_file_is_refused(body: object) -> None:
    with pytest.raises(HeadmapError):
        parse_map_file(body)


def test_scores_that_are_none_name_the_head() -> None:
    with pytest.raises(InvalidScores, match="0-1"):
        parse_map_file(GOOD | {"scores": {"0-0": 1, "0-1": -2}})


def test_a_map_is_found_by_its_file_where_it_was_made_and_where_it_was_filed(database: Database) -> None:
    file = profiled(database)
    elsewhere = replace(file, provenance=replace(file.provenance, origin_map_id="1" * 32, origin_repo="a/b@c"))
    with database.write() as session:
        assert find_map_file(session, file) == file.provenance.origin_map_id
        assert find_map_file(session, elsewhere) is None
        filed = add_map_file(session, elsewhere, promote=False, by=None)
        assert find_map_file(session, replace(elsewhere, tags=("other",), notes="n")) == filed
        other = replace(elsewhere, provenance=replace(elsewhere.provenance, pages=1))
        assert find_map_file(session, other) is None


@pytest.mark.parametrize(("model", "name"), [(DEMO_MODEL, "headmap-demo-ocr-v3.json"), ("../..", "map-v3.json")])
def test_a_file_has_a_name_that_every_disk_takes(model: str, name: str) -> None:
    provenance = Provenance(model=model, revision=None, architecture=None, dataset="d", origin_version=3)
    assert MapFile(provenance, HeadScores(np.ones((1, 1)), 1)).name == name
