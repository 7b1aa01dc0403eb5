"""Makes General's concepts out of WordNet: the thousand ImageNet classes and everything that they are a kind of.

Takes the folder of WordNet 3.0's data files (Debian: package `wordnet-base`, /usr/share/wordnet). The same WordNet
gives the same bytes; `--check` compares them with what the project ships.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

_SCRIPTS = Path(__file__).resolve().parent
_LEAVES = _SCRIPTS / "imagenet_1k_synsets.txt"
_OUTPUT = _SCRIPTS.parent / "libs" / "lensmith_vision" / "general" / "concepts.json"
_SOURCE = "WordNet 3.0, Copyright 2006 by Princeton University; see LICENSE-WordNet.txt"


@dataclass(frozen=True)
class Synset:
    """A set of words with one meaning.

    Attributes:
        lemmas: Its words, the most usual first.
        parents: Offsets of what it is a kind of, or an instance of.
    """

    lemmas: tuple[str, ...]
    parents: tuple[int, ...]


def read_nouns(folder: Path) -> dict[int, Synset]:
    """Read the nouns of a WordNet by offset; the format is described in wndb(5)."""
    nouns: dict[int, Synset] = {}
    for line in (folder / "data.noun").read_text(encoding="ascii").splitlines():
        if line.startswith("  "):
            continue  # the licence
        fields = line.split(" | ")[0].split()
        words = int(fields[3], 16)
        lemmas = tuple(fields[4 + 2 * word].replace("_", " ") for word in range(words))
        rest = fields[5 + 2 * words :]
        pointers = (rest[start : start + 4] for start in range(0, len(rest) // 4 * 4, 4))
        parents = tuple(int(offset) for symbol, offset, part, _ in pointers if symbol in ("@", "@i") and part == "n")
        nouns[int(fields[0])] = Synset(lemmas, parents)
    return nouns


def closure(nouns: dict[int, Synset], leaves: list[int]) -> list[int]:
    """Return what the leaves are kinds of, each after all of its own parents."""
    above: set[int] = set()
    waiting = list(leaves)
    while waiting:
        new = set(nouns[waiting.pop()].parents) - above
        above |= new
        waiting += new
    depths: dict[int, int] = {}

    def depth(synset: int) -> int:
        if synset not in depths:
            depths[synset] = max((1 + depth(parent) for parent in nouns[synset].parents), default=0)
        return depths[synset]

    return sorted(above, key=lambda synset: (depth(synset), synset))


def own_ids(nouns: dict[int, Synset], synsets: list[int]) -> dict[int, str]:
    """Make an id of each name; one of several meanings gets what it is a kind of added, and the synset if need be."""
    names = {synset: _slug(nouns[synset].lemmas[0]) for synset in synsets}
    kinds = {
        synset: f"{name}-{_slug(nouns[nouns[synset].parents[0]].lemmas[0])}" if nouns[synset].parents else name
        for synset, name in names.items()
    }
    once, kind_once = Counter(names.values()), Counter(kinds.values())
    ids = {
        synset: name
        if once[name] == 1
        else kinds[synset]
        if kind_once[kinds[synset]] == 1
        else f"{kinds[synset]}-{synset}"
        for synset, name in names.items()
    }
    repeated = [text for text, count in Counter(ids.values()).items() if count > 1]
    if repeated:
        raise SystemExit(f"ids of several concepts: {', '.join(sorted(repeated))}")
    return ids


def document(nouns: dict[int, Synset], leaves: list[int]) -> str:
    """Write all concepts, one a line: what lies above first, then the leaves in the order of the logits."""
    above = closure(nouns, leaves)
    if set(above) & set(leaves):
        raise SystemExit("a class is a kind of another")
    synsets = above + leaves
    ids = own_ids(nouns, synsets)
    lines = [
        json.dumps(
            {
                "id": ids[synset],
                "name": nouns[synset].lemmas[0],
                "synonyms": nouns[synset].lemmas[1:],
                "synset": synset,
                "parents": [ids[parent] for parent in nouns[synset].parents],
            },
            ensure_ascii=False,
            separators=(",", ":"),
        )
        for synset in synsets
    ]
    head = {"format": 1, "taxonomy": "imagenet-1k", "source": _SOURCE, "leaves": len(leaves)}
    return json.dumps(head)[:-1] + ', "concepts": [\n' + ",\n".join(lines) + "\n]}\n"


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def main() -> int:
    """Write the file, or compare it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wordnet", type=Path, help="folder of WordNet's data files, such as /usr/share/wordnet")
    parser.add_argument(
        "--leaves", type=Path, default=_LEAVES, help="synsets of the classes in the order of the logits"
    )
    parser.add_argument("--output", type=Path, default=_OUTPUT)
    parser.add_argument("--check", action="store_true", help="write nothing; fail when the file is another")
    chosen = parser.parse_args()
    leaves = [int(line.removeprefix("n")) for line in chosen.leaves.read_text(encoding="ascii").split()]
    text = document(read_nouns(chosen.wordnet), leaves)
    if not chosen.check:
        chosen.output.write_text(text, encoding="utf-8")
        return 0
    if text == chosen.output.read_text(encoding="utf-8"):
        return 0
    sys.stderr.write(f"{chosen.output} is not what {chosen.wordnet} gives\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
