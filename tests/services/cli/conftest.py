from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from headmap.head_scores import HeadScores
from headmap.models import find_model
from headmap.registry.maps import Provenance, add_map
from headmap.registry.session import open_database
from headmap.settings import DEMO_MODEL, Settings


@pytest.fixture
def map_id(tmp_path: Path, migrated: Callable[[Settings], None]) -> str:
    """A map of the bundled model in the registry under tmp_path."""
    settings = Settings(data_dir=tmp_path)
    migrated(settings)
    info = find_model(DEMO_MODEL, settings)
    database = open_database(settings)
    matrix = np.arange(1.0, 1 + info.num_layers * info.num_heads).reshape(info.num_layers, info.num_heads)
    with database.write() as session:
        provenance = Provenance(model=DEMO_MODEL, revision=info.revision, architecture=None, dataset="test", pages=3)
        found = add_map(session, provenance, HeadScores(matrix, info.num_kv_heads), promote=True, by=None)
    database.close()
    return found
