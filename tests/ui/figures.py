"""The pictures of docs/dashboard.md, made small from those that `make test-ui` left: `python -m tests.ui.figures`."""

from __future__ import annotations

from PIL import Image

from tests.ui.conftest import OUT, ROOT

FIGURES = {
    "playground": "playground-light-1280",
    "maps": "maps-dark-1280",
    "budgets": "budgets-light-1280",
    "jobs": "jobs-dark-1280",
    "evaluations": "evaluations-light-1280",
    "status": "status-light-1280",
}
WIDTH, TALLEST = 960, 1000


def main() -> None:
    for name, source in FIGURES.items():
        picture = Image.open(OUT / f"{source}.png").convert("RGB")
        scaled = picture.resize((WIDTH, round(picture.height * WIDTH / picture.width)), Image.Resampling.LANCZOS)
        shown = scaled.crop((0, 0, WIDTH, min(scaled.height, TALLEST)))
        path = ROOT / "docs" / "figures" / f"dashboard-{name}.webp"
        shown.save(path, quality=80, method=6)
        print(path.name, path.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
