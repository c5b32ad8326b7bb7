"""How a request's tokens are chosen, and where they end."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field

from headmap.errors import InvalidParameter

# float32 logits between 8 and 16 differ by 9.5e-7 or are equal: at this temperature the second has e^-9 of the first.
_GREEDY_TEMPERATURE = 1e-7
# The likeliest of fewer than a million tokens has a higher probability than this.
_GREEDY_TOP_P = 1e-6


@dataclass(frozen=True)
class SamplingParams:
    """How one request's tokens are chosen and where it stops.

    Raises InvalidParameter naming the field. `top_k` 0, `top_p` 1 and `min_p` 0 mean no cut. Without a seed one is
    drawn.

    min_p: a token must have at least this share of the likeliest token's probability (Nguyen et al. 2024). logit_bias:
    added to the logits of these tokens. repetition_penalty counts prompt and answer, presence_penalty and
    frequency_penalty the answer alone. stop_token_ids: they end the answer as the model's end tokens do. min_tokens: no
    token that ends the answer is chosen before that many. top_logprobs: tell the log probabilities of each token and of
    so many likeliest ones; None tells none.
    """

    max_new_tokens: int = 128
    do_sample: bool = False
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    stop: tuple[str, ...] = ()
    stop_token_ids: frozenset[int] = frozenset()
    min_tokens: int = 0
    ignore_eos: bool = False
    top_logprobs: int | None = None
    seed: int = field(default_factory=lambda: secrets.randbits(31))

    def __post_init__(self) -> None:
        checks = (
            ("max_new_tokens", self.max_new_tokens >= 0, "at least 0"),
            ("temperature", 0 < self.temperature < float("inf"), "above 0"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("top_k", self.top_k >= 0, "at least 0"),
            ("min_p", 0 <= self.min_p <= 1, "from 0 to 1"),
            ("repetition_penalty", 0 < self.repetition_penalty < float("inf"), "above 0"),
            ("presence_penalty", -2 <= self.presence_penalty <= 2, "from -2 to 2"),
            ("frequency_penalty", -2 <= self.frequency_penalty <= 2, "from -2 to 2"),
            ("min_tokens", 0 <= self.min_tokens <= self.max_new_tokens, "at least 0 and at most max_new_tokens"),
            ("top_logprobs", self.top_logprobs is None or self.top_logprobs >= 0, "at least 0"),
            ("seed", -(2**63) <= self.seed < 2**63, "at least -2^63 and below 2^63"),
        )
        for name, holds, meaning in checks:
            if not holds:
                raise InvalidParameter(f"{name}: must be {meaning}, got {getattr(self, name)}", param=name)
        if any(not text for text in self.stop):
            raise InvalidParameter("stop: must not hold an empty string", param="stop")
        for token in self.stop_token_ids:
            if token < 0:
                raise InvalidParameter(f"stop_token_ids: {token} is not a token", param="stop_token_ids")
        for token, bias in self.logit_bias.items():
            if token < 0 or not -100 <= bias <= 100:
                raise InvalidParameter(
                    f"logit_bias: must give tokens values from -100 to 100, got {bias} for {token}", param="logit_bias"
                )

    @property
    def greedy(self) -> bool:
        """Whether only the likeliest token is ever chosen."""
        return (
            not self.do_sample
            or self.top_k == 1
            or self.temperature <= _GREEDY_TEMPERATURE
            or self.top_p <= _GREEDY_TOP_P
        )

    @property
    def penalises(self) -> bool:
        return self.repetition_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0
