"""The settings themselves, in groups by the processes that read them.

Each says what it is, in which unit, and when one would change it. docs/settings.md is made of these classes: the first
line of a group's docstring is its title there, and the rest stands below the title.
"""

from __future__ import annotations

from pydantic import BaseModel

from headmap.settings_groups.inference import Engine, Pictures, Requests
from headmap.settings_groups.processes import EveryProcess, HttpServices, Models
from headmap.settings_groups.scoring import Scoring

GROUPS: tuple[type[BaseModel], ...] = (EveryProcess, HttpServices, Models, Requests, Engine, Pictures, Scoring)
"""In the order of docs/settings.md."""

__all__ = ["GROUPS", "Engine", "EveryProcess", "HttpServices", "Models", "Pictures", "Requests", "Scoring"]
