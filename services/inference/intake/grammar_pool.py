"""The server's side of making grammars: each is tried in a helper process before it is compiled here."""

from __future__ import annotations

import asyncio
import json
import logging
from functools import partial

from headmap.engine.sampling.grammar import Grammar
from headmap.engine.sampling.grammar_forms import check_size
from headmap.errors import InvalidParameter, Unavailable
from headmap.http.receiving import RequestBytes
from headmap.settings import Settings
from services.inference.asked import AnswerForm
from services.inference.intake import grammar_process
from services.inference.intake.helper import Helper
from services.inference.intake.helper_pool import HelperPool
from services.inference.served_model import OpenedModel

logger = logging.getLogger(__name__)

_PROCESSES = 2
"""So a caller has one at a time, and one is left."""


class GrammarPool:
    """Processes that try grammars, each started when it is first needed."""

    def __init__(self, settings: Settings) -> None:
        self._seconds = settings.grammar_seconds
        self.pool = HelperPool([Helper(grammar_process) for _ in range(_PROCESSES)])

    async def make(self, name: str, model: OpenedModel, form: AnswerForm, held: RequestBytes) -> Grammar:
        """The grammar of `form`, for the model called `name`.

        Raises InvalidParameter, also where the grammar is not compiled within `settings.grammar_seconds`, or compiling
        it ends the process; and ShuttingDown. Cancelled, it ends the process that is at work.
        """
        check_size(form.value, form.field)
        async with self.pool.job(held.caller) as job:
            await job.do(partial(_begin, name=name, model=model))
            try:
                async with asyncio.timeout(self._seconds):
                    described = await job.do(partial(_try, name=name, form=form))
            except TimeoutError as error:
                raise InvalidParameter(
                    f"{form.field}: its grammar is not compiled within {self._seconds:g} seconds", param=form.field
                ) from error
            # It took no longer than that a moment ago. The lock is let go meanwhile.
            return await job.do(lambda _: model.grammars.described(described, form.field))

    def close(self) -> None:
        """End all processes, at work or not."""
        self.pool.close()


def _begin(helper: Helper, name: str, model: OpenedModel) -> None:
    """Tell a process the model's vocabulary once."""
    helper.begin()
    if name in helper.told:
        return
    pieces = model.vocabulary.pieces
    head = {
        "model": name,
        "eos": sorted(model.eos_token_ids),
        "controls": model.vocabulary.controls,
        "lengths": list(map(len, pieces)),
    }
    try:
        helper.send(head, b"".join(pieces))
        helper.channel.receive()
        helper.answered()
    except (EOFError, OSError) as error:
        code = helper.lost(error)
        raise Unavailable(f"the process that tries grammars ended ({code})") from error
    helper.told.add(name)


def _try(helper: Helper, name: str, form: AnswerForm) -> str:
    """What describes a grammar that compiles."""
    try:
        head = {"model": name, "kind": form.kind, "field": form.field}
        helper.send(head, json.dumps(form.value).encode())
        answer, described = helper.channel.receive()
    except (EOFError, OSError) as error:
        code = helper.lost(error)
        if code is not None:
            logger.warning("the process that tried a grammar ended with %s", code)
        raise InvalidParameter(f"{form.field}: compiling its grammar fails ({code})", param=form.field) from error
    helper.answered()
    if "detail" in answer:
        raise InvalidParameter(answer["detail"], param=form.field)
    return described.decode()
