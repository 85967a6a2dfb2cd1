"""The bundled walk, read from the user's cache, or fetched into it on the first run."""

from __future__ import annotations

import numpy as np

from geodistill.data.bundled.gait import SENSORS, gait_splits


def test_rows_of_three_sensors_in_blocks_of_time() -> None:
    splits = gait_splits()
    assert {part: table.columns["ankle"].shape for part, table in splits.items()} == {
        "train": (527, 16, 3),
        "validation": (175, 16, 3),
        "test": (175, 16, 3),
    }
    for table in splits.values():
        for sensor in SENSORS:
            series = np.asarray(table.columns[sensor])
            assert np.array_equal(series[0, 8:], series[1, :8]), "rows overlap by half"
            assert 0.5 < np.linalg.norm(series.mean(axis=(0, 1))) < 1.5, "gravity points somewhere"
