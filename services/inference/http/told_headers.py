"""Headers of an answer: the kept cache, and the ignored fields."""

from __future__ import annotations

import logging
from itertools import islice
from urllib.parse import quote

from pydantic import BaseModel

from headmap.engine.messages import Finished
from headmap.errors import InvalidParameter
from headmap.settings import Settings
from services.inference.bridge import Generation
from services.inference.http.kv_choice import HEADER, told_kv
from services.inference.http.schemas.fields import unknown_fields

logger = logging.getLogger(__name__)

IGNORED = "x-headmap-ignored"
_MOST = 16


def ignored_fields(body: BaseModel, settings: Settings) -> list[str]:
    """Some fields of messages and their parts that nobody knows. Raises InvalidParameter where the settings refuse
    them."""
    found = list(islice(unknown_fields(body), _MOST))
    if not found:
        return []
    if settings.unknown_fields == "refuse":
        raise InvalidParameter(f"{found[0]}: unknown field", param=found[0])
    logger.info("ignored unknown fields: %s", ", ".join(found))
    return found


def headers(generation: Generation, ignored: list[str], finished: Finished | None = None) -> dict[str, str]:
    """`finished`: the results, if the answer is whole."""
    told = {HEADER: told_kv(generation, finished)}
    if ignored:
        told[IGNORED] = ", ".join(quote(name, safe="._-[]$") for name in ignored)
    return told
