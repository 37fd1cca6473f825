"""The load test of the server: it is bounded, loses no request and leaves no process running."""

import json

import pytest

from tests.processes import running
from vilg.cli import main

pytest.importorskip("gradio", reason="gradio: pip install 'vilg[serve]'")


@pytest.mark.fleet
def test_no_request_is_lost(capsys, exported):
    assert (
        main(
            [
                "bench",
                "serve",
                "--export",
                str(exported),
                "--requests",
                "8",
                "--together",
                "4",
                "--seconds",
                "60",
                "--json",
            ]
        )
        == 0
    )
    result = json.loads(capsys.readouterr().out)
    alone, together = result["alone"], result["together"]
    assert (alone["requests"], alone["clients"], alone["lost"], alone["mean_batch"]) == (2, 1, 0, 1)
    assert (together["requests"], together["clients"], together["lost"]) == (8, 4, 0) and together["mean_batch"] > 1
    for row in (alone, together):
        assert 0 < row["median"] <= row["worst"] <= row["seconds"]
        assert row["pictures_per_second"] == pytest.approx(row["requests"] / row["seconds"])
    assert result["ratio"] == pytest.approx(together["pictures_per_second"] / alone["pictures_per_second"])
    assert not running("serve", str(exported))


def test_server_that_does_not_start_is_reported(capsys, tmp_path):
    assert main(["bench", "serve", "--export", str(tmp_path)]) == 1
    assert "vilg: the server did not start" in capsys.readouterr().err
    assert main(["bench", "serve", "--export", str(tmp_path), "--together", "0"]) == 1
    assert "--together 0" in capsys.readouterr().err
