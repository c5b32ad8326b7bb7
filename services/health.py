"""A container's health check: `python -m services.health URL` ends with 0 if URL answers 200."""

from __future__ import annotations

import sys
import urllib.request


def main(argv: list[str]) -> int:
    url = argv[0]
    if not url.startswith("http://"):
        print(f"not an http:// URL: {url}", file=sys.stderr)
        return 2
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310  # the scheme is checked above
            return 0 if answer.status == 200 else 1
    except OSError as error:  # URLError and HTTPError are
        print(f"{url}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
