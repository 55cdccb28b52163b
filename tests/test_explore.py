"Explorers without a browser: controls are set in code, and what is shown must follow."
import base64
import json
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import ipywidgets as widgets
import pytest
import torch
from PIL import Image

from gwm_nb import explore
from gwm_nb.explore import (Explorer, Snapshots, brushed, curves, explore_divisions, explore_fit, explore_motion, explore_results, explore_training, film, fitted, mergings, moved,
                            parameter_names, png, theta_of, tiles)
from gwm_nb.flow import flow_to_rgb, warp
from gwm_nb.loss import ReconstructionLoss
from gwm_nb.motion import Basis, bases, fit_motion, motion_fields
from gwm_nb.scenes import MovingScenes, load_photo
from gwm_nb.segment import Result, segment
from gwm_nb.show import overlay
from gwm_nb.train import fit

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
    red, blue = torch.zeros(3, 10, 20), torch.zeros(3, 10, 20)
    red[0], blue[2] = 1, 1
    sheet = tiles({"red": red, "blue": blue, "half": torch.full((10, 20), .5)}, width=40, columns=2, words=["below"])
    assert sheet.size == (40 * 2 + 6, 2 * (20 + 18 + 6) + 18)
    assert torch.equal(colour_at(sheet, 20, 28), torch.tensor([1., 0, 0])) and torch.equal(colour_at(sheet, 66, 28), torch.tensor([0, 0, 1.]))
    assert torch.equal(colour_at(sheet, 66, 72), torch.ones(3)) and colour_at(sheet, 20, 72).std() > .05        # no fourth picture; a map has colours
    assert opened(png(sheet)).size == sheet.size and opened(png(sheet)).format == "PNG"


def test_a_film_has_all_pictures_and_says_how_long():
    pictures = [tiles({f"{i}": torch.full((3, 20, 30), i / 4)}) for i in range(4)]
    shown = film(pictures, rate=5.)
    assert shown.format == "gif" and frames_of(shown) == (4, pictures[0].size) and opened(shown.data).info["duration"] == 200
    gif = opened(shown.data)
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
    assert explorer.numbers == {"sum": 8.} and explorer.words.value == "sum 8" and explorer.screen.value != before
    drawn = len(calls)
    explorer.move(a=1, b=-1.)
    assert calls[drawn:] == [(1, -1.)] and explorer.values == {"a": 1, "b": -1.} and explorer.words.value == "sum 0"
    with pytest.raises(ValueError, match="no control 'c'; there are a, b"):
        explorer.move(c=1)


def test_a_whole_number_can_be_played():
    explorer, _ = counting()
    play, slider = explorer.children[0].children
    assert isinstance(play, widgets.Play) and slider is explorer.controls["a"] and (play.min, play.max) == (0, 10)
    assert explorer.children[1] is explorer.controls["b"]


def test_a_film_leaves_the_controls_where_they_were():
    explorer, _ = counting(tour=[dict(a=0), dict(a=5), dict(a=10)])
    explorer.move(a=4, b=2.)
    assert frames_of(explorer.watch())[0] == 3 and frames_of(explorer.watch([dict(b=1.), dict(b=3.)]))[0] == 2
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
    parameters = torch.linspace(-2, 3, len(names))
    theta = theta_of(parameters.tolist(), basis)
    flow = motion_fields(theta, SIZE, basis)[:, 0]
    assert torch.allclose(fit_motion(torch.ones(1, 1, *SIZE), flow, basis), theta, atol=1e-3)


def test_names_of_parameters(monkeypatch):
    assert parameter_names("similarity") == ["u", "v", "u x, v y", "v x, -u y"]
    assert parameter_names("quadratic")[-4:] == ["u yy", "v yy", "u xy", "v xy"]
    monkeypatch.setitem(bases, "wide", Basis(1, (((0, 0, 1),), ((0, 1, 1),), ((1, 0, 2), (2, 1, 2)), ((2, 0, -.5), (1, 1, .5)))))
    assert parameter_names("wide") == ["u", "v", "2 u x, 2 v y", "-0.5 u y, 0.5 v x"]


