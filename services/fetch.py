"""Fetches missing models of HEADMAP_MODELS from the Hub into its cache: `python -m services.fetch`.

It runs once, before the processes that load models start. It does nothing if no model is missing. HF_TOKEN opens gated
models. It fetches only JSON, templates, tokenizers and safetensors. It fetches code only if HEADMAP_TRUST_REMOTE_CODE
names the model.
"""

from __future__ import annotations

import logging
import sys

from headmap.errors import ModelNotFound, UnsupportedModel
from headmap.http.logs import setup_logging
from headmap.models import find_model
from headmap.settings import load_settings

logger = logging.getLogger("headmap.fetch")

PATTERNS = ["*.json", "*.jinja", "*.txt", "*.model", "*.safetensors"]


def main() -> int:
    settings = load_settings()
    setup_logging(settings, "fetch")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    for name in dict.fromkeys(settings.models):
        try:
            try:
                info = find_model(name, settings)
            except ModelNotFound:
                _fetch(name, PATTERNS + ["*.py"] * (name in settings.trust_remote_code))
                info = find_model(name, settings)
        except (ModelNotFound, UnsupportedModel, OSError, ValueError) as error:  # OSError: every refusal of the Hub
            logger.error("%s cannot be had: %s", name, error)
            return 1
        logger.info("%s is here, revision %s", name, info.revision)
    return 0


def _fetch(name: str, patterns: list[str]) -> None:
    from huggingface_hub import snapshot_download  # of the model image; the bundled model does without

    logger.info("fetching %s from the Hub", name)
    snapshot_download(name, allow_patterns=patterns)


if __name__ == "__main__":
    sys.exit(main())
