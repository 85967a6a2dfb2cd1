from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from geodistill.data.decoding import Unreadable, all_facts, as_array, as_png, decode, encoded, facts_of
from geodistill.errors import GeodistillError

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 4, 3), dtype=np.uint8)


def saved(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def content(data: bytes) -> dict[str, object]:
    return {"bytes": data, "path": None}


def test_a_cell_is_bytes_a_path_or_both_in_a_mapping(tmp_path: Path) -> None:
    png = saved(Image.fromarray(PIXELS))
    text = base64.b64encode(png).decode()
    expected = content(png)
    assert encoded(png) == encoded({"bytes": png, "path": "a.png"}) == expected
    assert encoded({"bytes": text}) == encoded(f"data:image/png;base64,{text}") == expected
    assert encoded("a.png", tmp_path) == {"bytes": None, "path": str(tmp_path / "a.png")}
    assert encoded({"bytes": None, "path": "/x/a.png"}, tmp_path) == {"bytes": None, "path": "/x/a.png"}


@pytest.mark.parametrize("value", [None, "", b"", float("nan"), {"bytes": None, "path": None}, {"bytes": b""}])
def test_a_missing_image(value: object) -> None:
    assert encoded(value) is None


@pytest.mark.parametrize("value", [3, [[1, 2]], {"url": "x"}, {"bytes": "no base64!"}])
def test_a_cell_of_another_kind(value: object) -> None:
    with pytest.raises(Unreadable, match=r"neither bytes nor a path|not base64"):
        encoded(value)


def test_pixels_survive_and_are_turned_as_exif_says() -> None:
    assert np.array_equal(as_array(decode(as_png(PIXELS))), PIXELS)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side
    turned = decode(content(saved(Image.fromarray(PIXELS), exif=exif)))
    assert np.array_equal(as_array(turned), np.rot90(PIXELS, -1))


def test_grey_and_palette_and_transparency_become_the_channels_asked_for() -> None:
    picture = Image.fromarray(PIXELS)
    for mode in ("RGB", "L", "1", "LA", "P", "RGBA"):
        read = decode(content(saved(picture.convert(mode))))
        assert as_array(read).shape == (6, 4, 3) and as_array(read, 1).shape == (6, 4, 1)
    assert np.array_equal(as_array(picture.convert("RGBA")), PIXELS)
    grey = picture.convert("L")
    assert np.array_equal(as_array(grey, 1), as_array(grey)[:, :, :1])


def test_facts_do_not_depend_on_the_encoding() -> None:
    picture = Image.fromarray(PIXELS)
    plain = facts_of(as_png(PIXELS))
    assert plain.digest == facts_of(content(saved(picture.convert("RGBA")))).digest
    assert plain.digest == facts_of(content(saved(picture, "BMP"))).digest
    assert plain.digest != facts_of(as_png(PIXELS[::-1])).digest
    assert plain.digest != facts_of(as_png(PIXELS.reshape(4, 6, 3))).digest, "the same bytes in another shape"
    assert (plain.width, plain.height, plain.mode) == (4, 6, "RGB")
    values = PIXELS.reshape(-1, 3) / 255
    assert np.allclose(plain.mean, values.mean(0)) and np.allclose(plain.square, (values**2).mean(0))


def damaged() -> dict[str, tuple[bytes, str]]:
    png = saved(Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)))
    jpeg = saved(Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)), "JPEG")
    no_width = png[:16] + b"\0\0\0\0" + png[20:]
    return {
        "text": (b"no image at all", "is no image"),
        "start of a PNG": (png[:20], "is damaged or truncated"),
        "truncated PNG": (png[: len(png) // 2], "is damaged or truncated"),
        "start of a JPEG": (jpeg[:30], "is damaged or truncated"),
        "truncated JPEG": (jpeg[: len(jpeg) // 2], "is damaged or truncated"),
        "no width": (no_width, r"is no image|is damaged|has no pixels"),
        "16 bits": (saved(Image.fromarray(np.full((4, 4), 999, dtype=np.uint16))), "mode I;16, not of 8 bits"),
        "floats": (saved(Image.fromarray(np.ones((4, 4), dtype=np.float32)), "TIFF"), "mode F, not of 8 bits"),
        "empty": (b"", "is empty"),
    }


@pytest.mark.parametrize("name", damaged())
def test_what_cannot_be_read_is_said(name: str, tmp_path: Path) -> None:
    data, message = damaged()[name]
    path = tmp_path / "a.png"
    path.write_bytes(data)
    with pytest.raises(Unreadable, match=message):
        decode({"bytes": None, "path": str(path)})


def test_too_many_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(Unreadable, match="too many pixels"):
        decode(as_png(PIXELS))


def test_all_that_cannot_be_read_is_named_at_once() -> None:
    images = [as_png(PIXELS), content(b"x"), {"bytes": None, "path": "/nowhere/b.png"}]
    with pytest.raises(GeodistillError, match=r"2 images of the test split .*'a' is no image; '/b' does not exist"):
        all_facts(images, ["first", "a", "/b"], "test")
    with pytest.raises(GeodistillError, match=r"20 images .*'x9' is no image; … \(20 in all\)"):
        all_facts([content(b"x")] * 20, [f"x{i}" for i in range(20)], "test")
    with pytest.raises(GeodistillError, match="An image of the train split"):
        all_facts(images[1:2], ["a"], "train")
    assert all_facts(images[:1] * 2, ["a", "b"], "train") == [facts_of(images[0])] * 2
