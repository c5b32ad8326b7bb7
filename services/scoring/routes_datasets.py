"""Datasets over HTTP: upload, list, read, remove."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, BinaryIO, cast

from fastapi import APIRouter, BackgroundTasks, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from headmap.datasets.check_process import ArchiveCheck
from headmap.datasets.sources import BUILT_IN, MADE_UP
from headmap.datasets.upkeep import clear_after_removal
from headmap.datasets.uploads import check_name, file_upload
from headmap.errors import DatasetBuiltIn, InvalidParameter, QueueFull
from headmap.registry.datasets import DatasetRecord, get_dataset, list_datasets, remove_dataset
from services.scoring.deps import (
    UPLOADS_AT_ONCE,
    Cursor,
    DatasetPath,
    Limit,
    ReadSession,
    ScoringState,
    State,
    WriteSession,
)
from services.scoring.schemas import DatasetBody, DatasetList, DatasetName

router = APIRouter(tags=["datasets"])

_RETRY_SECONDS = 5
_LOOK_SECONDS = 0.5
_PLACE_SECONDS = 60
_LOCATION = {"Location": {"description": "/datasets/{name}", "schema": {"type": "string"}}}
_NO_DATASET: dict[int | str, dict[str, Any]] = {404: {"description": "No such dataset"}}
_ARCHIVE = {"type": "string", "format": "binary", "description": "zip, tar or tar.gz"}
_FORM = {"type": "object", "properties": {"file": _ARCHIVE, "name": {"type": "string"}}, "required": ["file"]}
_BODY = {
    "required": True,
    "content": {"application/octet-stream": {"schema": _ARCHIVE}, "multipart/form-data": {"schema": _FORM}},
}


@router.post(
    "/datasets",
    status_code=201,
    summary="Upload your own pages",
    openapi_extra={"requestBody": _BODY},
    responses={
        200: {"model": DatasetBody, "description": "The same pages stand under this name", "headers": _LOCATION},
        201: {"description": "All pages are there", "headers": _LOCATION},
        409: {"description": "The name stands for other pages, or for a built-in dataset"},
        413: {"description": "Too large, packed or unpacked"},
        422: {"description": "The archive, a record or a picture is wrong; nothing is kept"},
        429: {"description": "Other uploads are under way"},
        503: {"description": "The registry or the blob store is out of reach; nothing is kept"},
    },
)
async def add(
    request: Request,
    state: State,
    response: Response,
    name: Annotated[
        DatasetName | None, Query(description="name of the dataset; a form may have it as a field instead")
    ] = None,
) -> DatasetBody:
    """Add an archive of pictures and their `pages.jsonl`, as `headmap pages` writes them: as the body, or in a form."""
    if name is not None:
        check_name(name)  # before the body is read
    if state.uploads.locked():
        raise _full()
    async with _received(request) as (file, named):
        if (chosen := name or named) is None:
            raise InvalidParameter("name: missing", param="name")
        async with _place(state.uploads):  # for what is here, so that those who send slowly hold none
            record, created = await _file(request, state, chosen, file)
    response.status_code = 201 if created else 200
    response.headers["Location"] = f"/datasets/{record.name}"
    return DatasetBody.of(record)


@router.get("/datasets", summary="Datasets that jobs can name")
def listing(session: ReadSession, limit: Limit = 50, cursor: Cursor = None) -> DatasetList:
    page = list_datasets(session, limit=limit, cursor=cursor)
    return DatasetList(
        items=[DatasetBody.of(record) for record in page.items],
        next_cursor=page.next_cursor,
        built_in=[_built_in(name) for name in BUILT_IN],
    )


@router.get("/datasets/{name}", summary="A dataset", responses=_NO_DATASET)
def show(name: DatasetPath, session: ReadSession) -> DatasetBody:
    return _built_in(name) if name in BUILT_IN else DatasetBody.of(get_dataset(session, name))


@router.delete(
    "/datasets/{name}",
    status_code=204,
    summary="Remove an upload with its pages",
    responses={**_NO_DATASET, 409: {"description": "A job reads it, or it is built in"}},
)
def remove(name: DatasetPath, state: State, session: WriteSession, background: BackgroundTasks) -> None:
    """Maps made from it stay, and keep its name and checksum."""
    if name in BUILT_IN:
        raise DatasetBuiltIn(f"name: {name!r} is built in and cannot be removed", param="name")
    blobs, removed = state.blobs, remove_dataset(session, name)
    background.add_task(clear_after_removal, state.database, blobs, removed)  # after the commit


async def _file(request: Request, state: ScoringState, name: str, file: BinaryIO) -> tuple[DatasetRecord, bool]:
    """Check the archive apart from this process and file its pages, for as long as the client is there."""
    check_name(name)
    check = await run_in_threadpool(ArchiveCheck, file, state.settings, seconds=state.settings.dataset_seconds)
    watch = asyncio.create_task(_give_up_without(request, check))
    try:
        return await run_in_threadpool(_check_and_file, state, name, check)
    except asyncio.CancelledError:
        check.give_up()  # which ends the thread
        raise
    finally:
        watch.cancel()


def _check_and_file(state: ScoringState, name: str, check: ArchiveCheck) -> tuple[DatasetRecord, bool]:
    with check:
        return file_upload(state.database, state.blobs, name, check.upload())


async def _give_up_without(request: Request, check: ArchiveCheck) -> None:
    while not await request.is_disconnected():
        await asyncio.sleep(_LOOK_SECONDS)
    check.give_up()


def _built_in(name: str) -> DatasetBody:
    return DatasetBody(name=name, kind="made-up" if name in MADE_UP else "public")


@asynccontextmanager
async def _place(uploads: asyncio.Semaphore) -> AsyncIterator[None]:
    """One of the places of `uploads`, for which what has arrived waits a while. Raises QueueFull."""
    try:
        async with asyncio.timeout(_PLACE_SECONDS):
            await uploads.acquire()
    except TimeoutError:
        raise _full() from None
    try:
        yield
    finally:
        uploads.release()


def _full() -> QueueFull:
    return QueueFull(
        f"{UPLOADS_AT_ONCE} uploads are under way, and the server takes no more", retry_after=_RETRY_SECONDS
    )


@asynccontextmanager
async def _received(request: Request) -> AsyncIterator[tuple[BinaryIO, str | None]]:
    """The archive in a temporary file, which has no name and so cannot stay behind, and the form's `name`."""
    if request.headers.get("content-type", "").startswith("multipart/form-data"):
        async with request.form(max_files=1, max_fields=1) as form:
            file, name = form.get("file"), form.get("name")
            if not isinstance(file, UploadFile):
                raise InvalidParameter("file: missing; it must be a file of the form", param="file")
            yield file.file, name if isinstance(name, str) else None
        return
    with tempfile.TemporaryFile() as spool:
        try:
            async for chunk in request.stream():
                await run_in_threadpool(spool.write, chunk)
        except ClientDisconnect as error:
            raise HTTPException(400, "body: cut short") from error
        yield cast(BinaryIO, spool), None
