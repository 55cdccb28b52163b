"Explorers without a browser: controls are set in code, and what is shown must follow."
import base64
import json
import shutil
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import ipywidgets as widgets
import pytest
import torch
from PIL import Image

from gwm_nb import explore
from gwm_nb.explore import (Explorer, Snapshots, brushed, curves, explore_divisions, explore_fit,
                            explore_motion, explore_results, explore_training, film, fitted,
                            mergings, moved, parameter_names, png, theta_of, tiles)
from gwm_nb.flow import flow_to_rgb, warp
from gwm_nb.loss import ReconstructionLoss
from gwm_nb.motion import Basis, bases, fit_motion, motion_fields
from gwm_nb.scenes import MovingScenes, load_photo
from gwm_nb.segment import Result, segment
from gwm_nb.show import overlay
from gwm_nb.train import fit
from inputs import write_scene

root = Path(__file__).resolve().parent.parent
SIZE = (48, 80)


@pytest.fixture(scope="module")
def sample(): return MovingScenes(1, seed=30, objects=1, size=SIZE)[0]


def opened(data): return Image.open(BytesIO(data))


def frames_of(gif):
    file = opened(gif.data)
    return file.n_frames, file.size


def colour_at(image, x, y): return torch.tensor(image.convert("RGB").getpixel((x, y))) / 255


# ---- pictures and films

def test_tiles_stand_in_rows_under_their_titles():
    red, blue = torch.zeros(2, 3, 10, 20)
    red[0], blue[2] = 1, 1
    pictures = {"red": red, "blue": blue, "half": torch.full((10, 20), .5)}
    sheet = tiles(pictures, width=40, columns=2, words=["below"])
    assert sheet.size == (40 * 2 + 6, 2 * (20 + 18 + 6) + 18)
    assert colour_at(sheet, 20, 28).tolist() == [1, 0, 0]
    assert colour_at(sheet, 66, 28).tolist() == [0, 0, 1]
    assert colour_at(sheet, 66, 72).tolist() == [1, 1, 1]             # no fourth picture
    assert colour_at(sheet, 20, 72).std() > .05                       # a map has colours
    assert opened(png(sheet)).size == sheet.size and opened(png(sheet)).format == "PNG"


def test_a_film_has_all_pictures_and_says_how_long():
    pictures = [tiles({f"{i}": torch.full((3, 20, 30), i / 4)}) for i in range(4)]
    shown = film(pictures, rate=5.)
    gif = opened(shown.data)
    assert shown.format == "gif" and frames_of(shown) == (4, pictures[0].size)
    assert gif.info["duration"] == 200
    for i, picture in enumerate(pictures):
        gif.seek(i)
        assert (colour_at(gif, 100, 80) - colour_at(picture, 100, 80)).abs().max() < .03


def test_what_rests_costs_little():
    still = [tiles({"photo": load_photo("chelsea")})] * 8
    assert len(film(still).data) < 1.2 * len(film(still[:1]).data)


def test_a_line_walks_along_a_curve():
    values = {"loss": {i: 1 - i / 20 for i in range(20)}}
    early, late = (curves(values, at, (100, 160)) for at in (2, 17))
    assert early.shape == (3, 100, 160) and not torch.equal(early, late)
    column = lambda picture: ((picture.sum(0) < .3).sum(0)).argmax().item()
    left, right = column(early[:, 4:80, 34:150]), column(late[:, 4:80, 34:150])
    assert left < 30 < 80 < right


# ---- the explorer

def counting(**options):
    calls = []

    def draw(a, b):
        calls.append((a, b))
        return {"map": torch.full((8, 12), a / 10)}, {"sum": float(a + b)}
    controls = dict(a=widgets.IntSlider(2, min=0, max=10), b=widgets.FloatSlider(1., min=-5, max=5))
    return Explorer(draw, controls, **options), calls


