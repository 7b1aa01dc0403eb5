"""Labels of a folder of pictures."""

from pathlib import Path

import pytest

from lensmith import labels
from lensmith.errors import InvalidInputError
from lensmith.types import Annotation


def test_the_subfolder_is_the_label(tmp_path: Path) -> None:
    for name in ("wood/oak/1.jpg", "brick/2.PNG", "loose.webp", "wood/notes.txt", ".cache/3.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    label = labels.from_folders(tmp_path)
    found = {path.relative_to(tmp_path).as_posix(): tuple(label(path)) for path in labels.pictures(tmp_path)}
    assert found == {
        "brick/2.PNG": (Annotation("brick"),),
        "loose.webp": (),
        "wood/oak/1.jpg": (Annotation("wood"),),
    }


def test_a_table_gives_positives_negatives_and_numbers(tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    table.write_text("image,labels,count\na.jpg,apple|!pear,3\nsub/b.jpg,pear; apple,\n")
    label = labels.from_table(table, ["count"])
    assert label(tmp_path / "a.jpg") == (
        Annotation("apple"),
        Annotation("pear", positive=False),
        Annotation("count", number=3),
    )
    assert label(tmp_path / "sub" / "b.jpg") == (Annotation("pear"), Annotation("apple"))
    assert label(tmp_path / "c.jpg") == ()


@pytest.mark.parametrize(
    ("text", "message"), [("image,labels\n", "no column count"), ("image,labels,count\na.jpg,x,many\n", "line 2")]
)
def test_a_table_that_is_wrong_is_refused_where_it_is(tmp_path: Path, text: str, message: str) -> None:
    table = tmp_path / "labels.csv"
    table.write_text(text)
    with pytest.raises(InvalidInputError, match=message):
        labels.from_table(table, ["count"])
