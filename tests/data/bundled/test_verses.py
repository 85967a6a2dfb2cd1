"""The bundled verses, read from the user's cache, or fetched into it on the first run."""

from __future__ import annotations

from geodistill.data.bundled.verses import LANGUAGES, verse_splits
from geodistill.data.paired import load_pairs
from geodistill.recipe import DataRecipe


def test_books_are_held_out_and_verses_are_aligned() -> None:
    splits = verse_splits()
    assert {part: len(table.columns["en"]) for part, table in splits.items()} == {
        "train": 28144,
        "validation": 1291,
        "test": 1667,
    }
    books = [set(table.columns["book"]) for table in splits.values()]
    assert len(set.union(*books)) == 66 == sum(map(len, books))
    assert all(text for table in splits.values() for language in LANGUAGES for text in table.columns[language])
    jonah = {name: column[85 + 222] for name, column in splits["test"].columns.items()}  # behind Ruth and Ecclesiastes
    assert (jonah["book"], jonah["chapter"], jonah["verse"]) == (32, 1, 1)
    for language, name in {"en": "Jonah", "fr": "Jonas", "es": "Jonás", "de": "Jona", "it": "Giona"}.items():
        assert name.casefold() in jonah[language].casefold()


def test_as_pairs() -> None:
    recipe = {"source": "bundled:verses", "columns": {"student": "es", "teacher": "en"}, "limit": 50}
    pairs = load_pairs(DataRecipe.model_validate(recipe))
    assert [len(pairs.splits[part]) for part in ("train", "validation", "test")] == [50, 50, 50]