def test_controls_are_followed_one_by_one_and_together():
    explorer, calls = counting()
    assert explorer.numbers == {"sum": 3.} and explorer.words.value == "sum 3"
    before = explorer.screen.value
    explorer.controls["a"].value = 7
    assert explorer.numbers == {"sum": 8.} and explorer.words.value == "sum 8"
    assert explorer.screen.value != before
    drawn = len(calls)
    explorer.move(a=1, b=-1.)
    assert calls[drawn:] == [(1, -1.)] and explorer.values == {"a": 1, "b": -1.}
    assert explorer.words.value == "sum 0"
    with pytest.raises(ValueError, match="'c'.* a, b"):
        explorer.move(c=1)


def test_a_whole_number_can_be_played():
    explorer, _ = counting()
    play, slider = explorer.children[0].children
    assert isinstance(play, widgets.Play) and (play.min, play.max) == (0, 10)
    assert slider is explorer.controls["a"]
    assert explorer.children[1] is explorer.controls["b"]


def test_a_film_leaves_the_controls_where_they_were():
    explorer, _ = counting(tour=[dict(a=0), dict(a=5), dict(a=10)])
    explorer.move(a=4, b=2.)
    assert frames_of(explorer.watch())[0] == 3
    assert frames_of(explorer.watch([dict(b=1.), dict(b=3.)]))[0] == 2
    assert explorer.values == {"a": 4, "b": 2.} and explorer.numbers == {"sum": 6.}


def test_who_has_no_kernel_sees_the_film_and_who_has_one_the_widget(monkeypatch):
    explorer, _ = counting(tour=[dict(a=0), dict(a=5)])
    view = "application/vnd.jupyter.widget-view+json"
    for shell in (None, SimpleNamespace()):
        monkeypatch.setattr(explore, "get_ipython", lambda: shell)
        shown = explorer._repr_mimebundle_()
        assert shown["text/plain"] == "Explorer of a, b" and view not in shown
        assert opened(base64.b64decode(shown["image/gif"])).n_frames == 2
    monkeypatch.setattr(explore, "get_ipython", lambda: SimpleNamespace(kernel=object()))
    assert {view, "image/gif"} <= explorer._repr_mimebundle_().keys()


# ---- motions

@pytest.mark.parametrize("basis", bases)
def test_each_slider_is_a_parameter_of_the_basis(basis):
    names = parameter_names(basis)
    assert len(set(names)) == len(names) and names[:2] == ["u", "v"]
    theta = theta_of(torch.linspace(-2, 3, len(names)).tolist(), basis)
    found = fit_motion(torch.ones(1, 1, *SIZE), motion_fields(theta, SIZE, basis)[:, 0], basis)
    assert torch.allclose(found, theta, atol=1e-3)


def test_names_of_parameters(monkeypatch):
    assert parameter_names("similarity") == ["u", "v", "u x, v y", "v x, -u y"]
    assert parameter_names("quadratic")[-4:] == ["u yy", "v yy", "u xy", "v xy"]
    wide = ((0, 0, 1),), ((0, 1, 1),), ((1, 0, 2), (2, 1, 2)), ((2, 0, -.5), (1, 1, .5))
    monkeypatch.setitem(bases, "wide", Basis(1, wide))
    assert parameter_names("wide") == ["u", "v", "2 u x, 2 v y", "-0.5 u y, 0.5 v x"]


@pytest.mark.parametrize("basis", ["translation", "quadratic"])
def test_dragging_u_by_three_pixels_makes_the_mean_three(basis):
    explorer = explore_motion(basis, load_photo("chelsea")[:, ::6, ::6])
    shown = lambda name: explorer.pictures[name]
    assert explorer.numbers == {"mean u": 0., "mean v": 0., "longest": 0.}
    explorer.controls["u"].value = 3.
    wanted = {"mean u": 3., "mean v": 0., "longest": 3.}
    assert explorer.numbers == pytest.approx(wanted, abs=1e-5)
    constant = torch.tensor([3., 0.])[:, None, None].expand(2, *shown("before").shape[1:])
    assert torch.equal(shown("flow"), flow_to_rgb(constant, 10.))
    assert torch.allclose(shown("after")[:, :, 3:], shown("before")[:, :, :-3], atol=1e-4)
    explorer.move(u=0., v=-4.)
    assert explorer.numbers["mean v"] == pytest.approx(-4.)
    assert torch.allclose(shown("after")[:, :-4], shown("before")[:, 4:], atol=1e-4)


