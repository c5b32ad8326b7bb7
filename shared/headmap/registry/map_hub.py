"""Maps as repositories of the Hugging Face Hub: the map file, its SHA-256 as `sha256sum -c` reads it, and a card.

HF_ENDPOINT names another Hub, and HF_TOKEN the token; without it the one of `hf auth login` is used. Needs
huggingface_hub, of the extra `model`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, hf_hub_url
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from headmap.errors import HubRefused, HubUnavailable, InvalidParameter, RepoNotFound
from headmap.models import HEAD_MAP
from headmap.registry.map_card import CARD, is_card, write_card
from headmap.registry.map_file import MapFile, parse_map_file

CHECKSUM = f"{HEAD_MAP}.sha256"
MAIN = "main"

_MOST_BYTES = 32 * 2**20  # a file of 65,536 heads has 5 MB
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


@dataclass(frozen=True)
class Pushed:
    """Where a map was pushed. `card`: whether the card was written; a README.md of other origin stays."""

    repo: str
    revision: str
    commit: str
    url: str
    card: bool


def split_repo(name: str) -> tuple[str, str]:
    """Split REPO[@REVISION]; the revision is `main` by default. Raises InvalidParameter."""
    repo, _, revision = name.partition("@")
    if not _HUB_ID.fullmatch(repo) or (not revision and "@" in name):
        raise InvalidParameter(f"repo: must be OWNER/NAME or OWNER/NAME@REVISION, got {name!r}", param="repo")
    return repo, revision or MAIN


def push_map(file: MapFile, name: str, *, private: bool) -> Pushed:
    """Commit a map to REPO[@BRANCH], and make what is not there yet.

    `private`: whether a repository that this call makes is private. Raises InvalidParameter for a bad name,
    RepoNotFound, HubRefused and HubUnavailable.
    """
    repo, branch = split_repo(name)
    content = file.text().encode()
    files = {HEAD_MAP: content, CHECKSUM: f"{hashlib.sha256(content).hexdigest()}  {HEAD_MAP}\n".encode()}
    api = _api()
    with _translated(name):
        if not api.repo_exists(repo):  # who may write to one need not be one who may make others
            api.create_repo(repo, private=private, exist_ok=True)
        if branch != MAIN:
            api.create_branch(repo, branch=branch, exist_ok=True)
        card = _read(api, repo, branch, CARD)
        ours = card is None or is_card(card[0])
        if ours:
            files[CARD] = write_card(file, repo).encode()
        done = api.create_commit(
            repo,
            [CommitOperationAdd(path, value) for path, value in files.items()],
            commit_message=f"Head map of {file.model}, version {file.provenance.origin_version}",
            revision=branch,
        )
    return Pushed(repo, branch, done.oid, str(done.commit_url), ours)


def pull_map(name: str) -> MapFile:
    """Read the map of REPO[@REVISION]. Its `origin_repo` is REPO@COMMIT.

    Raises InvalidParameter for a bad name, a wrong checksum or a file that is no map, InvalidScores, RepoNotFound,
    HubRefused and HubUnavailable.
    """
    repo, revision = split_repo(name)
    api = _api()
    with _translated(name):
        found = _read(api, repo, revision, HEAD_MAP)
        if found is None:
            raise RepoNotFound(f"repo: {name!r} has no {HEAD_MAP}, so there is no map in it", param="repo")
        content, commit = found
        told = _read(api, repo, commit, CHECKSUM)
    if told is None:
        raise RepoNotFound(f"repo: {name!r} has no {CHECKSUM}, so its map cannot be checked", param="repo")
    digest = hashlib.sha256(content).hexdigest()
    if told[0].split()[:1] != [digest.encode()]:
        raise InvalidParameter(
            f"checksum: {HEAD_MAP} of {name!r} has {digest}, and {CHECKSUM} tells another; it was damaged or changed",
            param="checksum",
        )
    try:
        body = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InvalidParameter(f"{HEAD_MAP}: {name!r} has one that is not JSON", param=HEAD_MAP) from error
    file = parse_map_file(body)
    return replace(file, provenance=replace(file.provenance, origin_repo=f"{repo}@{commit}"))


def _api() -> HfApi:
    return HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None, token=os.environ.get("HF_TOKEN") or None)


def _read(api: HfApi, repo: str, revision: str, path: str) -> tuple[bytes, str] | None:
    """A file's content and its commit; None if the repository has no such file. It leaves nothing in the Hub's cache.

    The size is known before anything is fetched.
    """
    try:
        about = api.get_hf_file_metadata(url=hf_hub_url(repo, path, revision=revision, endpoint=api.endpoint))
    except EntryNotFoundError:
        return None
    if (about.size or 0) > _MOST_BYTES:
        raise InvalidParameter(f"{path}: {repo!r} has one of {about.size} bytes; {_MOST_BYTES} may be", param=path)
    commit = about.commit_hash or revision
    with tempfile.TemporaryDirectory() as folder:
        file = api.hf_hub_download(repo, path, revision=commit, cache_dir=folder)
        return Path(file).read_bytes(), commit


@contextmanager
def _translated(name: str) -> Iterator[None]:
    """The client's errors as ours, each in one line."""
    try:
        yield
    except HFValidationError as error:
        raise InvalidParameter(f"repo: {name!r} is no repository's name: {error}", param="repo") from error
    except RevisionNotFoundError as error:
        raise RepoNotFound(f"repo: {name!r} has no such revision", param="repo") from error
    except RepositoryNotFoundError as error:
        raise RepoNotFound(
            f"repo: the Hub has no {name!r}, or hides it; HF_TOKEN must be the token of somebody who may read it",
            param="repo",
        ) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise HubRefused(
                f"repo: the Hub refuses {name!r} (status {status}); HF_TOKEN must be a token that may write there",
                param="repo",
            ) from error
        raise HubUnavailable(f"the Hub answers {name!r} with status {status}") from error
    except ValueError as error:  # so the client says that the Hub does not like a card
        raise HubRefused(f"repo: the Hub does not take the files of {name!r}: {error}", param="repo") from error
    except OSError as error:
        raise _away(error) from error
    except Exception as error:
        # The client's transport errors have no class of the client's own.
        if type(error).__module__.split(".")[0] not in ("httpx", "httpx2", "requests"):
            raise
        raise _away(error) from error


def _away(error: Exception) -> HubUnavailable:
    where = os.environ.get("HF_ENDPOINT") or "the Hub"
    return HubUnavailable(f"{where} does not answer: {type(error).__name__}")
