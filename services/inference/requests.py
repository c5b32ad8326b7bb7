"""One request on its way to an engine: what a route asks, and what an engine can run."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from headmap.budgets import Allocation
from headmap.engine.messages import EngineRequest, Finished
from headmap.engine.sampling.params import SamplingParams
from headmap.families.base import PreparedPrompt, VisualTokens
from headmap.head_scores import HeadScores
from headmap.kvcache.plan import KVRequest
from headmap.models import ModelInfo
from services.inference.http.schemas.kv import KeptInPicture, KeptTokensBody, KVBody, KVDetails, SessionDetails
from services.inference.http.schemas.tgi import Details, Timings
from services.inference.intake.conversation import Conversation
from services.inference.maps import MapBook
from services.inference.served_model import OpenedModel


@dataclass(frozen=True)
class ServedModel:
    info: ModelInfo
    opened: OpenedModel
    maps: MapBook


@dataclass(frozen=True)
class SamplingAsk:
    """Sampling as a request has it; None means the default, for `do_sample` that temperature, top_p or top_k decide."""

    max_new_tokens: int | None = None
    do_sample: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    stop: Sequence[str] = ()
    ignore_eos: bool = False
    top_logprobs: int | None = None


@dataclass(frozen=True)
class AnswerForm:
    """The form that an answer must have; `field` is where the request says so."""

    kind: Literal["json_schema", "regex"]
    value: Any
    field: str


@dataclass(frozen=True)
class Ask:
    """What a route asks of a model. session: the conversation's name, and `caller` whose it is. watched: a layer and a
    KV head."""

    prompt: Conversation | str
    sampling: SamplingAsk
    kv: KVBody | None = None
    form: AnswerForm | None = None
    session: str | None = None
    caller: str | None = None
    watched: tuple[int, int] | None = None


@dataclass(frozen=True)
class KVChoice:
    """What of the cache is kept and by which map; `method` is the one that runs."""

    request: KVRequest
    scores: HeadScores | None = None
    map_id: str | None = None
    match: Literal["exact", "revision", "none"] | None = None

    @property
    def allocation(self) -> Allocation:
        return self.request.allocation


@dataclass(frozen=True)
class ReadyRequest:
    """A request that an engine can run."""

    served: ServedModel
    engine_request: EngineRequest
    kv: KVChoice

    @property
    def prompt(self) -> PreparedPrompt:
        return self.engine_request.prompt

    @property
    def sampling(self) -> SamplingParams:
        return self.engine_request.sampling

    def choice(self, number: int) -> ReadyRequest:
        """The same request once more, with a seed of its own; the first is this one."""
        if number == 0:
            return self
        sampling = replace(self.sampling, seed=(self.sampling.seed + number) % 2**63)
        return replace(self, engine_request=replace(self.engine_request, id=uuid.uuid4().hex, sampling=sampling))

    def kv_details(self, finished: Finished) -> KVDetails:
        return KVDetails(
            method=self.kv.request.method,
            budget=finished.budget,
            allocation=self.kv.allocation,
            map_id=self.kv.map_id,
            map_match=self.kv.match,
            kept_tokens=finished.kept_tokens,
            full_tokens=finished.full_tokens,
            bytes=finished.kv_bytes,
            full_bytes=finished.kv_full_bytes,
        )

    def kept(self, finished: Finished) -> KeptTokensBody | None:
        """What the watched head keeps; None where none was asked for."""
        if self.engine_request.watched is None:
            return None
        layer_idx, kv_head = self.engine_request.watched
        pictures = zip(self.prompt.images, self.prompt.image_starts, strict=True)
        return KeptTokensBody(
            layer=layer_idx,
            kv_head=kv_head,
            positions=list(finished.kept_positions),
            pictures=[kept_in_picture(image, start, finished.kept_positions) for image, start in pictures],
        )

    def session_details(self, finished: Finished) -> SessionDetails | None:
        """None where the request named no session."""
        if self.engine_request.session is None:
            return None
        return SessionDetails(
            hit=finished.reused_tokens > 0, reused_tokens=finished.reused_tokens, kept=finished.session_kept
        )

    def details(self, finished: Finished, **more: Any) -> Details:
        return Details.model_validate(
            {
                "finish_reason": finished.finish_reason,
                "generated_tokens": len(finished.token_ids),
                "prompt_tokens": self.prompt.prompt_tokens,
                "image_tokens": self.prompt.image_tokens,
                "seed": self.sampling.seed,
                "kv": self.kv_details(finished),
                "kept": self.kept(finished),
                "timings": Timings(
                    queue_ms=round(finished.queue_ms, 3),
                    prefill_ms=round(finished.prefill_ms, 3),
                    decode_ms_per_token=round(finished.decode_ms_per_token, 3),
                ),
                **more,
            }
        )


def kept_in_picture(image: VisualTokens, start: int, positions: Sequence[int]) -> KeptInPicture:
    """`start`: the index in the prompt of the picture's first token; `positions`: those of the tokens kept."""
    kept = np.isin(start + image.grid, positions)
    own = sum(start <= position < start + image.count for position in positions)
    return KeptInPicture(
        start=start, tokens=image.count, kept_tokens=own, x=image.x.borders, y=image.y.borders, cells=kept.tolist()
    )
