"""Whether a finished profile takes `default`: what the request wished, and what it may not take from anybody."""

from __future__ import annotations

from dataclasses import replace

import pytest

from headmap.registry import maps
from headmap.registry.aliases import PACKAGE, Promote
from headmap.registry.maps import Provenance
from headmap.registry.session import Database
from tests.shared.jobs import steps
from tests.shared.jobs.fakes import INFO


def profiled(database: Database, promote: Promote = "auto", *, force: bool = True) -> str:
    """The map of a profile that ran to its end."""
    job = steps.make_job(database, params=replace(steps.PARAMS, promote=promote), force=force)
    for number in range(steps.SHARDS):
        found = steps.lease(database, job, number)
        if found is not None:
            steps.finish(database, found)
    map_id = steps.read_job(database, job).map_id
    if map_id is None:
        raise LookupError(f"job {job} made no map")
    return map_id


def imported(database: Database, *, promote: Promote = "auto", by: str | None = None) -> str:
    with database.write() as session:
        scores = maps.get_scores(session, profiled_scores(database))
        provenance = Provenance(model=INFO.name, revision=None, architecture=None, dataset="import")
        return maps.add_map(session, provenance, scores, promote=promote, by=by)


def profiled_scores(database: Database) -> str:
    """Any map of the model's shape; one that has no alias."""
    with database.read() as session:
        known = maps.list_maps(session, model=INFO.name).items
    return known[0].id if known else profiled(database, False)


def served(database: Database) -> str | None:
    with database.read() as session:
        found = [one.id for one in maps.list_maps(session, model=INFO.name).items if "default" in one.aliases]
    return found[0] if found else None


def test_the_first_profile_is_served_and_no_later_one_takes_its_place(database: Database) -> None:
    first = profiled(database)
    profiled(database)
    assert served(database) == first


def test_a_profile_does_not_replace_what_somebody_set(database: Database) -> None:
    chosen = imported(database, promote=True, by="key ops")
    profiled(database)
    assert served(database) == chosen


def test_a_profile_replaces_what_only_the_package_set(database: Database) -> None:
    imported(database, promote=True, by=PACKAGE)
    ours = profiled(database)
    assert served(database) == ours


@pytest.mark.parametrize("promote", [True, False])
def test_a_wish_is_followed(database: Database, promote: bool) -> None:
    first = profiled(database)
    second = profiled(database, promote)
    assert served(database) == (second if promote else first)


def test_promote_false_leaves_a_model_without_default(database: Database) -> None:
    profiled(database, False)
    assert served(database) is None


def test_an_equal_request_with_promote_true_serves_the_map_that_is_there(database: Database) -> None:
    first = profiled(database, False, force=False)
    assert profiled(database, True, force=False) == first
    assert served(database) == first


def test_an_equal_request_with_promote_true_counts_while_the_job_runs(database: Database) -> None:
    profiled(database)
    params = replace(steps.PARAMS, seed=1)
    job = steps.make_job(database, params=params, force=False)
    assert steps.make_job(database, params=replace(params, promote=True), force=False) == job
    for number in range(steps.SHARDS):
        steps.finish(database, steps.held(database, job, number))
    assert served(database) == steps.read_job(database, job).map_id


def test_a_profile_of_text_retrieval_files_its_kind_and_leaves_default(database: Database) -> None:
    imported(database, promote=True, by=PACKAGE)
    before = served(database)
    params = replace(steps.PARAMS, map_kind="text-retrieval")
    job = steps.make_job(database, params=params, force=False)
    for number in range(steps.SHARDS):
        found = steps.held(database, job, number)
        assert found.spec.parameters["kind"] == "text-retrieval"
        steps.finish(database, found)
    made = steps.read_job(database, job)
    with database.read() as session:
        assert maps.get_map(session, made.map_id or "").kind == made.params.map_kind == "text-retrieval"
    assert served(database) == before


def test_a_deleted_map_is_made_again_by_an_equal_request(database: Database) -> None:
    first = profiled(database, False, force=False)
    with database.write() as session:
        maps.delete_map(session, first)
    assert profiled(database, False, force=False) != first
