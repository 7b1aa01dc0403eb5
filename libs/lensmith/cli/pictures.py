"""How pictures and what is said about them are called in what people read."""

from lensmith import Client
from lensmith.errors import NotFoundError
from lensmith.importer import FILE
from lensmith.types import Annotation


def file_of(client: Client, picture: str) -> str:
    """The file that an import brought a picture in from, such as `glass/bottle.jpg`; empty where that is not known."""
    try:
        return str(client.inputs.get(picture).metadata.get(FILE, "")) if picture else ""
    except NotFoundError:
        return ""


def label_text(label: Annotation) -> str:
    """A label in a word: `glass`, `not glass`, `weight 2.5`."""
    if label.number is not None:
        return f"{label.concept} {label.number:g}"
    return label.concept if label.positive else f"not {label.concept}"
