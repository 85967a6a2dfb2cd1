"""Three sensors on one walking person, out of one package, as the bundled data set of paired series.

A row is a quarter of a second: 16 time bins of the accelerometers on the ankle, the leg and the trunk, each with the
columns forward, vertical and sideways, in units of gravity. Rows overlap by half. The splits are blocks of time, and no
time bin is in two.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from geodistill.data.bundled.packages import GAIT, package_files
from geodistill.data.tables import Table

SENSORS = ("ankle", "leg", "trunk")
BINS, STEP = 16, 8
BLOCKS = {"train": (0.0, 0.6), "validation": (0.6, 0.8), "test": (0.8, 1.0)}  # shares of the recording
GRAVITY = 1000.0  # the recording has thousandths


def gait_splits() -> dict[str, Table]:
    """Return the splits `train`, `validation` and `test`, each with a column of series (16, 3) for each sensor.

    The recording is S06R02E0 of the Daphnet data (Bächlin et al. 2010), 110 seconds at 64 Hz.
    """
    (file,) = GAIT.members
    recording = np.loadtxt(package_files(GAIT) / file, delimiter=",", skiprows=1, usecols=range(1, 10)) / GRAVITY
    splits = {}
    for part, shares in BLOCKS.items():
        first, end = (round(share * len(recording)) for share in shares)
        starts = range(first, end - BINS + 1, STEP)
        windows = np.stack([recording[start : start + BINS] for start in starts]).astype(np.float32)
        columns: dict[str, Any] = {sensor: windows[..., 3 * k : 3 * k + 3] for k, sensor in enumerate(SENSORS)}
        splits[part] = Table(columns)
    return splits
