"""The script that draws the plots of a page: plotly.js, packed.

The package brings the part of plotly.js that knows cartesian plots, `plotly.js-cartesian-dist-min`, which is a third of
the whole and knows all that a page draws. It is used if the installed plotly has the same version of plotly.js; if not,
the page gets the whole script of the installed plotly.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import re
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from plotly.offline import get_plotlyjs, get_plotlyjs_version

BUNDLE = "studies/report/plotly/plotly-cartesian.min.js.gz"


class PackedScript(NamedTuple):
    """A script as a page carries it.

    packed: gzipped, in base64, for a data block that the page unpacks
    digest: of the unpacked script, as a content security policy names it
    """

    packed: str
    digest: str


@cache
def plotly_script() -> PackedScript:
    """Return plotly.js in the version of the installed plotly."""
    packed = files("geodistill").joinpath(BUNDLE).read_bytes()
    script = gzip.decompress(packed)
    if version_of(script) != get_plotlyjs_version():
        script = get_plotlyjs().encode()
        packed = gzip.compress(script, mtime=0)
    return PackedScript(base64.b64encode(packed).decode(), digest(script))


def version_of(script: bytes) -> str | None:
    """Return the version that plotly.js says in its first lines."""
    found = re.search(rb"plotly\.js[^\n]* v([\w.-]+)", script[:400])
    return found[1].decode() if found else None


def digest(script: bytes) -> str:
    """Return the source expression of a content security policy that allows this script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script).digest()).decode()}'"
