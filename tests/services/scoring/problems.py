"""What every error must look like."""

from __future__ import annotations

from httpx import Response


def assert_problem(response: Response, status: int, code: str, *named: str) -> None:
    """A problem document whose detail names what is at fault, and shows nothing of the inside."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert (body["status"], body["code"], body["type"]) == (status, code, "about:blank")
    for word in named:
        assert word in body["detail"]
    assert "Traceback" not in response.text
    assert "sqlalchemy" not in response.text
