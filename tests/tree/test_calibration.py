"""Chances learn from what was accepted."""

import numpy as np

from vllm_specflash.tree.calibration import Calibration, calibrated


def test_untaught_chances_are_the_drafts():
    chances = np.array([0.0, 0.1, 0.5, 1.0], dtype=np.float32)
    np.testing.assert_allclose(calibrated(chances, Calibration().ratio), [0, 0.1, 0.5, 1])


def test_an_overconfident_draft_is_believed_less():
    rng = np.random.default_rng(0)
    calibration = Calibration()
    for _ in range(1500):
        said = rng.uniform(0, 1, 32)
        calibration.observe(said, rng.uniform(0, 1, 32) < 0.5 * said)
    asked = np.linspace(0.1, 1, 10)
    np.testing.assert_allclose(calibrated(asked, calibration.ratio), 0.5 * asked, atol=0.12)


def test_it_forgets_when_the_text_changes():
    calibration = Calibration()
    for _ in range(2000):
        calibration.observe(np.full(4, 0.8), np.zeros(4))
    low = float(calibrated(np.array([0.8]), calibration.ratio)[0])
    for _ in range(2000):
        calibration.observe(np.full(4, 0.8), np.full(4, 0.8) > 0)
    assert low < 0.1 and calibrated(np.array([0.8]), calibration.ratio)[0] > 0.8
