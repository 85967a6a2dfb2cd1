"""Aligned verses in five languages, out of one package, as the bundled data set of translations.

Each row is a verse, with a column for each language. All translations are in the public domain: the World English Bible
(en), Louis Segond 1910 (fr), Reina-Valera 1909 (es), Elberfelder 1932 (de) and Diodati (it). Whole books are held out,
so that no chapter is both trained on and measured on. They are books that no other book tells again, as the Gospels
tell each other's stories, and the Chronicles tell the stories of the Kings.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pyarrow
import pyarrow.parquet

from geodistill.data.bundled.packages import VERSES, extract
from geodistill.data.bundled.store import cached
from geodistill.data.tables import Table

LANGUAGES = {"en": "4", "fr": "l", "es": "v", "de": "e", "it": "d"}
"""The language of each column, and the name of its translation in the package; others there are copyrighted."""
TEST_BOOKS = {8: "Ruth", 21: "Ecclesiastes", 32: "Jonah", 43: "John", 45: "Romans"}
VALIDATION_BOOKS = {17: "Esther", 22: "Song of Songs", 44: "Acts"}
FILE = "verses.parquet"


def verse_splits() -> dict[str, Table]:
    """Return the splits `train`, `validation` and `test`, by books: 28,142, 1,291 and 1,667 verses before rows that are
    alike are left out."""
    table = pyarrow.parquet.read_table(cached(VERSES.entry, build_verses) / FILE).to_pydict()
    places: dict[str, list[int]] = {"train": [], "validation": [], "test": []}
    for place, book in enumerate(table["book"]):
        part = "test" if book in TEST_BOOKS else "validation" if book in VALIDATION_BOOKS else "train"
        places[part].append(place)
    return {
        part: Table({name: [values[row] for row in rows] for name, values in table.items()})
        for part, rows in places.items()
    }


def build_verses(folder: Path) -> None:
    """Write the verses of these translations into `folder`, and drop the database with all others."""
    extract(VERSES, folder)
    (name,) = VERSES.members
    with closing(sqlite3.connect(folder / name)) as database:
        columns = {
            language: [
                text.strip()
                for (text,) in database.execute(
                    "SELECT vText FROM bible WHERE bbName = ? ORDER BY bNumber, cNumber, vNumber", (translation,)
                )
            ]
            for language, translation in LANGUAGES.items()
        }
        numbers = database.execute(
            "SELECT bNumber, cNumber, vNumber FROM bible WHERE bbName = ? ORDER BY bNumber, cNumber, vNumber",
            (LANGUAGES["en"],),
        ).fetchall()
    places = dict(zip(("book", "chapter", "verse"), map(list, zip(*numbers, strict=True)), strict=True))
    pyarrow.parquet.write_table(pyarrow.table({**places, **columns}), folder / FILE)
    (folder / name).unlink()
