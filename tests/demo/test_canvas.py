"""Pictures and their dense labels; needs the pictogram font."""

import numpy as np
import pytest

from vllm_specflash.lab.demo.canvas import NOTHING, Placed, cell_of, draw, draw_with_labels
from vllm_specflash.lab.demo.clips import sample_clip
from vllm_specflash.lab.demo.pictograms import FONT, NAMES
from vllm_specflash.lab.demo.scenes import sample_scene

pytestmark = pytest.mark.skipif(not FONT.exists(), reason="fonts-noto-color-emoji is not installed")


def test_labels_say_which_object_and_place_a_patch_shows():
    placed = [Placed("dog", 16, 16, 28), Placed("car", 80, 80, 28)]
    _, labels, places = draw_with_labels(placed, "blue", np.random.default_rng(0))
    labels, places = labels.reshape(8, 8), places.reshape(8, 8)
    assert labels[1, 1] == NAMES.index("dog") + 1 and places[1, 1] == 0
    assert labels[6, 6] == NAMES.index("car") + 1 and places[6, 6] == 8
    assert labels[4, 4] == NOTHING


def test_pictures_are_reproducible():
    scene = sample_scene(np.random.default_rng(4))
    assert (scene.pictures() == scene.pictures()).all() and scene.pictures().shape == (1, 96, 96, 3)


def test_movers_go_from_start_to_end_and_keep_inside():
    rng = np.random.default_rng(1)
    for _ in range(50):
        clip = sample_clip(rng)
        assert clip.pictures().shape == (clip.frames, 96, 96, 3)
        for mover in clip.movers:
            assert clip.cell(mover, 0) == mover.start and clip.cell(mover, clip.frames - 1) == mover.end


def test_background_fills_what_objects_leave():
    picture = draw([Placed("dog", 16, 16, 28)], "green", np.random.default_rng(0))
    assert np.ptp(picture[40:, 40:].reshape(-1, 3), axis=0).max() == 0
    assert cell_of(95.9, 95.9) == 8 and cell_of(0, 0) == 0
