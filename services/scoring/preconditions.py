"""If-Match and If-None-Match (RFC 9110, sections 13.1.1 and 13.1.2): writes that hold only while nobody else wrote,
and reads of what the caller may have already."""

from __future__ import annotations

from headmap.errors import InvalidParameter


def expected_of(if_match: str | None, what: str) -> frozenset[str] | None:
    """The tags that an If-Match header lists, "*" as itself; None where there is no header.

    `what`: what a tag is, for errors. Raises InvalidParameter for another form.
    """
    if if_match is None:
        return None
    tags = [tag.strip() for tag in if_match.split(",")]
    quoted = [tag for tag in tags if len(tag) > 2 and tag[0] == tag[-1] == '"']
    if tags == ["*"]:
        return frozenset("*")
    if quoted != tags:
        raise InvalidParameter(f'If-Match: must be "{what}" in quotes, or *, got {if_match!r}', param="If-Match")
    return frozenset(tag.strip('"') for tag in tags)


def must_be_absent(if_none_match: str | None) -> bool:
    """Whether the header is *. Raises InvalidParameter for another one."""
    if if_none_match not in (None, "*"):
        raise InvalidParameter(f"If-None-Match: must be *, got {if_none_match!r}", param="If-None-Match")
    return if_none_match == "*"


def is_listed(tag: str, if_none_match: str | None) -> bool:
    """Whether an If-None-Match header of a GET lists `tag`, which is in quotes, or is *. Weak tags match too."""
    if if_none_match is None:
        return False
    tags = {one.strip().removeprefix("W/") for one in if_none_match.split(",")}
    return bool(tags & {"*", tag})
