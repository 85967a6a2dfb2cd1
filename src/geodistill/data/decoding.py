"""From encoded images to pixels, through pillow; what is damaged or not understood is refused, by name.

An image is kept as the Image feature of the datasets library keeps it: `{"bytes": …, "path": …}`, one of them None.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from geodistill.data.columns import MOST_NAMED
from geodistill.errors import GeodistillError

EncodedImage = dict[str, Any]
RGB = "RGB"
# The modes of pillow that become RGB or grey without a choice that is the data owner's, in words.
MODES = {
    "RGB": "RGB",
    "L": "grey",
    "1": "black and white",
    "LA": "grey with transparency",
    "P": "palette",
    "PA": "palette with transparency",
    "RGBA": "RGB with transparency",
    "RGBX": "RGB with padding",
    "CMYK": "CMYK",
    "YCbCr": "YCbCr",
}
GREY = ("L", "1", "LA")
DATA_URI = "data:image/"


class Unreadable(Exception):
    """Why an image cannot be read, as the end of a sentence that begins with its name."""


@dataclass(frozen=True)
class Facts:
    """What is known of an image once it was decoded.

    digest: the hash of its size and its pixels in RGB, by which identical images are known, however they are encoded
    mean, square: of each channel in RGB, the mean of its values, from 0 to 1, and the mean of their squares
    """

    digest: str
    width: int
    height: int
    mode: str
    mean: tuple[float, ...]
    square: tuple[float, ...]


def encoded(value: Any, folder: Path | None = None) -> EncodedImage | None:
    """A cell of a table as an encoded image; None if it is missing.

    A cell is bytes, a path (a relative one begins at `folder`), a data URI, or a mapping of `bytes`, in base64 if
    they are a string as JSON has it, and `path`.
    Raises Unreadable for anything else.
    """
    if isinstance(value, Mapping) and ({"bytes", "path"} & set(value)):
        content, path = value.get("bytes"), value.get("path")
        if isinstance(content, str):
            content = _from_base64(content)
        return encoded(content or path, folder)
    if value is None or value != value or value in ("", b""):  # NaN is not itself
        return None
    if isinstance(value, bytes | bytearray | memoryview):
        return {"bytes": bytes(value), "path": None}
    if isinstance(value, str) and value.startswith(DATA_URI):
        return {"bytes": _from_base64(value.partition(",")[2]), "path": None}
    if isinstance(value, str):
        path = Path(value).expanduser()
        return {"bytes": None, "path": str(path if folder is None else folder / path)}
    raise Unreadable(f"is a {type(value).__name__}, neither bytes nor a path")


def _from_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        raise Unreadable("has bytes that are not base64") from None


def decode(image: EncodedImage) -> Image.Image:
    """The pixels of an image, turned as its EXIF data say; of several frames the first.

    Raises Unreadable if it is missing, empty, no image, damaged, truncated, without pixels, or of a mode such as 16
    bits a channel, whose range nobody but the owner of the data knows.
    """
    content, path = image["bytes"], image["path"]
    try:
        if content is None:
            content = Path(path).read_bytes()
        if not content:
            raise Unreadable("is empty")
        picture: Image.Image = Image.open(io.BytesIO(content))
        if not (picture.width and picture.height):
            raise Unreadable("has no pixels")
        picture.load()
        picture = ImageOps.exif_transpose(picture)
    except FileNotFoundError:
        raise Unreadable("does not exist") from None
    except UnidentifiedImageError:
        raise Unreadable("is no image") from None
    except Image.DecompressionBombError:
        raise Unreadable("has too many pixels") from None
    # Pillow has no single error for a damaged file: each of its formats raises what its parser raises.
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError) as error:
        raise Unreadable(f"is damaged or truncated ({str(error).strip() or type(error).__name__})") from None
    if picture.mode not in MODES:
        raise Unreadable(f"has pixels of mode {picture.mode}, not of 8 bits")
    return picture


def as_array(picture: Image.Image, channels: int = 3) -> NDArray[np.uint8]:
    """The pixels in RGB (channels 3) or in grey (channels 1), shaped (height, width, channels). Transparency is
    dropped, as transformers drops it when it reads an image."""
    mode = RGB if channels == 3 else "L"
    array = np.asarray(picture if picture.mode == mode else picture.convert(mode))
    return array if array.ndim == 3 else array[:, :, None]


def as_png(pixels: NDArray[np.uint8]) -> EncodedImage:
    """Pixels, shaped (height, width) or (height, width, 3), as an encoded image."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def facts_of(image: EncodedImage) -> Facts:
    """Decode an image, and keep what `Facts` holds. Raises Unreadable as `decode` does."""
    picture = decode(image)
    rgb = picture if picture.mode == RGB else picture.convert(RGB)
    digest = hashlib.sha256(f"{rgb.width} {rgb.height}\n".encode() + rgb.tobytes()).hexdigest()
    counts = np.array(rgb.histogram(), dtype=np.float64).reshape(3, 256) / (rgb.width * rgb.height)
    levels = np.arange(256) / 255
    mean, square = counts @ levels, counts @ levels**2
    return Facts(digest, rgb.width, rgb.height, picture.mode, tuple(mean.tolist()), tuple(square.tolist()))


def all_facts(images: Sequence[EncodedImage], names: Sequence[str], part: str) -> list[Facts]:
    """The facts of the images of a part. `names` are those that an error calls them by.

    Raises GeodistillError that names the images which cannot be read.
    """

    def facts(image: EncodedImage) -> Facts | Unreadable:
        try:
            return facts_of(image)
        except Unreadable as error:
            return error

    with ThreadPoolExecutor() as pool:  # pillow decodes, and hashlib hashes, without holding the interpreter's lock
        found = list(pool.map(facts, images))
    refuse([(name, each) for name, each in zip(names, found, strict=True) if isinstance(each, Unreadable)], part)
    return [each for each in found if isinstance(each, Facts)]


def refuse(unreadable: Sequence[tuple[str, Unreadable]], part: str) -> None:
    """Raise GeodistillError that names the images of a part which cannot be read, if there are any."""
    if not unreadable:
        return
    shown = "; ".join(f"'{name}' {reason}" for name, reason in unreadable[:MOST_NAMED])
    more = f"; … ({len(unreadable):,} in all)" if len(unreadable) > MOST_NAMED else ""
    count = "An image" if len(unreadable) == 1 else f"{len(unreadable):,} images"
    raise GeodistillError(
        f"{count} of the {part} split cannot be read: {shown}{more}.",
        "Repair, replace or remove the images that are named. Save images of 16 bits with 8 bits.",
    )
