"""Heat maps of fine-tuned networks: the class activation maps that serving draws are what Grad-CAM would draw."""

from __future__ import annotations

import numpy as np
import pytest

from lensmith_vision import explain
from lensmith_vision.engine import OnnxRuntimeEngine
from lensmith_vision.heads import Head
from lensmith_vision.pack import builtin_pack, golden_images, load_card, space_of

torch = pytest.importorskip("torch", reason="needs the extra lensmith[finetune]: run `make fine-tune`")

from lensmith_vision.fine_tune.network import Network  # noqa: E402


def test_class_activation_is_grad_cam_when_the_network_pools_by_its_mean() -> None:
    folder = builtin_pack("starter")
    card = load_card(folder)
    space = space_of(card).id
    random = np.random.RandomState(0)
    kernel = random.randn(card.feature_dim, 3).astype(np.float32)
    bias = random.randn(3).astype(np.float32)
    engine = OnnxRuntimeEngine()
    engine.load(space, folder)
    images = golden_images((5, 6), card.resize.height, card.resize.width)
    feature_maps = engine.run(space, images, feature_map=True).feature_map
    head = Head("multi_class", space, ("a", "b", "c"), kernel, bias, np.full(3, 0.5, np.float32))

    network = Network(folder, kernel, bias)
    for picture, feature_map in zip(images, feature_maps, strict=True):
        features = network.features(torch.from_numpy(picture[np.newaxis]))
        # What lies before the mean over space is the last feature map: its gradient is caught where it passes.
        gradients: list[np.ndarray] = []
        before, _ = features.grad_fn.next_functions[0]
        before.register_prehook(lambda flowing, caught=gradients: caught.append(flowing[0].numpy()))
        logits = network.classifier(features)[0]
        for column in range(3):
            logits[column].backward(retain_graph=True)
        served = explain.head_maps(head, feature_map, range(3))
        assert gradients[0].shape[1:] == feature_map.shape
        for column, gradient in enumerate(gradients):
            weights = gradient[0].mean(axis=(1, 2))
            grad_cam = np.einsum("d,dhw->hw", weights, feature_map)
            cells = feature_map.shape[1] * feature_map.shape[2]
            np.testing.assert_allclose(served[column] - bias[column], cells * grad_cam, rtol=1e-3, atol=1e-3)