@pytest.mark.parametrize("basis", bases)
def test_dragging_u_by_three_pixels_makes_the_mean_three(basis):
    explorer = explore_motion(basis, load_photo("chelsea")[:, ::6, ::6])
    assert explorer.numbers == {"mean u": 0., "mean v": 0., "longest": 0.}
    explorer.controls["u"].value = 3.
    assert explorer.numbers == pytest.approx({"mean u": 3., "mean v": 0., "longest": 3.}, abs=1e-5)
    size = explorer.pictures["before"].shape[1:]
    assert torch.equal(explorer.pictures["flow"], flow_to_rgb(torch.tensor([3., 0.])[:, None, None].expand(2, *size), 10.))
    assert torch.allclose(explorer.pictures["after"][:, :, 3:], explorer.pictures["before"][:, :, :-3], atol=1e-4)
    explorer.move(u=0., v=-4.)
    assert explorer.numbers["mean v"] == pytest.approx(-4.)
    assert torch.allclose(explorer.pictures["after"][:, :-4], explorer.pictures["before"][:, 4:], atol=1e-4)


def test_growing_and_turning_have_the_right_sense():
    ruler = torch.zeros(3, 41, 61)
    ruler[:, 20, 45:55] = 1          # right of the centre
    heavy = lambda picture: [(picture[0] * torch.arange(n).view(shape)).sum() / picture[0].sum() for n, shape in ((61, (1, 61)), (41, (41, 1)))]
    x, y = heavy(moved(ruler, theta_of([0, 0, 5., 0], "similarity"), "similarity"))
    assert x > 52 and abs(y - 20) < .5                                  # farther out
    x, y = heavy(moved(ruler, theta_of([0, 0, 0, 5.], "similarity"), "similarity"))
    assert 48 < x < 51 and y > 22                                       # v x: the right side goes down


def test_a_moved_picture_is_pulled_back_by_its_flow_and_a_naively_warped_one_is_not():
    x = torch.linspace(0, 12, 97)
    smooth = (torch.sin(x) * torch.cos(x[:65, None]) / 2 + .5).expand(3, -1, -1)
    theta = theta_of([2., 1, 12, -3, 4, 9, 3, 0, 0, 2, -4, 1], "quadratic")
    flow = motion_fields(theta, (65, 97), "quadratic")[:, 0]
    off = lambda after: (warp(after[None], flow)[0] - smooth)[:, 15:-15, 20:-20].abs().max()
    assert off(moved(smooth, theta, "quadratic")) < .01 < .05 < off(warp(smooth[None], -flow)[0])


# ---- masks on a flow

def test_the_true_mask_has_the_smaller_loss(sample):
    explorer = explore_fit(sample)
    assert list(explorer.controls["mask"].options) == ["true", "true, moved aside", "left half", "nothing"]
    losses = {}
    for name in explorer.controls["mask"].options:
        explorer.controls["mask"].value = name
        losses[name] = explorer.numbers["loss"]
    assert losses["true"] < .2 * min(losses["true, moved aside"], losses["left half"], losses["nothing"])
    assert losses["nothing"] == pytest.approx(explorer.numbers["of one motion alone"])


@pytest.mark.parametrize("basis", bases)
def test_the_loss_that_is_shown_is_the_loss(sample, basis):
    explorer = explore_fit(sample)
    explorer.move(mask="left half", basis=basis)
    mask = torch.arange(80).expand(48, 80) < 40
    loss = ReconstructionLoss(basis, flow_clip=None)(60 * torch.stack([~mask, mask])[None].float(), sample["flow"][None])
    assert explorer.numbers["loss"] == pytest.approx(loss.item(), rel=1e-4)
    explained, error = fitted(mask, sample["flow"], basis)
    assert torch.allclose(error, (explained - sample["flow"]).square().mean(0)) and explained.shape == (2, 48, 80)
    assert torch.equal(explorer.pictures["frame and mask"], overlay(sample["image"], mask))


