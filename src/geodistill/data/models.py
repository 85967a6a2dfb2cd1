"""From the name of a model in a recipe to something that `from_pretrained` loads."""

from __future__ import annotations

from pathlib import Path

from geodistill.data.packages import MINILM_L6, package_files
from geodistill.errors import GeodistillError, suggest

BUNDLED_MODELS = ("bundled:minilm-l6", "bundled:minilm-l3")


def resolve_model(name: str) -> str:
    """The folder or hub name that `AutoModel.from_pretrained` and `AutoTokenizer.from_pretrained` load for `name`.

    - `bundled:minilm-l6`: all-MiniLM-L6-v2, a BertModel of 6 layers × 384, 22.7 M parameters, uncased.
    - a folder: returned as it is, once it is seen to exist
    - anything else is taken for a hub name and returned as it is

    Raises GeodistillError for an unknown bundled name, a path that is not there, or a package that cannot be fetched.
    """
    if name == "bundled:minilm-l6":
        return str(package_files(MINILM_L6))
    if name.startswith("bundled:"):
        raise GeodistillError(f"There is no bundled model '{name}'.", suggest(name, BUNDLED_MODELS))
    path = Path(name).expanduser()
    if path.is_dir():
        return str(path)
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise GeodistillError(
            f"There is no model folder '{name}'.",
            f"Give an existing folder, a hub name, or one of {', '.join(BUNDLED_MODELS)}.",
        )
    return name
