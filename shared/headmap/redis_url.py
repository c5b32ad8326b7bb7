"""URLs of Redis. Over TLS its clients differ in what they check where the URL is silent; here they check the same."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit, urlunsplit


def verified(url: str) -> str:
    """The URL with an option for every check of the server's certificate that it does not choose itself.

    A `rediss://` URL gets `ssl_cert_reqs=required` and `ssl_check_hostname=true`; other URLs stay as they are.
    """
    parts = urlsplit(url)
    if parts.scheme != "rediss":
        return url
    given = parse_qs(parts.query, keep_blank_values=True)
    ours = {"ssl_cert_reqs": "required", "ssl_check_hostname": "true"}
    options = [parts.query] if parts.query else []
    options += [f"{name}={value}" for name, value in ours.items() if name not in given]
    return urlunsplit(parts._replace(query="&".join(options)))
