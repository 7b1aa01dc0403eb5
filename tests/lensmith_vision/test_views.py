"""Packs of several views: one picture in, the mean of what the network sees in eight parts of it out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lensmith.packs import conversion
from lensmith_vision import explain, views
from lensmith_vision.card import Card
from lensmith_vision.engine import OnnxRuntimeEngine
from lensmith_vision.errors import PackError
from lensmith_vision.graph_parts import read_classifier
from lensmith_vision.pack import MODEL_FILE, builtin_pack, golden_images, load_card, load_labels, space_of, verify
from lensmith_vision.resize import ResizePolicy
from lensmith_vision.view_graph import shrinking
from lensmith_vision.views import VIEWS, build_pack_of_views, cut, larger_input, views_of

PACKS = ("starter", "plain")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("views")
    for name in PACKS:
        build_pack_of_views(builtin_pack(name), root / name)
    return {name: root / name for name in PACKS}


@pytest.fixture(scope="module")
def engine(made: dict[str, Path]) -> OnnxRuntimeEngine:
    engine = OnnxRuntimeEngine()
    for folder in (*made.values(), *(builtin_pack(name) for name in PACKS)):
        engine.load(space_of(load_card(folder)).id, folder)
    return engine


def pictures(card: Card, count: int) -> np.ndarray:
    drawn = golden_images(range(count), card.resize.height, card.resize.width)
    noise = np.random.default_rng(0).integers(0, 60, drawn.shape)
    return np.clip(drawn + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("name", PACKS)
@pytest.mark.parametrize("count", [1, 5])
def test_a_pack_of_views_gives_the_mean_over_the_views_when_they_are_asked_one_by_one(
    made: dict[str, Path], engine: OnnxRuntimeEngine, name: str, count: int
) -> None:
    card, own = load_card(made[name]), load_card(builtin_pack(name))
    batch = pictures(card, count)
    given = engine.run(space_of(card).id, batch, logits=True)
    alone = [engine.run(space_of(own).id, cut(each, own.resize), logits=True) for each in batch]
    np.testing.assert_allclose(given.features, [each.features.mean(axis=0) for each in alone], atol=1e-4)
    if given.logits is not None:
        np.testing.assert_allclose(given.logits, [each.logits.mean(axis=0) for each in alone], atol=1e-3)


def test_a_pack_of_views_gives_no_vectors_when_there_are_no_pictures(
    made: dict[str, Path], engine: OnnxRuntimeEngine
) -> None:
    card = load_card(made["starter"])
    given = engine.run(space_of(card).id, pictures(card, 1)[:0], feature_map=True)
    assert given.features.shape == (0, card.feature_dim)


def test_heat_maps_share_out_the_logit_when_a_pack_has_views(made: dict[str, Path], engine: OnnxRuntimeEngine) -> None:
    card = load_card(made["starter"])
    given = engine.run(space_of(card).id, pictures(card, 2), feature_map=True, logits=True)
    np.testing.assert_allclose(given.feature_map.mean(axis=(2, 3)), given.features, atol=1e-5)
    classifier = read_classifier(made["starter"] / MODEL_FILE, card)
    maps = explain.class_maps(classifier, given.feature_map[0], [3, 500])
    np.testing.assert_allclose(maps.mean(axis=(1, 2)), given.logits[0, [3, 500]], atol=2e-2)


def test_the_map_of_a_pack_of_views_lies_where_the_picture_is_when_only_one_corner_differs(
    made: dict[str, Path], engine: OnnxRuntimeEngine
) -> None:
    card = load_card(made["starter"])
    plain = np.full((1, card.resize.height, card.resize.width, 3), 120, np.uint8)
    marked = plain.copy()
    marked[:, 20:70, 110:160] = pictures(card, 1)[:, 20:70, 110:160]
    maps = engine.run(space_of(card).id, np.concatenate([plain, marked]), feature_map=True).feature_map
    change = np.abs(maps[1] - maps[0]).sum(axis=0)
    middle = len(change) // 2
    assert change[:middle].sum() > 1.5 * change[-middle:].sum()
    assert change[:, -middle:].sum() > 1.5 * change[:, :middle].sum()


def test_a_pack_of_views_is_another_space_of_another_base_model_and_ranks_below(made: dict[str, Path]) -> None:
    card, own = verify(made["starter"]), load_card(builtin_pack("starter"))
    assert (card.id, card.views, card.rank) == ("starter-8-views", VIEWS, own.rank - 1)
    assert ".views8." in space_of(card).id
    assert load_labels(made["starter"]) == load_labels(builtin_pack("starter"))
    assert card.logits == own.logits


def test_views_of_views_are_refused(made: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(PackError) as refused:
        build_pack_of_views(made["plain"], tmp_path / "again")
    assert refused.value.reason == "PACK_HAS_VIEWS"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("policy", [ResizePolicy("short_side_crop", 224, 224, 256), ResizePolicy("half_crop", 97, 131)])
def test_views_lie_within_the_picture_and_differ_whatever_its_size(policy: ResizePolicy) -> None:
    larger, found = larger_input(policy), views_of(policy)
    assert len(set(found)) == len(found) == VIEWS == views.VIEWS == conversion.VIEWS
    for view in found:
        assert view.top >= 0
        assert view.top + view.height <= larger.height
        assert view.left >= 0
        assert view.left + view.width <= larger.width


def test_a_picture_is_shrunk_as_pillow_does_it() -> None:
    from PIL import Image

    picture = np.random.default_rng(0).integers(0, 256, (176, 176, 3)).astype(np.uint8)
    expected = np.asarray(Image.fromarray(picture).resize((128, 128), Image.Resampling.BILINEAR), np.float64)
    matrix = shrinking(176, 128)
    actual = np.einsum("yh,hwc,xw->yxc", matrix, picture.astype(np.float32), matrix, optimize=True)
    assert np.abs(actual - expected).max() <= 1.5