def test_a_brush_adds_and_takes_away():
    mask = torch.zeros(20, 30, dtype=torch.bool)
    dot = brushed(mask, "add", 10, 5, 2)
    assert dot.sum() == 13 and dot[5, 10] and dot[3, 10] and not dot[2, 10] and not dot[10, 5]
    assert not brushed(dot, "take away", 10, 5, 2).any() and torch.equal(brushed(dot, "off", 10, 5, 9), dot)
    assert not mask.any()


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
    assert explorer.values["mask"] == "painted" and explorer.values["brush"] == "off" and explorer.numbers["loss"] == pytest.approx(painted)
    explorer.move(brush="take away", radius=3.)
    assert explorer.numbers["loss"] > painted
    keep.click()
    worse = explorer.numbers["loss"]
    assert worse > painted and list(explorer.controls["mask"].options).count("painted") == 1
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
    return fit(MovingScenes(24, size=SIZE), steps=50, progress=False, device="cpu", callbacks=[snapshots]), snapshots


def test_snapshots_are_kept_before_and_between_steps(trained):
    learn, snapshots = trained
    assert list(snapshots.masks) == [0, 15, 30, 45] and all(m.shape == (2, 2, *SIZE) for m in snapshots.masks.values())
    assert not torch.equal(snapshots.masks[0], snapshots.masks[45])


def test_looking_changes_no_training():
    data = MovingScenes(4, size=SIZE)
    plain, watched = (fit(data, steps=4, progress=False, device="cpu", callbacks=c).history for c in ([], [Snapshots(data, every=1)]))
    assert plain == watched


def test_the_step_slider_shows_that_step(trained):
    learn, snapshots = trained
    explorer = explore_training(learn)
    assert explorer.values == {"step": 45, "scene": 0}
    late = explorer.numbers["loss here"]
    explorer.controls["step"].value = 0
    assert explorer.numbers["loss here"] > 1.2 * late and {"frame", "flow", "masks", "explained", "truth", "loss"} == explorer.pictures.keys()
    logits = snapshots.masks[0][0].log()[None]
    assert explorer.numbers["loss here"] == pytest.approx(ReconstructionLoss(normalise=True)(logits, snapshots.samples[0]["flow"][None]).item(), rel=1e-4)
    at_zero = explorer.pictures
    explorer.move(step=15)
    assert not torch.equal(at_zero["masks"], explorer.pictures["masks"]) and not torch.equal(at_zero["loss"], explorer.pictures["loss"])
    assert torch.equal(at_zero["frame"], explorer.pictures["frame"])
    explorer.controls["scene"].value = 1
    assert torch.equal(explorer.pictures["frame"], snapshots.samples[1]["image"]) and 0 <= explorer.numbers["J"] <= 1


def test_a_training_without_snapshots_says_what_to_do():
    learn = fit(MovingScenes(2, size=SIZE), steps=1, progress=False, device="cpu")
    with pytest.raises(ValueError, match=r"callbacks=\[Snapshots\(samples\)\]"):
        explore_training(learn)


# ---- divisions

def split_truth(sample, K, basis):
    "The truth as K masks: the background in one, each side of the object in the next, nothing in the rest."
    h, w = sample["mask"].shape
    inside, left = sample["mask"] > 0, torch.arange(w).expand(h, w) < (sample["mask"] > 0).nonzero()[:, 1].float().mean()
    parts = [~inside, inside] if K == 2 else [~inside, inside & left, inside & ~left, *[torch.zeros_like(inside)] * (K - 3)]
    return torch.stack(parts).float()


def test_divisions_follow_their_three_choices(sample):
    asked = []

    def divide(sample, K, basis):
        asked.append((K, basis))
        return split_truth(sample, K, basis)
    explorer = explore_divisions(sample, (2, 3), divide)
    assert asked == [(2, "affine")] and explorer.numbers["object"] == [1] and explorer.numbers["J"] == 1.
    affine = explorer.numbers["loss"]
    explorer.move(basis="translation")
    assert explorer.numbers["loss"] > affine
    for merging in mergings:
        explorer.move(K=3, basis="affine", merging=merging)
        if merging != "border":       # which has to put one of the two halves aside, or not
            assert explorer.numbers["object"] == [1, 2] and explorer.numbers["J"] == 1., merging
    assert torch.equal(explorer.pictures["merged"], overlay(sample["image"], sample["mask"] > 0))
    assert len(asked) == len(set(asked))


def test_the_labels_choose_best_and_are_asked_only_where_there_are_any(sample):
    masks = split_truth(sample, 3, "affine")[[1, 0, 2]][None]
    assert mergings["by the labels"](masks, sample).tolist() == [True, False, True]
    bare = {k: sample[k] for k in ("image", "flow")}
    explorer = explore_divisions(bare, (2,), lambda s, K, basis: split_truth(sample, K, basis))
    assert "by the labels" not in explorer.controls["merging"].options and "J" not in explorer.numbers