@pytest.mark.parametrize("parameters, place", [([0, 0, 5., 0], (53, 20)),      # farther out
                                               ([0, 0, 0, 5.], (50, 23))])     # its right goes down
def test_growing_and_turning_have_the_right_sense(parameters, place):
    ruler = torch.zeros(3, 41, 61)
    ruler[:, 20, 45:55] = 1                                                    # right of the centre
    after = moved(ruler, theta_of(parameters, "similarity"), "similarity")[0]
    y, x = (after.sum(1 - d) @ torch.arange(float(n)) / after.sum() for d, n in ((0, 41), (1, 61)))
    assert (x.item(), y.item()) == pytest.approx(place, abs=1.5)


def test_a_moved_picture_is_pulled_back_by_its_flow_and_a_naively_warped_one_is_not():
    x = torch.linspace(0, 12, 97)
    smooth = (torch.sin(x) * torch.cos(x[:65, None]) / 2 + .5).expand(3, -1, -1)
    theta = theta_of([2., 1, 12, -3, 4, 9, 3, 0, 0, 2, -4, 1], "quadratic")
    flow = motion_fields(theta, (65, 97), "quadratic")[:, 0]
    def off(after): return (warp(after[None], flow)[0] - smooth)[:, 15:-15, 20:-20].abs().max()
    assert off(moved(smooth, theta, "quadratic")) < .01 < .05 < off(warp(smooth[None], -flow)[0])


# ---- masks on a flow

def test_the_true_mask_has_the_smaller_loss(sample):
    explorer = explore_fit(sample)
    control, losses = explorer.controls["mask"], []
    assert list(control.options) == ["true", "true, moved aside", "left half", "nothing"]
    for control.value in control.options:
        losses.append(explorer.numbers["loss"])
    assert losses[0] < .2 * min(losses[1:])
    assert losses[-1] == pytest.approx(explorer.numbers["of one motion alone"])


@pytest.mark.parametrize("basis", ["similarity", "quadratic"])
def test_the_loss_that_is_shown_is_the_loss(sample, basis):
    explorer = explore_fit(sample)
    explorer.move(mask="left half", basis=basis)
    mask = torch.arange(80).expand(48, 80) < 40
    logits = 60 * torch.stack([~mask, mask])[None].float()
    loss = ReconstructionLoss(basis, flow_clip=None)(logits, sample["flow"][None])
    assert explorer.numbers["loss"] == pytest.approx(loss.item(), rel=1e-4)
    explained, error = fitted(mask, sample["flow"], basis)
    assert torch.allclose(error, (explained - sample["flow"]).square().mean(0))
    assert explained.shape == (2, 48, 80)
    assert torch.equal(explorer.pictures["frame and mask"], overlay(sample["image"], mask))


def test_a_brush_adds_and_takes_away():
    mask = torch.zeros(20, 30, dtype=torch.bool)
    dot = brushed(mask, "add", 10, 5, 2)
    assert dot.sum() == 13 and dot[5, 10] and dot[3, 10] and not dot[2, 10] and not dot[10, 5]
    assert not brushed(dot, "take away", 10, 5, 2).any() and not mask.any()
    assert torch.equal(brushed(dot, "off", 10, 5, 9), dot)


def test_painting_the_object_brings_the_loss_down_and_keep_keeps_it(sample):
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
    assert explorer.numbers["loss"] == pytest.approx(painted)
    explorer.move(brush="take away", radius=3.)
    assert explorer.numbers["loss"] > painted
    keep.click()
    worse = explorer.numbers["loss"]
    assert worse > painted
    assert list(explorer.controls["mask"].options).count("painted") == 1
    explorer.controls["mask"].value = "nothing"
    explorer.controls["mask"].value = "painted"
    assert explorer.numbers["loss"] == worse


