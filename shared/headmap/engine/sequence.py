"""One request in the engine, from submission to terminal event, and the checks it has to pass."""

from __future__ import annotations

import time
from bisect import bisect_right
from dataclasses import dataclass, field
from functools import partial

from headmap.engine.detokenizer import TextStream
from headmap.engine.messages import EngineRequest, Finished, OnEvent, Token
from headmap.engine.reuse.sessions import KeptSession
from headmap.engine.sampling.request_state import RequestState
from headmap.errors import PromptTooLong, RequestTooLarge
from headmap.families.base import PreparedPrompt
from headmap.families.loading import LoadedModel
from headmap.kvcache.plan import KeepPlan, KVRequest
from headmap.kvcache.planning import plan_cache
from headmap.kvcache.pool.paging import Paging
from headmap.kvcache.transformers.cache import RaggedCache
from headmap.kvcache.transformers.head_watch import HeadWatch
from headmap.kvcache.transformers.on_top import ParkedSequence
from headmap.kvcache.transformers.prefill import Prompt


@dataclass(eq=False)
class Sequence:
    """A request on its way. Times in seconds.

    If a session holds a part of the request's prompt, `prompt` and `plan` are about the rest. `tokens` stay when a
    sequence is preempted; it then waits again, and goes on from them.
    """

    request: EngineRequest
    on_event: OnEvent
    prompt_ids: list[int]
    session: KeptSession | None
    prompt: PreparedPrompt
    plan: KeepPlan
    state: RequestState
    stream: TextStream
    submitted: float
    most_tokens: int = 0
    """After so many it ends: all that were asked for, or all that the whole pool holds."""
    slot: int = -1
    ended: bool = False
    """Whether its terminal event was told."""
    tokens: list[int] = field(default_factory=list)
    alone: bool = False
    """Whether it is prefilled by itself: together with others the prefill failed."""
    session_kept: bool = False
    kept_tokens: int = 0
    kept_bytes: int = 0
    watch: HeadWatch | None = None
    prompt_logprobs: tuple[Token, ...] = ()
    queue_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0

    @property
    def id(self) -> str:
        return self.request.id

    @property
    def past(self) -> ParkedSequence | None:
        return None if self.session is None else self.session.parked

    @property
    def position(self) -> int:
        """The position of the last token, which the next step runs."""
        return self.request.prompt.next_position + len(self.tokens) - 1

    @property
    def room(self) -> int:
        """Generated tokens that need room when it starts: its tokens so far, at least one."""
        return max(1, len(self.tokens))

    def pages(self, paging: Paging, new_tokens: int) -> int:
        """Pages it holds once it has `new_tokens` tokens."""
        return paging.sequence(self.plan, new_tokens, None if self.past is None else self.past.lengths)

    def prefill(self) -> Prompt:
        return Prompt(self.slot, self.plan, self.prompt.spans, self.past, self.watch)

    def finished(self, reason: str, tail: str, paging: Paging) -> Finished:
        """Its successful end. `tail`: text that no Token event brought."""
        prompt_tokens, shape = self.request.prompt.prompt_tokens, paging.shape
        reused_tokens = prompt_tokens - self.prompt.prompt_tokens
        return Finished(
            generated_text=self.stream.text,
            finish_reason=reason,
            token_ids=tuple(self.tokens),
            kept_tokens=self.kept_tokens,
            full_tokens=shape.full_tokens(prompt_tokens),
            kv_bytes=self.kept_bytes,
            kv_full_bytes=paging.full(prompt_tokens) * paging.page_bytes,
            budget=self.kept_tokens // shape.full_tokens(1) if reused_tokens else self.plan.budget,
            queue_ms=self.queue_s * 1e3,
            prefill_ms=self.prefill_s * 1e3,
            decode_ms_per_token=self.decode_s * 1e3 / max(len(self.tokens) - 1, 1),
            tail=tail,
            reused_tokens=reused_tokens,
            session_kept=self.session_kept,
            kept_positions=() if self.watch is None else self.watch.positions,
            prompt_logprobs=self.prompt_logprobs,
        )


def make_sequence(
    request: EngineRequest,
    on_event: OnEvent,
    session: KeptSession | None,
    token_ids: list[int],
    *,
    loaded: LoadedModel,
    cache: RaggedCache,
    max_prompt_tokens: int,
) -> Sequence:
    """`token_ids`: of the whole prompt. Raises PromptTooLong, RequestTooLarge, and as `plan_cache`."""
    prompt_tokens, new_tokens = request.prompt.prompt_tokens, request.sampling.max_new_tokens
    if prompt_tokens > max_prompt_tokens:
        raise PromptTooLong(
            f"inputs: the prompt is {prompt_tokens} tokens long, at most {max_prompt_tokens} fit", param="inputs"
        )
    if prompt_tokens + new_tokens > loaded.info.max_positions:
        raise PromptTooLong(
            f"max_new_tokens: {prompt_tokens} prompt tokens and {new_tokens} more exceed the model's context of "
            f"{loaded.info.max_positions}",
            param="max_new_tokens",
        )
    prompt, kv = request.prompt, request.kv
    if session is not None:
        prompt = loaded.rest(prompt, len(session.tokens))
        # A turn with pictures is compressed by itself; a turn of text alone is kept whole.
        kv = kv if prompt.images else KVRequest("full")
    sequence = Sequence(
        request=request,
        on_event=on_event,
        prompt_ids=token_ids,
        session=session,
        prompt=prompt,
        plan=plan_cache(kv, cache.shape, prompt.prompt_tokens, request.scores),
        state=RequestState(request.sampling, token_ids, eos=loaded.eos_token_ids, grammar=request.grammar),
        stream=TextStream(loaded.tokenizer, request.sampling.stop),
        watch=None if request.watched is None else HeadWatch(*request.watched),
        submitted=time.monotonic(),
    )
    # An open end may be where memory ends; nobody asked for all of `new_tokens`.
    needed = sequence.pages(cache.paging, 1 if request.open_ended else max(1, new_tokens)) * cache.paging.page_bytes
    if needed > cache.pool.capacity_bytes:
        raise RequestTooLarge(
            f"kv: the request needs up to {needed} bytes of KV memory, the server has {cache.pool.capacity_bytes}",
            param="kv",
        )
    pages = cache.pool.capacity_bytes // cache.paging.page_bytes
    # The cache holds every token but the last one.
    sequence.most_tokens = bisect_right(range(new_tokens), pages, key=partial(sequence.pages, cache.paging))
    return sequence
