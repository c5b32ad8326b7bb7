"""Policies over HTTP: write, list, read and delete them, and see all their versions."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Response

from headmap.http.kv_body import KVBody
from headmap.http.request_body import Body
from headmap.kvcache.planning import check_request
from headmap.registry import policies
from headmap.registry.map_file import ModelName
from headmap.registry.policies import PolicyRecord
from services.scoring import deps
from services.scoring.deps import ReadSession, WriteSession
from services.scoring.preconditions import expected_of, must_be_absent
from services.scoring.schemas import AliasName, PolicyList

router = APIRouter(tags=["policies"])

ETAG = {"ETag": {"description": "the policy's version, for If-Match", "schema": {"type": "string"}}}
_NO_POLICY: dict[int | str, dict[str, Any]] = {404: {"description": "No such policy"}}
CHANGED: dict[int | str, dict[str, Any]] = {412: {"description": "The policy is not as the header says"}}

Model = Annotated[ModelName, Path(description="a model's name; it may hold slashes")]
Name = Annotated[AliasName, Path(description="a policy's name, as in MODEL@NAME")]
IfMatch = Annotated[
    str | None,
    Header(max_length=1024, description="only while the policy is at this version, in quotes; * for any version"),
]
IfNoneMatch = Annotated[str | None, Header(max_length=1024, description="*: only if there is no such policy yet")]


class PolicyRequest(Body):
    kv: KVBody


@router.get("/policies", summary="Policies, the last written first")
def listing(
    session: ReadSession, model: deps.ModelFilter = None, limit: deps.Limit = 50, cursor: deps.Cursor = None
) -> PolicyList:
    page = policies.list_policies(session, model=model, limit=limit, cursor=cursor)
    return PolicyList(items=page.items, next_cursor=page.next_cursor)


# Before the policy itself, whose path matches this one too.
@router.get("/policies/{model:path}/{name}/history", summary="All versions of a policy", responses=_NO_POLICY)
def history(
    model: Model, name: Name, session: ReadSession, limit: deps.Limit = 50, cursor: deps.Cursor = None
) -> PolicyList:
    """Newest first; a version without `kv` is a deletion."""
    page = policies.policy_history(session, model, name, limit=limit, cursor=cursor)
    return PolicyList(items=page.items, next_cursor=page.next_cursor)


@router.get("/policies/{model:path}/{name}", summary="A policy", responses=_NO_POLICY | {200: {"headers": ETAG}})
def show(model: Model, name: Name, session: ReadSession, response: Response) -> PolicyRecord:
    record = policies.get_policy(session, model, name)
    response.headers["ETag"] = f'"{record.version}"'
    return record


@router.put(
    "/policies/{model:path}/{name}",
    summary="Write the next version of a policy",
    responses=CHANGED
    | {
        200: {"headers": ETAG},
        201: {"description": "The policy is new", "model": PolicyRecord, "headers": ETAG},
        404: {"description": "No such map"},
        409: {"description": "The map is of another model"},
    },
)
def put(
    model: Model,
    name: Name,
    body: PolicyRequest,
    session: WriteSession,
    caller: deps.Caller,
    response: Response,
    if_match: IfMatch = None,
    if_none_match: IfNoneMatch = None,
) -> PolicyRecord:
    """Servers follow without a restart. The versions before it stay in the history."""
    check_request(body.kv.asked(), body.kv.map)
    record, new = policies.put_policy(
        session,
        model,
        name,
        body.kv.model_dump(exclude_none=True),
        by=caller,
        expected=expected_of(if_match, "VERSION"),
        absent=must_be_absent(if_none_match),
    )
    response.headers["ETag"] = f'"{record.version}"'
    response.status_code = 201 if new else 200
    return record


@router.delete(
    "/policies/{model:path}/{name}",
    status_code=204,
    summary="Delete a policy; its versions stay in the history",
    responses=_NO_POLICY | CHANGED,
)
def remove(model: Model, name: Name, session: WriteSession, caller: deps.Caller, if_match: IfMatch = None) -> None:
    policies.delete_policy(session, model, name, by=caller, expected=expected_of(if_match, "VERSION"))