def test_a_flow_without_annotation_and_masks_of_ones_own(sample):
    bare = {k: sample[k] for k in ("image", "flow")}
    assert list(explore_fit(bare).controls["mask"].options) == ["left half", "nothing"]
    own = {"mine": sample["mask"] > 0}
    explorer = explore_fit(bare, own, "quadratic")
    assert explorer.values["mask"] == "mine" and explorer.values["basis"] == "quadratic"
    next(w for w in explorer.children if isinstance(w, widgets.Button)).click()
    assert explorer.values["mask"] == "painted" and list(own) == ["mine"]
    assert frames_of(explorer.watch())[0] == len(explorer.tour)


# ---- a training

@pytest.fixture(scope="module")
def trained():
    held_out = MovingScenes(2, seed=1002, size=SIZE)
    snapshots = Snapshots(held_out, every=15)
    learn = fit(MovingScenes(16, size=SIZE), steps=50, batch_size=4, progress=False, device="cpu",
                callbacks=[snapshots])
    return learn, snapshots


def test_snapshots_are_kept_before_and_between_steps(trained):
    learn, snapshots = trained
    assert list(snapshots.masks) == [0, 15, 30, 45]
    assert {m.shape for m in snapshots.masks.values()} == {(2, 2, *SIZE)}
    assert not torch.equal(snapshots.masks[0], snapshots.masks[45])


def test_looking_changes_no_training():
    data = MovingScenes(4, size=SIZE)
    plain, watched = (fit(data, steps=4, batch_size=2, progress=False, device="cpu", callbacks=c)
                      .history for c in ([], [Snapshots(data, every=1)]))
    assert plain == watched


def test_the_step_slider_shows_that_step(trained):
    learn, snapshots = trained
    explorer = explore_training(learn)
    assert explorer.values == {"step": 45, "scene": 0}
    late = explorer.numbers["loss here"]
    explorer.controls["step"].value = 0
    assert explorer.numbers["loss here"] > 1.2 * late
    assert explorer.pictures.keys() == {"frame", "flow", "masks", "explained", "truth", "loss"}
    logits, flow = snapshots.masks[0][0].log()[None], snapshots.samples[0]["flow"][None]
    wanted = ReconstructionLoss(normalise=True)(logits, flow).item()
    assert explorer.numbers["loss here"] == pytest.approx(wanted, rel=1e-4)
    at_zero = explorer.pictures
    explorer.move(step=15)
    same = {name for name, p in explorer.pictures.items() if torch.equal(p, at_zero[name])}
    assert not same & {"masks", "loss"} and "frame" in same
    explorer.controls["scene"].value = 1
    assert torch.equal(explorer.pictures["frame"], snapshots.samples[1]["image"])
    assert 0 <= explorer.numbers["J"] <= 1


def test_a_training_without_snapshots_says_what_to_do():
    learn = fit(MovingScenes(2, size=SIZE), steps=1, progress=False, device="cpu")
    with pytest.raises(ValueError, match=r"callbacks=\[Snapshots\(samples\)\]"):
        explore_training(learn)


# ---- divisions

def split_truth(sample, K, basis):
    "The truth as two or three masks: the background, and the object or its two halves."
    inside = sample["mask"] > 0
    left = torch.arange(inside.shape[1]) < inside.nonzero()[:, 1].float().mean()
    parts = [inside] if K == 2 else [inside & left, inside & ~left]
    return torch.stack([~inside, *parts]).float()


def test_divisions_follow_their_three_choices(sample):
    asked = []

    def divide(sample, K, basis):
        asked.append((K, basis))
        return split_truth(sample, K, basis)
    explorer = explore_divisions(sample, (2, 3), divide)
    assert asked == [(2, "affine")]
    assert (explorer.numbers["object"], explorer.numbers["J"]) == ([1], 1.)
    affine = explorer.numbers["loss"]
    explorer.move(basis="translation")
    assert explorer.numbers["loss"] > affine
    for merging in mergings:
        explorer.move(K=3, basis="affine", merging=merging)
        if merging != "border":       # which has to put one of the two halves aside, or not
            assert (explorer.numbers["object"], explorer.numbers["J"]) == ([1, 2], 1.), merging
    merged = overlay(sample["image"], sample["mask"] > 0)
    assert torch.equal(explorer.pictures["merged"], merged)
    assert len(asked) == len(set(asked))


