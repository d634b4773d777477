"""What is asked and answered about pictures."""

import numpy as np
import pytest

from vllm_specflash.lab.demo import clip_language, scene_language
from vllm_specflash.lab.demo.clips import sample_clip
from vllm_specflash.lab.demo.evaluate import (
    heldout_clips,
    heldout_scenes,
    places_said,
    reference,
    score_clip,
    score_scene,
)
from vllm_specflash.lab.demo.pictograms import NAMES
from vllm_specflash.lab.demo.scenes import sample_scene
from vllm_specflash.lab.demo.split import SPLITS, sample_in, split_of
from vllm_specflash.lab.demo.words import PLACES, a, listing


def test_perfect_answers_score_full_marks():
    for scene, request in heldout_scenes(300):
        shown, named, placed = score_scene(scene, reference(scene, request))
        assert shown == named == placed
    assert all(score_clip(clip, reference(clip, request)) for clip, request in heldout_clips(300))


def test_wrong_answers_lose_marks():
    swapped = {"left": "right", "right": "left"}
    for scene, request in heldout_scenes(100):
        answer = reference(scene, request)
        name, cell = scene.objects[0]
        other = next(n for n in NAMES if n not in dict(scene.objects))
        assert score_scene(scene, answer.replace(name, other))[1] == len(scene.objects) - 1
        if cell % 3 != 1:
            side = PLACES[cell].split()[-1]
            assert score_scene(scene, answer.replace(PLACES[cell], PLACES[cell].replace(side, swapped[side])))[2] < len(
                scene.objects
            )
    for clip, request in heldout_clips(100):
        answer = reference(clip, request)
        if {m.direction for m in clip.movers} == {"left"}:
            assert not score_clip(clip, answer.replace("to the left", "to the right"))
        assert not score_clip(clip, "")


def test_a_place_is_read_from_either_side_of_the_name():
    assert places_said("At the top left is a dog and in the center are some grapes.") == {
        "dog": "top left",
        "grapes": "center",
    }
    assert places_said("Can you find the owl? It is at the bottom center.") == {"owl": "bottom center"}


@pytest.mark.parametrize("language, sample", [(scene_language, sample_scene), (clip_language, sample_clip)])
def test_every_request_has_an_answer_that_names_every_object(language, sample):
    rng = np.random.default_rng(3)
    for _ in range(30):
        drawn = sample(rng)
        names = [n for n, _ in drawn.objects] if hasattr(drawn, "objects") else [m.name for m in drawn.movers]
        for answer in {**language.CAPTIONS, **language.DETAILED}.values():
            assert all(name in answer(drawn).lower() for name in names)
        request, answer = language.question(drawn, rng)
        assert request[0].isupper() and answer[0].isupper()


def test_splits_are_disjoint_and_cover_everything():
    assert sorted(d for digits in SPLITS.values() for d in digits) == list(range(10))
    rng = np.random.default_rng(0)
    drawn = {split: {sample_in(split, sample_scene, rng).content for _ in range(300)} for split in SPLITS}
    assert not drawn["heldout"] & drawn["draft"] and not drawn["heldout"] & drawn["target"]
    assert all(split_of(content) == "target" for content in drawn["target"])


def test_no_name_is_a_word_of_another():
    words = [word for name in NAMES for word in name.split()]
    assert len(words) == len(set(words))


def test_articles_and_lists():
    assert [a("owl"), a("unicorn"), a("grapes"), a("dog")] == ["an owl", "a unicorn", "some grapes", "a dog"]
    assert listing(["a", "b", "c"]) == "a, b and c"
