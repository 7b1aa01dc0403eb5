"""Random views of pictures: the same view goes to the teachers and to the student."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

TEACHER_SIDE = 224
"""Side of the views that teachers see, in pixels."""

_WHOLE = 0.35
_BLENDED = 0.3
_PASTED = 0.25
_GREY = 0.05
_SMALLEST = 0.08

Picture = NDArray[np.uint8]


class Views:
    """Renders views: whole pictures and crops over a wide range of scales, flips, colour, half of them mixed of two.

    The loss compares functions, not labels, so a view may be as wild as one likes (Beyer et al. 2022, "Knowledge
    distillation: a good teacher is patient and consistent", arXiv:2106.05237).

    Args:
        pictures: RGB [h, w, 3] each.
        seed: Of everything random.
    """

    def __init__(self, pictures: Sequence[Picture], seed: int) -> None:
        self._pictures = pictures
        self._random = np.random.default_rng(seed)

    def render(self, count: int) -> NDArray[np.uint8]:
        """Return the next views, [count, 224, 224, 3]."""
        views = [self._one() for _ in range(count)]
        return np.stack([self._mixed(view, views[self._random.integers(count)]) for view in views])

    def _mixed(self, view: Picture, other: Picture) -> Picture:
        """Blend two views (arXiv:1710.09412) or paste a part of one into the other (arXiv:1905.04899).

        There are few pictures, but many pairs: what is learnt of these is not learnt by heart.
        """
        random = self._random
        draw = random.random()
        if draw < _BLENDED:
            share = random.uniform(0.2, 0.9)
            return cv2.addWeighted(view, share, other, 1 - share, 0)
        if draw < _BLENDED + _PASTED:
            height, width = random.integers(TEACHER_SIDE // 4, TEACHER_SIDE * 3 // 4, 2)
            top, left = random.integers(TEACHER_SIDE - height), random.integers(TEACHER_SIDE - width)
            view = view.copy()
            view[top : top + height, left : left + width] = other[top : top + height, left : left + width]
        return view

    def _one(self) -> Picture:
        random = self._random
        picture = self._pictures[random.integers(len(self._pictures))]
        height, width = picture.shape[:2]
        if random.random() >= _WHOLE:
            area = height * width * math.exp(random.uniform(math.log(_SMALLEST), 0.0))
            ratio = math.exp(random.uniform(-0.5, 0.5))
            h = min(height, max(16, round(math.sqrt(area / ratio))))
            w = min(width, max(16, round(math.sqrt(area * ratio))))
            top, left = random.integers(height - h + 1), random.integers(width - w + 1)
            picture = picture[top : top + h, left : left + w]
        shrinks = min(picture.shape[:2]) > TEACHER_SIDE
        how = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC if random.random() < 0.5 else cv2.INTER_LINEAR
        view = cv2.resize(picture, (TEACHER_SIDE, TEACHER_SIDE), interpolation=how)
        if random.random() < 0.5:
            view = view[:, ::-1]
        return self._coloured(np.ascontiguousarray(view))

    def _coloured(self, view: Picture) -> Picture:
        """Change brightness, contrast, saturation and white balance by one matrix."""
        random = self._random
        if random.random() < 0.2:
            return view
        saturation = 0.0 if random.random() < _GREY else random.uniform(0.5, 1.4)
        luma = np.array([0.299, 0.587, 0.114], dtype=np.float32)
        matrix = saturation * np.eye(3, dtype=np.float32) + (1 - saturation) * luma[None, :]
        matrix *= random.uniform(0.88, 1.12, size=(3, 1)).astype(np.float32)
        contrast, brightness = random.uniform(0.65, 1.35), random.uniform(-28, 28)
        shift = np.full((3, 1), 127.5 * (1 - contrast) + brightness, dtype=np.float32)
        return cv2.transform(view, np.hstack([matrix * contrast, shift]))


def for_student(views: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Shrink views for the student, [n, 224, 224, 3] to [n, side, side, 3]."""
    return np.stack([cv2.resize(view, (side, side), interpolation=cv2.INTER_AREA) for view in views])
