"""The model and the budget of a request: `kv` is in the body, in the model's name, or in a header.

Clients that cannot send further fields can still name a budget: as `MODEL@METHOD-RATIO` in place of the model's name,
or as `x-headmap-kv: method=sparsemm; ratio=0.2`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pydantic import ValidationError

from headmap.engine.messages import Finished
from headmap.errors import InvalidParameter, ModelNotFound
from headmap.http.invalid import invalid_parameter
from headmap.kvcache.methods import get_method
from headmap.kvcache.plan import KVRequest
from services.inference.bridge import Generation
from services.inference.http.schemas.kv import KVBody, asked_kv
from services.inference.served_model import ServedModel
from services.inference.serving import Serving

HEADER = "x-headmap-kv"

_NO_NAMES = ("tgi", "dummy")
"""What clients of text-generation-inference send where no model was named."""


@dataclass(frozen=True)
class Chosen:
    """`name`: the model's name in answers. `kv`: None means the server's default."""

    served: ServedModel
    name: str
    kv: KVRequest | None
    map: str | None


def choose(
    serving: Serving, name: str | None, header: str | None, body: KVBody | None, any_name: bool = False
) -> Chosen:
    """Settle model and `kv` of a request; `any_name`: where one model is served, it answers to every name.

    Raises ModelNotFound, UnknownMethod, and InvalidParameter for a budget that is broken or that differs between two
    places.
    """
    served, named, told = _find(serving, name, any_name)
    in_header = _read_header(header) if header and header.strip() else None
    sources = [(field, asked_kv(one)) for field, one in (("kv", body), ("model", named), (HEADER, in_header)) if one]
    for field, one in sources[1:]:
        if one != sources[0][1]:
            raise InvalidParameter(f"{field}: contradicts {sources[0][0]}, which asks for another cache", param=field)
    kv, found = sources[0][1] if sources else (None, None)
    return Chosen(served, told, kv, found)


def told_kv(generation: Generation, finished: Finished | None = None) -> str:
    """The method and map that were used, for the answer's header; without the kept share where a stream begins."""
    kv, found = generation.request.kv, generation.map
    parts = [f"method={kv.method}"]
    if kv.ratio is not None:
        parts.append(f"ratio={kv.ratio:g}")
    if kv.budget is not None:
        parts.append(f"budget={kv.budget}")
    if found is not None or generation.map_missing:
        parts.append(f"map={'none' if found is None else found.id}")
    if finished is not None and finished.full_tokens:
        parts.append(f"kept={finished.kept_tokens / finished.full_tokens:.4f}")
    return "; ".join(parts)


def _find(serving: Serving, name: str | None, any_name: bool) -> tuple[ServedModel, KVBody | None, str]:
    """The model, the `kv` in its name, and the name for the answer."""
    if name is None or name in serving.models:
        served = serving.model(name)
        return served, None, served.info.name
    model, at, budget = name.rpartition("@")
    if at and model in serving.models:
        return serving.models[model], _read_budget(name, budget), name
    if (any_name or name in _NO_NAMES) and len(serving.models) == 1:
        served = serving.model(None)
        return served, None, served.info.name
    raise ModelNotFound(
        f"model: {name!r} is not served here; served are {', '.join(serving.models)}, each also as MODEL@METHOD-RATIO",
        param="model",
    )


def _read_budget(name: str, budget: str) -> KVBody:
    """`full` or METHOD-RATIO. Raises UnknownMethod and InvalidParameter."""
    method, dash, ratio = budget.rpartition("-")
    if not dash:
        method, ratio = budget, ""
    if method == "full" and not ratio:
        return KVBody(method="full")
    get_method(method)
    if not ratio:
        raise InvalidParameter(f"model: {name!r} needs a ratio, such as @{method}-0.2", param="model")
    return KVBody(method=method, ratio=_number(float, ratio, "model", "ratio", name))


_KINDS: dict[str, Callable[[str], float]] = {"ratio": float, "uniform": float, "budget": int, "window": int}


def _read_header(header: str) -> KVBody:
    """`method=sparsemm; ratio=0.2`, with the members of `kv`. Raises InvalidParameter."""
    read: dict[str, object] = {}
    for part in filter(None, map(str.strip, header.split(";"))):
        member, equals, value = (text.strip() for text in part.partition("="))
        if not equals:
            raise InvalidParameter(f"{HEADER}: must be MEMBER=VALUE; ..., got {part!r}", param=HEADER)
        kind = _KINDS.get(member)
        read[member] = value if kind is None else _number(kind, value, HEADER, member, header)
    try:
        return KVBody.model_validate(read)
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
