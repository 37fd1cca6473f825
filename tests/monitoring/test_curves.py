"""Curves as text."""

import pytest

curves = pytest.importorskip("vilg.monitoring.curves", reason="uniplot is not installed: pip install 'vilg[watch]'")


def test_many_values_become_means_of_equal_groups():
    assert list(curves.thin([1, 3, 5, 7, 9], 10)) == [1, 3, 5, 7, 9]
    assert list(curves.thin([1, 3, 5, 7, 9], 3)) == [2, 6, 9]
    assert len(curves.thin(range(100_000), 160)) == 160


@pytest.mark.parametrize("values", [[1.0], [2.0, 2.0], [1e-9, 1e9], [0.1 * step for step in range(5000)]])
@pytest.mark.parametrize("width", [20, 60])
def test_a_curve_has_its_width_and_height(values, width):
    lines = curves.curve("loss", range(1, len(values) + 1), values, width, 6).splitlines()
    assert 6 + 3 <= len(lines) <= 6 + 4  # without room for labels, the steps are left out
    assert max(map(len, lines)) <= width
    assert lines[0].strip() == f"loss {values[-1]:.5g}"


def test_a_terminal_without_unicode_gets_ascii():
    assert curves.curve("loss", [1, 2, 3], [3.0, 1.0, 2.0], 40, 6, ascii_only=True).isascii()


def test_the_default_curves_are_those_that_the_run_has():
    lines = [
        {"step": 1, "loss": 1.0, "grad_norm": 1.0, "heldout_psnr": 9.0, "images_per_second": 3.0},
        {"step": 2, "loss": 1.0},
    ]
    assert curves.default_curves(lines) == ["loss", "heldout_psnr", "grad_norm", "images_per_second"]
    assert curves.default_curves(lines[1:]) == ["loss"]
