"Explorers without a browser: controls are set in code, and what is shown must follow."
import ipywidgets as widgets
import pytest
import torch

from gwm_nb.explore import explore_fit, explore_results
from gwm_nb.files import read_image, read_mask
from gwm_nb.scenes import MovingScenes
from gwm_nb.jobs import Result
from gwm_nb.segment import segment
from gwm_nb.show import overlay
from inputs import write_scene


def test_painting_the_object_brings_the_loss_down_and_keep_keeps_it():
    sample = MovingScenes(1, seed=30, objects=1, size=(48, 80))[0]
    y, x = (sample["mask"] > 0).nonzero().float().mean(0).tolist()
    explorer = explore_fit(sample)
    keep, = (w for w in explorer.children if isinstance(w, widgets.Button))
    explorer.move(mask="nothing", brush="add", x=x, y=y, radius=3.)
    small = explorer.numbers["loss"]
    explorer.move(radius=8.)
    painted = explorer.numbers["loss"]
    assert painted < small < explorer.numbers["of one motion alone"]
    keep.click()
    assert (explorer.values["mask"], explorer.values["brush"]) == ("painted", "off")
    explorer.controls["mask"].value = "nothing"
    explorer.controls["mask"].value = "painted"
    assert explorer.numbers["loss"] == pytest.approx(painted)


def test_the_frame_slider_shows_that_frame(tmp_path):
    "Of a folder as gwm_segment leaves it: six frames, five of them annotated, a plain object."
    write_scene(tmp_path / "frames", tmp_path / "masks", seed=1002)
    (tmp_path / "masks/00002.png").unlink()
    segment(tmp_path / "frames", tmp_path / "out", masks=tmp_path / "masks", preset="fast",
            outputs=["masks"], no_sound=True)
    plain = lambda name: read_image(tmp_path / f"frames/{name}.png") / 255
    result = Result(tmp_path / "out", tmp_path / "frames")
    explorer, report = explore_results(result), result.report
    for name in ("00000", "00004"):
        explorer.move(frame=int(name), opacity=0.)
        assert torch.allclose(explorer.images[f"frame {name}"], plain(name), atol=1e-6)
        wanted = report["confidence"]["frames"][name]
        assert explorer.numbers["confidence"] == pytest.approx(wanted)
    assert explorer.numbers["J"] == pytest.approx(report["J"]["frames"]["00004"])
    explorer.move(frame=2)
    assert "J" not in explorer.numbers
    explorer.move(frame=0, opacity=1.)
    mask = read_mask(tmp_path / "out/00000.png") > 0
    assert torch.allclose(explorer.images["frame 00000"], overlay(plain("00000"), mask))
