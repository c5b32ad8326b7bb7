"""The bundled model's own map: it fits the shipped weights, and stands in each registry once, behind users' maps."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from headmap.head_scores import HeadScores
from headmap.models import find_model
from headmap.registry import maps
from headmap.registry.aliases import nobody_chose
from headmap.registry.bundled import file_bundled_map, prepare_registry, read_bundled_map
from headmap.registry.map_file import MapFile
from headmap.registry.session import Database, open_database
from headmap.settings import DEMO_MODEL, Settings

REVISION = find_model(DEMO_MODEL, Settings(models=())).revision


def filed(database: Database) -> dict[int, tuple[str, ...]]:
    """The aliases of each version."""
    with database.read() as session:
        return {record.version: record.aliases for record in maps.list_maps(session, model=DEMO_MODEL).items}


def add(database: Database, revision: str | None = REVISION, *, profiled: bool = False) -> None:
    """A profile's map as `headmap.jobs.fold` files it, or an import's."""
    provenance = maps.Provenance(model=DEMO_MODEL, revision=revision, architecture=None, dataset="test")
    with database.write() as session:
        promote = nobody_chose(session, DEMO_MODEL) if profiled else "auto"
        maps.add_map(session, provenance, HeadScores(np.ones((6, 6)), 3), promote=promote, by="job 1")


def of_another_package() -> MapFile:
    """The map that a package with other weights brings."""
    ours = read_bundled_map()
    scores = HeadScores(np.ones_like(ours.scores.matrix), ours.scores.num_kv_heads)
    return replace(ours, provenance=replace(ours.provenance, revision="sha256:another"), scores=scores)


def test_it_is_a_map_of_the_weights_that_are_shipped() -> None:
    info, ours = find_model(DEMO_MODEL, Settings(models=())), read_bundled_map()
    assert (ours.provenance.model, ours.provenance.revision) == (DEMO_MODEL, info.revision)
    assert ours.scores.matrix.shape == ours.standard_errors.shape == (info.num_layers, info.num_heads)
    assert ours.scores.num_kv_heads == info.num_kv_heads
    assert (ours.provenance.rule, ours.provenance.job_id) == ("aligned", None)
    assert (ours.provenance.pages or 0) >= 200


def test_it_comes_back_from_its_file_to_the_bit(tmp_path: Path) -> None:
    ours = read_bundled_map()
    (tmp_path / "map.json").write_text(ours.text())
    again = read_bundled_map(tmp_path / "map.json")
    assert again.provenance == ours.provenance
    assert again.scores.checksum() == ours.scores.checksum()
    assert np.array_equal(again.standard_errors, ours.standard_errors)


def test_an_empty_registry_gets_it_once_and_serves_it_as_exact(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    prepare_registry(settings)
    prepare_registry(settings)
    database = open_database(settings)
    with database.read() as session:
        record, match = maps.resolve_map(session, DEMO_MODEL, REVISION)
        errors = maps.get_standard_errors(session, record.id)
        scores = maps.get_scores(session, record.id)
    assert (match, record.version, record.aliases) == ("exact", 1, ("bundled", "default"))
    assert scores.checksum() == read_bundled_map().scores.checksum()
    assert np.array_equal(errors, read_bundled_map().standard_errors)
    assert filed(database) == {1: ("bundled", "default")}
    database.close()


def test_many_at_once_file_one(database: Database, settings: Settings) -> None:
    others = [open_database(settings) for _ in range(8)]
    with ThreadPoolExecutor(len(others)) as pool:
        list(pool.map(file_bundled_map, others))
    for other in others:
        other.close()
    assert filed(database) == {1: ("bundled", "default")}


def test_a_registry_with_a_map_of_the_model_stays_as_it_is(database: Database) -> None:
    add(database)
    file_bundled_map(database)
    assert filed(database) == {1: ("default",)}


def test_a_profile_takes_default_and_keeps_it(database: Database) -> None:
    file_bundled_map(database)
    add(database, profiled=True)
    file_bundled_map(database)
    assert filed(database) == {1: ("bundled",), 2: ("default",)}


def test_an_import_does_not_take_default_but_can_be_given_it(database: Database) -> None:
    file_bundled_map(database)
    add(database, revision=None)
    assert filed(database) == {1: ("bundled", "default"), 2: ()}
    with database.write() as session:
        imported = maps.list_maps(session, model=DEMO_MODEL).items[0]
        maps.set_alias(session, imported.id, "default", by=None)
        assert maps.resolve_map(session, DEMO_MODEL, REVISION)[0].id == imported.id


def test_another_package_brings_its_own(database: Database) -> None:
    file_bundled_map(database)
    for _ in range(2):
        file_bundled_map(database, of_another_package())
    assert filed(database) == {1: (), 2: ("bundled", "default")}
    with database.read() as session:
        assert maps.resolve_map(session, DEMO_MODEL)[0].revision == "sha256:another"


def test_an_earlier_package_beside_a_later_one_changes_nothing(database: Database) -> None:
    file_bundled_map(database)
    file_bundled_map(database, of_another_package())
    file_bundled_map(database)
    assert filed(database) == {1: (), 2: ("bundled", "default")}


def test_another_package_leaves_default_to_a_profile(database: Database) -> None:
    file_bundled_map(database)
    add(database, profiled=True)
    file_bundled_map(database, of_another_package())
    assert filed(database) == {1: (), 2: ("default",), 3: ("bundled",)}