# ---- results

@pytest.fixture(scope="module")
def results(tmp_path_factory):
    "A folder as gwm_segment leaves it: six frames, two of them annotated, one object that nobody can miss."
    place = tmp_path_factory.mktemp("clip")
    scene = MovingScenes(1, seed=1002, size=(64, 96)).scene(0)
    for folder in ("frames", "masks"): (place / folder).mkdir()
    for t in range(6):
        pixels = (scene.frame(t).permute(1, 2, 0) * 255).round().byte().numpy()
        Image.fromarray(pixels).save(place / f"frames/{t:05d}.png")
    for t in (1, 4):
        Image.fromarray(((scene.labels(t) > 0) * 255).byte().numpy()).save(place / f"masks/{t:05d}.png")
    segment(place / "frames", place / "out", masks=place / "masks", preset="fast", outputs=["masks"], sound=False)
    return place


def test_the_frame_slider_shows_that_frame(results):
    explorer = explore_results(Result(results / "out", results / "frames"))
    report = json.loads((results / "out/result.json").read_text())
    for frame in (0, 4):
        explorer.move(frame=frame, opacity=0.)
        image = torch.tensor(list(Image.open(results / f"frames/{frame:05d}.png").tobytes())).view(64, 96, 3).permute(2, 0, 1) / 255
        assert torch.allclose(explorer.pictures[f"frame {frame:05d}"], image, atol=1e-6)
        assert explorer.numbers["confidence"] == pytest.approx(report["confidence"]["frames"][f"{frame:05d}"])
    assert explorer.numbers["J"] == pytest.approx(report["J"]["frames"]["00004"])
    explorer.move(frame=2)
    assert "J" not in explorer.numbers


def test_the_opacity_slider_goes_from_frame_to_overlay(results):
    explorer = explore_results(Result(results / "out", results / "frames"))
    pictures = []
    for opacity in (0., .5, 1.):
        explorer.controls["opacity"].value = opacity
        pictures.append(explorer.pictures["frame 00000"])
    mask = torch.tensor(list(Image.open(results / "out/00000.png").tobytes())).view(64, 96) > 0
    assert torch.allclose(pictures[2], overlay(pictures[0], mask)) and torch.allclose(pictures[1], (pictures[0] + pictures[2]) / 2, atol=1e-6)


def test_what_nobody_judged_is_not_shown(results, tmp_path):
    "A network's results have no confidence, a clip without annotations no J."
    report = json.loads((results / "out/result.json").read_text())
    for name in report["names"]: (tmp_path / f"{name}.png").write_bytes((results / f"out/{name}.png").read_bytes())
    for gone, left in (("confidence", {"J"}), ("J", set())):
        del report[gone]
        (tmp_path / "result.json").write_text(json.dumps(report))
        explorer = explore_results(Result(tmp_path, results / "frames"))
        explorer.move(frame=1)
        assert explorer.numbers.keys() == left and len(explorer.pictures) == 1 + len(left) and explorer.words.value.startswith("J" if left else "")


def test_large_frames_are_kept_small_and_a_clip_that_is_gone_is_named(results):
    explorer = explore_results(Result(results / "out", results / "frames"), longest=48)
    assert explorer.pictures["frame 00000"].shape == (3, 32, 48)
    (results / "frames").rename(results / "gone")
    try:
        with pytest.raises(FileNotFoundError, match="frames: no such clip"):
            explore_results(Result(results / "out", results / "frames"))
    finally:
        (results / "gone").rename(results / "frames")


# ---- the notebook

def test_the_page_shows_every_explorer_as_a_small_film():
    cells = json.loads((root / "nbs/13_explore.ipynb").read_text(encoding="utf-8"))["cells"]
    films = {"".join(c["source"]): data for c in cells for o in c.get("outputs", []) if (data := o.get("data", {}).get("image/gif"))}
    for name in ("explore_motion(", "explore_fit(", "explore_training(", "explore_divisions(", "explore_results("):
        assert any(name in source for source in films), name
    assert all(len(base64.b64decode(data)) < 300_000 for data in films.values())