def test_the_labels_choose_best_and_are_asked_only_where_there_are_any(sample):
    masks = split_truth(sample, 3, "affine")[[1, 0, 2]][None]
    assert mergings["by the labels"](masks, sample).tolist() == [True, False, True]
    bare = {k: sample[k] for k in ("image", "flow")}
    explorer = explore_divisions(bare, (2,), lambda s, K, basis: split_truth(sample, K, basis))
    assert "by the labels" not in explorer.controls["merging"].options
    assert "J" not in explorer.numbers


# ---- results

@pytest.fixture(scope="module")
def results(tmp_path_factory):
    "A folder as gwm_segment leaves it: six frames, two of them annotated, a plain object."
    place = tmp_path_factory.mktemp("clip")
    write_scene(place / "frames", place / "masks", seed=1002)
    for t in (0, 2, 3, 5):
        (place / f"masks/{t:05d}.png").unlink()
    segment(place / "frames", place / "out", masks=place / "masks", preset="fast",
            outputs=["masks"], no_sound=True)
    return place


def pixels(path): return torch.tensor(list(Image.open(path).tobytes()))


def test_the_frame_slider_shows_that_frame(results):
    explorer = explore_results(Result(results / "out", results / "frames"))
    report = json.loads((results / "out/result.json").read_text())
    for frame in (0, 4):
        explorer.move(frame=frame, opacity=0.)
        name = f"{frame:05d}"
        image = pixels(results / f"frames/{name}.png").view(64, 96, 3).permute(2, 0, 1) / 255
        assert torch.allclose(explorer.pictures[f"frame {name}"], image, atol=1e-6)
        wanted = report["confidence"]["frames"][name]
        assert explorer.numbers["confidence"] == pytest.approx(wanted)
    assert explorer.numbers["J"] == pytest.approx(report["J"]["frames"]["00004"])
    explorer.move(frame=2)
    assert "J" not in explorer.numbers


def test_the_opacity_slider_goes_from_frame_to_overlay(results):
    explorer = explore_results(Result(results / "out", results / "frames"))
    pictures = []
    for opacity in (0., .5, 1.):
        explorer.controls["opacity"].value = opacity
        pictures.append(explorer.pictures["frame 00000"])
    plain, half, full = pictures
    assert torch.allclose(full, overlay(plain, pixels(results / "out/00000.png").view(64, 96) > 0))
    assert torch.allclose(half, (plain + full) / 2, atol=1e-6)


def test_what_nobody_judged_is_not_shown(results, tmp_path):
    "A network's results have no confidence, a clip without annotations no J."
    report = json.loads((results / "out/result.json").read_text())
    for name in report["names"]:
        shutil.copy(results / f"out/{name}.png", tmp_path)
    for gone, left in (("confidence", {"J"}), ("J", set())):
        del report[gone]
        (tmp_path / "result.json").write_text(json.dumps(report))
        explorer = explore_results(Result(tmp_path, results / "frames"))
        explorer.move(frame=1)
        assert explorer.numbers.keys() == left and len(explorer.pictures) == 1 + len(left)
        assert explorer.words.value.startswith("".join(left))


def test_large_frames_are_kept_small_and_a_clip_that_is_gone_is_named(results):
    explorer = explore_results(Result(results / "out", results / "frames"), longest=48)
    assert explorer.pictures["frame 00000"].shape == (3, 32, 48)
    (results / "frames").rename(results / "gone")
    try:
        with pytest.raises(FileNotFoundError, match="frames: no such"):
            explore_results(Result(results / "out", results / "frames"))
    finally:
        (results / "gone").rename(results / "frames")


# ---- the notebook

def test_the_page_shows_every_explorer_as_a_small_film():
    cells = json.loads((root / "nbs/13_explore.ipynb").read_text(encoding="utf-8"))["cells"]
    outputs = [("".join(c["source"]), o.get("data", {}))
               for c in cells for o in c.get("outputs", [])]
    films = {source: data["image/gif"] for source, data in outputs if "image/gif" in data}
    for name in ("motion", "fit", "training", "divisions", "results"):
        assert any(f"explore_{name}(" in source for source in films), name
    assert all(len(base64.b64decode(data)) < 300_000 for data in films.values())
