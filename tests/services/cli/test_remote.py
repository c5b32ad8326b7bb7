"""Commands that work on a cluster over HTTP print what they print on its registry, and a failure is one line."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from typer.testing import Result

from headmap.keys import Scope
from headmap.registry.job_params import EVALUATION, PROFILE
from headmap.registry.jobs import list_jobs
from headmap.registry.keys import create_key
from headmap.registry.tables import JobState
from headmap.settings import DEMO_MODEL, Settings
from services.cli.remote import calls
from services.embedded.app import create_app
from tests.live import live, wait_for
from tests.services.cli.test_commands import refused, run
from tests.services.inference.fakes import FakeModels
from tests.services.scoring.work import finish
from tests.shared.datasets.archives import as_zip, files, write_folder
from tests.shared.jobs.fakes import CountingBroker

SCORES = {f"{layer}-{head}": [layer * 4 + head + 1.5] for layer in range(3) for head in range(4)}
PICTURE = Path(__file__).parents[3] / "shared" / "headmap" / "demo" / "samples" / "0000.png"


class Cluster:
    """One live application, and its registry on this machine."""

    def __init__(self, url: str, app: FastAPI, data_dir: Path) -> None:
        self.url, self.app, self.data_dir = url, app, data_dir

    def there(self, *words: object) -> Result:
        return run("--url", self.url, *words)

    def here(self, *words: object) -> Result:
        return run(*words, "--data-dir", self.data_dir)


@pytest.fixture
def cluster(tmp_path: Path, migrated: Callable[[Settings], None], monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    settings = Settings(data_dir=tmp_path / "data", key_refresh_seconds=1e-9, shard_pages=4)
    migrated(settings)
    app = create_app(settings, open_model=FakeModels(), broker=CountingBroker())
    monkeypatch.setenv("HEADMAP_DATA_DIR", str(tmp_path / "own"))
    for name in ("HEADMAP_URL", "HEADMAP_KEY", "HEADMAP_KEY_FILE"):
        monkeypatch.delenv(name, raising=False)
    with live(app, settings) as url:
        yield Cluster(url, app, settings.data_dir)


@pytest.fixture
def maps(cluster: Cluster, tmp_path: Path) -> list[str]:
    """Two maps of a model, imported over HTTP; the first is `stable`."""
    found = []
    for number in (1, 2):
        file = tmp_path / "map.json"
        file.write_text(json.dumps({**SCORES, "0-0": [number]}))
        done = cluster.there("maps", "import", file, "--model", "some/model", "--num-kv-heads", 2)
        assert done.exit_code == 0, done.output
        found.append(done.stdout.strip())
    assert cluster.there("maps", "alias", found[0][:8], "stable").exit_code == 0
    return found


def without_who(text: str) -> str:
    """The names of callers left out: over HTTP it is the key, here the user."""
    return re.sub(r'cli \w+|anyone|null|"id": \S+', "", text)


def test_what_is_read_there_is_what_is_read_here(cluster: Cluster, maps: list[str], tmp_path: Path) -> None:
    first, second = maps
    cluster.there("policies", "set", "some/model", "docs", "--ratio", 0.2, "--map", first[:8])
    cluster.there("datasets", "add", "mine", write_folder(tmp_path / "mine", files(3)))
    for words in (
        ("maps", "list", "--model", "some/model"),
        ("maps", "show", first[:8]),
        ("maps", "history", "some/model", "--alias", "stable"),
        ("maps", "diff", second, "stable"),
        ("maps", "diff", second, first[:8]),
        ("policies", "list"),
        ("policies", "show", "some/model", "docs"),
        ("policies", "history", "some/model", "docs"),
        ("datasets", "list"),
    ):
        there, here = cluster.there(*words, "--json"), cluster.here(*words, "--json")
        assert (there.exit_code, here.exit_code) == (0, 0), (words, there.output)
        assert without_who(there.stdout) == without_who(here.stdout), words
    assert cluster.there("maps", "show", first).stdout == cluster.here("maps", "show", first).stdout
    for name, place in (("there", cluster.there), ("here", cluster.here)):
        assert place("maps", "draw", first, "--out", tmp_path / f"{name}.svg").exit_code == 0
    assert (tmp_path / "there.svg").read_bytes() == (tmp_path / "here.svg").read_bytes()
    assert cluster.there("maps", "export", first).stdout == cluster.here("maps", "export", first).stdout


def test_what_is_written_there_is_in_its_registry(cluster: Cluster, maps: list[str], tmp_path: Path) -> None:
    first, second = maps
    moved = json.loads(cluster.there("maps", "alias", second, "stable", "--instead-of", first[:9], "--json").stdout)
    assert (moved["id"], moved["aliases"]) == (second, ["stable"])
    refused(cluster.there("maps", "alias", first, "stable", "--instead-of", first), 1, "stable")
    assert cluster.there("maps", "alias", second, "stable", "--delete").stdout == "stable of some/model is deleted\n"
    cluster.there("maps", "note", second, "--tag", "a", "--notes", "b")
    assert json.loads(cluster.here("maps", "show", second, "--json").stdout)["tags"] == ["a"]
    assert cluster.there("maps", "delete", second[:9]).stdout == f"{second} is deleted\n"
    assert second not in cluster.here("maps", "list").stdout

    cluster.there("policies", "set", "some/model", "docs", "--ratio", 0.2)
    refused(cluster.there("policies", "set", "some/model", "docs", "--ratio", 0.3, "--instead-of", 7), 1, "docs")
    assert cluster.there("policies", "delete", "some/model", "docs", "--instead-of", 1).exit_code == 0
    refused(cluster.there("policies", "show", "some/model", "docs"), 1, "docs")

    folder = write_folder(tmp_path / "mine", files(3))
    (folder / "else.txt").write_text("not of the dataset")
    archive = tmp_path / "mine.zip"
    archive.write_bytes(as_zip(files(3)))
    added = json.loads(cluster.there("datasets", "add", "mine", folder, "--json").stdout)
    assert (added["created"], added["pages"]) == (True, 3)
    again = json.loads(cluster.there("datasets", "add", "mine", archive, "--json").stdout)
    assert again == {**added, "created": False}
    assert cluster.there("datasets", "rm", "mine").stdout == "removed mine\n"


def score(cluster: Cluster, *options: object) -> Result:
    return cluster.there("score", DEMO_MODEL, "--pages", 10, *options)


def worker(cluster: Cluster, work: Callable[[Any, str], None], kind: str = PROFILE) -> threading.Thread:
    """Does `work` on the first job of this kind that comes."""

    def jobs() -> list[Any]:
        with cluster.app.state.scoring.database.read() as session:
            return list_jobs(session, kind, state=JobState.QUEUED).items

    def do() -> None:
        wait_for(lambda: bool(jobs()), 20)
        work(cluster.app.state.scoring.database, jobs()[0].id)

    thread = threading.Thread(target=do)
    thread.start()
    return thread


def test_a_profile_is_followed_to_its_map(cluster: Cluster) -> None:
    thread = worker(cluster, finish)
    done = score(cluster, "--json")
    thread.join()
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    shown = json.loads(cluster.here("maps", "show", told["id"], "--json").stdout)
    assert {name: shown[name] for name in told if name != "heatmap"} == {
        name: told[name] for name in told if name != "heatmap"
    }
    assert (told["model"], told["pages"]) == (DEMO_MODEL, 10)
    assert Path(told["heatmap"]).is_file()
    assert "10/10 pages" in " ".join(done.stderr.split())


EVALUATE = ("evaluate", DEMO_MODEL, "--dataset", "synthetic", "--questions", 9, "--methods", "snapkv")


def test_an_evaluation_is_followed_to_its_curve(cluster: Cluster, tmp_path: Path) -> None:
    thread = worker(cluster, finish, EVALUATION)
    rows, picture = tmp_path / "answers.jsonl", tmp_path / "curve.svg"
    own = ("--select", "snapkv", "--select", '{"window": 6, "pool": 3}')
    required = ("--require", "snapkv@0.1/window=6,pool=3 within 0.001")
    options = ("--ratios", "0.1", *own, "--answers", rows, "--plot", picture, *required)
    done = cluster.there(*EVALUATE, *options, "--json")
    thread.join()
    told = json.loads(done.stdout)
    assert (done.exit_code, told["passed"]) == (3, False), done.output
    with TestClient(cluster.app, base_url=cluster.url) as client:
        filed = client.get(f"/evaluations/{told['evaluation_id']}").json()
        assert rows.read_bytes() == client.get(f"/evaluations/{told['evaluation_id']}/answers").content
    assert told["points"] == filed["result"]["points"]
    assert told["recommended"] == filed["result"]["recommended"]
    assert picture.read_bytes().startswith(b"<?xml")
    assert "9/9 questions" in " ".join(done.stderr.split())
    assert "window=6" in cluster.there(*EVALUATE, "--ratios", "0.1", *own).stdout, "an equal one is not measured again"
    assert [point["select"] for point in told["points"]][1] == "snapkv"
    case = ("--method", "snapkv", "--ratio", "0.1", "--select", '{"window": 6, "pool": 3}')
    promote = ("policies", "promote", told["evaluation_id"], "docs")
    refused(cluster.there(*promote, "--json"), 1, "recommends nothing")
    refused(cluster.there(*promote, *case[:4]), 2, "select: missing")
    refused(cluster.there(*promote, *case, "--instead-of", 7), 1, "docs")
    there, here = cluster.there(*promote, *case, "--json"), cluster.here(*promote, *case, "--json")
    first, second = json.loads(there.stdout), json.loads(here.stdout)
    assert (first["version"], second["version"]) == (1, 2)
    assert first["kv"] == second["kv"]
    assert (first["kv"]["select"]["window"], first["evaluation_id"]) == (6, told["evaluation_id"])


def test_an_interrupted_evaluation_goes_on_or_is_cancelled(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(client: Any, job: Any) -> Iterator[Any]:
        yield job
        raise KeyboardInterrupt

    monkeypatch.setattr(calls, "follow_job", interrupted)
    left = cluster.there(*EVALUATE)
    assert (left.exit_code, left.stdout) == (130, "")
    assert f"goes on at {cluster.url}, and the same command follows it" in left.stderr
    ended = cluster.there(*EVALUATE, "--cancel-on-interrupt")
    assert ended.exit_code == 130
    assert ended.stderr.endswith("is cancelled\n")
    with TestClient(cluster.app, base_url=cluster.url) as client:
        assert [one["state"] for one in client.get("/evaluations").json()["items"]] == ["cancelled"]


def test_a_folder_of_pages_goes_along(cluster: Cluster, tmp_path: Path) -> None:
    thread = worker(cluster, finish)
    done = cluster.there("score", DEMO_MODEL, "--dataset", write_folder(tmp_path / "mine", files(3)), "--json")
    thread.join()
    assert json.loads(done.stdout)["dataset"] == "mine"


def test_an_interrupt_leaves_the_job_or_cancels_it(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(client: Any, job: Any) -> Iterator[Any]:
        yield job
        raise KeyboardInterrupt

    monkeypatch.setattr(calls, "follow_job", interrupted)
    left = score(cluster)
    assert (left.exit_code, left.stdout) == (130, "")
    job = re.search(r"job (\w{32}) goes on at (\S+), and the same command follows it\n$", left.stderr)
    assert job is not None
    assert job[2] == cluster.url
    with TestClient(cluster.app, base_url=cluster.url) as client:
        assert client.get(f"/score/{job[1]}").json()["state"] == "queued"
        again = score(cluster, "--cancel-on-interrupt")
        assert again.exit_code == 130
        assert again.stderr.endswith(f"interrupted; job {job[1]} is cancelled\n")
        assert client.get(f"/score/{job[1]}").json()["state"] == "cancelled"


def test_an_answer_comes_as_it_is_written(cluster: Cluster) -> None:
    ask = ("generate", DEMO_MODEL, "What?", "--image", PICTURE)
    plain = cluster.there(*ask)
    assert (plain.exit_code, plain.stdout) == (0, "It says ABC\n")
    assert plain.stderr.startswith("full: kept ")
    part = cluster.there(*ask, "--budget", 8, "--method", "snapkv")
    assert part.stderr.startswith("snapkv: kept ")
    told = json.loads(cluster.there(*ask, "--ratio", 0.5, "--json").stdout)
    assert (told["generated_text"], told["generated_tokens"], told["finish_reason"]) == ("It says ABC", 5, "eos_token")
    assert told["kv"]["method"] == "snapkv"  # sparsemm without a map
    refused(cluster.there(*ask, "--ratio", 0.5, "--map", "nope"), 1, "nope")
    refused(cluster.there("generate", "no/model", "What?", "--image", PICTURE), 1, "'no/model'")


def test_models_and_health(cluster: Cluster) -> None:
    (model,) = json.loads(cluster.there("models", "--json").stdout)
    assert (model["name"], model["num_heads"], model["folder"]) == (DEMO_MODEL, 6, None)
    assert DEMO_MODEL in cluster.there("models").stdout
    found = json.loads(cluster.there("doctor", "--json").stdout)
    assert (found["url"], found["serves"], found["services"][0]["status"]) == (cluster.url, True, "ok")
    assert "registry: ok" in cluster.there("doctor").stdout


def test_what_has_no_call_over_http_is_refused_in_a_line(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HEADMAP_URL", cluster.url)
    for words in (["keys", "list"], ["keys", "create", "x"], ["show-head", "d7d7", 0, 0]):
        refused(run(*words), 2, "not over HTTP", "HEADMAP_URL")
    refused(run("maps", "list", "--data-dir", tmp_path), 2, "--data-dir", "HEADMAP_URL")
    refused(run("doctor", DEMO_MODEL), 2, DEMO_MODEL)
    assert run("pages", "--count", 1, "--out", tmp_path / "pages").exit_code == 0


def test_a_key_is_asked_for_checked_and_never_shown(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with cluster.app.state.scoring.database.write() as session:
        key = create_key(session, "ci", scopes=frozenset({Scope.INFER}))[1]
    refused(cluster.there("maps", "list"), 1, "asks for an API key", "HEADMAP_KEY")
    monkeypatch.setenv("HEADMAP_KEY", "wrong")
    refused(cluster.there("maps", "list"), 1, "does not know your API key", "HEADMAP_KEY")
    monkeypatch.setenv("HEADMAP_KEY", key)
    assert cluster.there("maps", "list").exit_code == 0
    lacking = score(cluster)
    refused(lacking, 1, "scope score", "'ci' has infer", "HEADMAP_KEY")
    assert key not in lacking.output
    monkeypatch.delenv("HEADMAP_KEY")
    path = tmp_path / "key"
    path.write_text(f"{key}\n")
    monkeypatch.setenv("HEADMAP_KEY_FILE", str(path))
    path.chmod(0o640)
    refused(cluster.there("maps", "list"), 2, "HEADMAP_KEY_FILE", "chmod 600")
    path.chmod(0o600)
    assert cluster.there("maps", "list").exit_code == 0
