"""The model and the budget of a request: `kv` is in the body, in the model's name, or in a header.

Clients that cannot send a field of their own name a budget all the same: `MODEL@METHOD-RATIO` or `MODEL@POLICY`
wherever a model is named, or `x-headmap-kv: method=sparsemm; ratio=0.2`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pydantic import ValidationError

from headmap.engine.messages import Finished
from headmap.errors import InvalidParameter, ModelNotFound
from headmap.http.invalid import invalid_parameter
from headmap.kvcache.budget_names import names_a_budget
from headmap.kvcache.methods import get_method
from headmap.kvcache.plan import KVRequest
from services.inference.bridge import Generation
from services.inference.http.schemas.kv import RequestKV
from services.inference.policies import ServedPolicy
from services.inference.served_model import ServedModel
from services.inference.serving import Serving

HEADER = "x-headmap-kv"

_NO_NAMES = ("tgi", "dummy")
"""What clients of text-generation-inference send where no model was named."""


@dataclass(frozen=True)
class Chosen:
    """`name`: the model as answers name it. kv None: the server's default. policy: what says `kv` and `map`."""

    served: ServedModel
    name: str
    kv: KVRequest | None = None
    map: str | None = None
    policy: ServedPolicy | None = None


async def choose(
    serving: Serving, name: str | None, header: str | None, body: RequestKV | None, any_name: bool = False
) -> Chosen:
    """Settle model and `kv` of a request; `any_name`: where one model is served, it answers to every name.

    Raises ModelNotFound, PolicyNotFound, UnknownMethod, RegistryUnavailable for a policy that was never seen, and
    InvalidParameter for a budget that is broken or that says something else in one place than in another.
    """
    served, named, told = _find(serving, name, any_name)
    in_header = _read_header(header) if header and header.strip() else None
    chosen, first = Chosen(served, told), ""
    for field, one in (("kv", body), ("model", named), (HEADER, in_header)):
        if one is None:
            continue
        policy = await _policy(served, field, one)
        kv, found = (one.asked(), one.map) if policy is None else (policy.kv, policy.map)
        if chosen.kv is not None and (chosen.kv, chosen.map) != (kv, found):
            raise InvalidParameter(f"{field}: says something else of the cache than {first}", param=field)
        chosen, first = Chosen(served, told, kv, found, chosen.policy or policy), first or field
    return chosen


async def _policy(served: ServedModel, field: str, body: RequestKV) -> ServedPolicy | None:
    """The policy that `body` names. Raises PolicyNotFound, RegistryUnavailable, and InvalidParameter beside others."""
    if body.policy is None:
        return None
    for other in body.model_fields_set - {"policy"}:
        place, param = (f"{field}.{other}", f"{field}.{other}") if field == "kv" else (f"{field}: {other}", field)
        raise InvalidParameter(f"{place}: policy {body.policy!r} says it; give the policy alone", param=param)
    return await served.policies.named(body.policy, "kv.policy" if field == "kv" else field)


def told_kv(generation: Generation, finished: Finished | None = None) -> str:
    """The method and map that were used, for the answer's header; without the kept share where a stream begins."""
    kv, found = generation.request.kv, generation.map
    policy = generation.policy
    parts = [] if policy is None else [f"policy={policy.name}", f"policy_version={policy.version}"]
    parts.append(f"method={kv.method}")
    if kv.ratio is not None:
        parts.append(f"ratio={kv.ratio:g}")
    if kv.budget is not None:
        parts.append(f"budget={kv.budget}")
    if found is not None or generation.map_missing:
        parts.append(f"map={'none' if found is None else found.id}")
    if finished is not None and finished.full_tokens:
        parts.append(f"kept={finished.kept_tokens / finished.full_tokens:.4f}")
    return "; ".join(parts)


def _find(serving: Serving, name: str | None, any_name: bool) -> tuple[ServedModel, RequestKV | None, str]:
    """The model, what its name says of the cache, and the name to answer with."""
    if name is None or name in serving.models:
        served = serving.model(name)
        return served, None, served.info.name
    model, at, rest = name.rpartition("@")
    if at and model in serving.models:
        kv = _read_budget(name, rest) if names_a_budget(rest) else RequestKV.model_construct({"policy"}, policy=rest)
        return serving.models[model], kv, name
    if (any_name or name in _NO_NAMES) and len(serving.models) == 1:
        served = serving.model(None)
        return served, None, served.info.name
    raise ModelNotFound(
        f"model: {name!r} is not served here; served are {', '.join(serving.models)}, "
        "each also as MODEL@METHOD-RATIO and MODEL@POLICY",
        param="model",
    )


def _read_budget(name: str, budget: str) -> RequestKV:
    """`full` or METHOD-RATIO. Raises UnknownMethod and InvalidParameter."""
    method, dash, ratio = budget.rpartition("-")
    if not dash:
        method, ratio = budget, ""
    if method == "full" and not ratio:
        return RequestKV(method="full")
    get_method(method)
    if not ratio:
        raise InvalidParameter(f"model: {name!r} lacks a ratio, as in @{method}-0.2", param="model")
    return RequestKV(method=method, ratio=_number(float, ratio, "model", "ratio", name))


_KINDS: dict[str, Callable[[str], float]] = {
    **dict.fromkeys(("ratio", "uniform"), float),
    **dict.fromkeys(("budget", "window", "keep_recent"), int),
}


def _read_header(header: str) -> RequestKV:
    """`method=sparsemm; ratio=0.2`, with the members of `kv`. Raises InvalidParameter."""
    read: dict[str, object] = {}
    for part in filter(None, map(str.strip, header.split(";"))):
        member, equals, value = (text.strip() for text in part.partition("="))
        if not equals:
            raise InvalidParameter(f"{HEADER}: must be MEMBER=VALUE; ..., got {part!r}", param=HEADER)
        kind = _KINDS.get(member)
        read[member] = value if kind is None else _number(kind, value, HEADER, member, header)
    try:
        return RequestKV.model_validate(read)
    except ValidationError as error:
        told = invalid_parameter(error.errors(), read)
        raise InvalidParameter(f"{HEADER}: {told.detail}", param=HEADER) from error


def _number(kind: Callable[[str], float], text: str, field: str, member: str, whole: str) -> float:
    try:
        number = kind(text)
    except ValueError:
        raise InvalidParameter(f"{field}: {member} must be a number, got {text!r} in {whole!r}", param=field) from None
    if member == "ratio" and not 0 < number <= 1:
        raise InvalidParameter(f"{field}: ratio must be above 0 and at most 1, got {text} in {whole!r}", param=field)
    return number
