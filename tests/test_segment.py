"""Methods, presets and options; results in Python; parts of clips, several objects, masks that
outlive what fails beside them."""
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gwm_nb import merging, methods, refine
from gwm_nb.checkpoints import save
from gwm_nb.clips import open_clip
from gwm_nb.cutouts import Outputs, output_files, outputs, write_labels
from gwm_nb.evaluate import boundary_f, choose_object, jaccard
from gwm_nb.files import read_mask
from gwm_nb.network import create_network, predict_masks
from gwm_nb.paper import KeyFeatures
from gwm_nb.scenes import MovingScenes
from gwm_nb.commands import segment_all
from gwm_nb.jobs import Result
from gwm_nb.methods import SegmentOptions, choose_in_clip
from gwm_nb.segment import segment
from inputs import Bright, Mirror, frame_pixels, place, refused, write_frames, write_scene


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    "Ten frames of a scene, with annotations in the folder `truth` beside them."
    root = tmp_path_factory.mktemp("segment")
    return write_scene(root / "frames", root / "truth", n=10, size=(96, 160))


@pytest.fixture
def fast(clip, tmp_path):
    "Segment the first four frames: `fast(masks=...)`, into tmp_path/out."
    def run(**options):
        options = dict(preset="fast", outputs=["masks"], end=4) | options
        return segment(clip, tmp_path / "out", **options)
    return run


def written(out): return torch.stack([read_mask(f) for f in sorted(Path(out).glob("[0-9]*.png"))])


def test_a_result_is_what_was_written(fast, clip, tmp_path):
    result = fast(masks=clip.parent / "truth", outputs=["masks", "sheet"], end=None)
    report, names = result.report, [f"{t:05d}" for t in range(10)]
    masks, truth = torch.stack(list(result.masks)), written(clip.parent / "truth") > 0
    assert result.names == names and torch.equal(masks, written(tmp_path / "out") > 0)
    for name, measure in dict(J=jaccard, F=boundary_f).items():
        frames = measure(masks, truth).tolist()
        assert report[name]["frames"] == dict(zip(names, frames))
        assert report[name]["mean"] == pytest.approx(np.mean(frames))
    sure = report["confidence"]
    assert result.confidence.tolist() == pytest.approx([sure["frames"][n] for n in names])
    assert sure["mean"] == pytest.approx(result.confidence.mean().item(), abs=1e-3)
    copied = sorted(p.name for p in result.save(tmp_path / "copy").iterdir())
    assert copied == sorted(report["files"]) and Result(tmp_path / "copy").report == report
    (tmp_path / "copy/result.json").unlink()
    refused(result.save, tmp_path / "copy", says="00000.png")


@pytest.mark.parametrize("found", [dict(files=["../secret/00000.png"]),
                                   dict(names=["../secret/00000"])], ids=list)
def test_a_report_reaches_no_file_outside_its_folder(tmp_path, found):
    write_frames(tmp_path / "secret", [np.zeros((24, 32), np.uint8)])
    (tmp_path / "out").mkdir()
    report = dict(names=[], files=["result.json"], notes=[], settings=dict(clip="a")) | found
    (tmp_path / "out/result.json").write_text(json.dumps(report))
    read = lambda: list(Result(tmp_path / "out").masks) + [Result(tmp_path / "out").save(tmp_path)]
    refused(read, says="out: '../secret/.*not the name of a file in this folder")


def test_a_result_without_a_folder_lives_as_long_as_it_is_held(clip):
    result = segment(clip, preset="fast", outputs=["masks"], end=4)
    folder = result.folder
    assert len(list(result.masks)) == 4 and folder.is_dir()
    del result
    assert not folder.exists()


@pytest.mark.parametrize("options", [{}, dict(preset="gwm", steps=2, num_masks=2)], ids=str)
def test_parts_of_a_clip(fast, tmp_path, options):
    part = dict(start=2, end=9, every=2, max_side=80, fps=12)
    result = fast(**part, **options, outputs=["masks", "overlay"])
    assert result.names == ["00002", "00004", "00006", "00008"]
    assert next(result.masks).shape == (48, 80) and next(result.overlay()).shape == (3, 48, 80)
    film = open_clip(tmp_path / "out/overlay.mp4")
    assert len(film.names()) == 4 and film.rate == pytest.approx(6, rel=.01)
    assert result.report["settings"] | part == result.report["settings"]


def test_results_beside_their_clip_and_a_second_run(clip, tmp_path, capsys):
    video, options = tmp_path / "my_clip.webp", SegmentOptions(preset="fast")
    first, *others = [Image.open(f) for f in sorted(clip.iterdir())]
    first.save(video, save_all=True, append_images=others, duration=40, lossless=True)
    assert segment_all(video, tmp_path, options) == 0
    files = sorted(p.name for p in tmp_path.iterdir())
    assert {"00009.png", "overlay.mp4", "my_clip.webp"} <= set(files)
    assert segment_all(tmp_path, tmp_path, options) == 0
    assert "one clip, my_clip" in capsys.readouterr().out
    assert sorted(p.name for p in tmp_path.iterdir()) == files
    assert Result(tmp_path).report["settings"]["clip"] == str(video)


def test_options_are_complete_and_stay_so():
    assert SegmentOptions().preset == "default" and SegmentOptions(trained="x").preset == "trained"
    options = SegmentOptions(preset="gwm", steps=60, keep_network=True)
    assert replace(options, masks="there") == replace(options, masks="there", num_masks=4)
    given = SegmentOptions(preset="fast", start=2).given()
    assert given | dict(start=2, objects=1, method="dis") == given and "steps" not in given
    assert SegmentOptions(objects="3").objects == 3


def test_an_interrupted_run_goes_on_from_its_windows(fast, tmp_path, monkeypatch):
    monkeypatch.setenv("GWM_CACHE", str(tmp_path / "cache"))
    short = replace(refine.refine_presets["fast"], window=4, overlap=1)
    monkeypatch.setitem(refine.refine_presets, "fast", short)
    whole = torch.stack(list(fast(end=None).masks))
    stops, real = iter([False, False, True, False]), refine.refine_window
    for file in (tmp_path / "out").iterdir():
        file.unlink()
    def stopped(*args):
        if next(stops):
            raise KeyboardInterrupt
        return real(*args)
    monkeypatch.setattr(refine, "refine_window", stopped)
    with pytest.raises(KeyboardInterrupt):
        fast(end=None)
    begun = json.loads((tmp_path / "out/result.json").read_text())
    assert begun["unfinished"] and 0 < len(written(tmp_path / "out")) < 10
    assert len(list((tmp_path / "cache/windows").rglob("*.pt"))) == 2
    for file in (tmp_path / "out").glob("*.png"): os.utime(file, (2e9, 2e9))    # a slow run
    assert torch.equal(torch.stack(list(fast(end=None).masks)), whole)      # one more window
    assert not list((tmp_path / "cache/windows").rglob("*.pt"))


@pytest.mark.parametrize("size, seen", [
    ([64, 96], (64, 96)), ([], (128, 192)), ([8, 10**6], (128, 192))])
def test_a_network_sees_the_size_it_was_trained_on(tmp_path, monkeypatch, size, seen):
    write_scene(tmp_path / "clip", n=3, size=(96, 144))
    file, sizes = tmp_path / "a.safetensors", set()
    save(create_network("small"), file, config=dict(data=dict(size=size)))
    predict = methods.predict_masks
    def noted(network, images):
        return predict(network, (sizes.add(tuple(i.shape[1:])) or i for i in images))
    monkeypatch.setattr(methods, "predict_masks", noted)
    segment(tmp_path / "clip", trained=file, outputs=["masks"], quiet=True)
    assert sizes == {seen}


def test_several_objects_are_numbers_in_masks(tmp_path):
    scene = MovingScenes(40, seed=7, size=(144, 240), objects=3, camera=.5).scene(0)
    clip = write_frames(tmp_path / "clip", [frame_pixels(scene, t) for t in range(8)])
    options = dict(preset="fast", outputs=["masks", "rle", "prompts", "colmap"])
    result = segment(clip, tmp_path / "out", objects="2", **options)
    masks = torch.stack(list(result.masks))
    assert masks.dtype == torch.uint8 and set(masks.unique().tolist()) == {0, 1, 2}
    write_labels(tmp_path / "out/00003.png", np.zeros((144, 240)))      # no object in one frame
    assert {m.dtype for m in result.masks} == {torch.uint8}
    found = json.loads((tmp_path / "out/coco.json").read_text())["annotations"]
    assert {a["track_id"] for a in found} == {1, 2}
    for frame in json.loads((tmp_path / "out/prompts.json").read_text())["frames"]:
        mask = masks[frame["frame"]]
        for o in frame["objects"]:
            (top, left), (bottom, right) = (mask == o["object"]).nonzero().aminmax(dim=0)
            assert o["box"] == [left, top, right + 1, bottom + 1]
            assert {mask[y, x].item() for x, y in o["points"]} == {o["object"]}
        assert {o["object"] for o in frame["objects"]} == {1, 2} and len(o["points"]) == 3
    assert result.report["settings"]["objects"] == 2
    left_out = torch.stack([read_mask(tmp_path / f"out/{n}.png.png") for n in result.names]) == 0
    assert left_out.equal(masks > 0) and "00003.png.png" in result.report["files"]
    one, back = (torch.stack(list(segment(clip, outputs=["masks"], preset="fast", **o).masks))
                 for o in (dict(objects=1), dict(objects=2, invert=True)))
    assert one.equal(masks > 0) and one.dtype == torch.bool             # cut, and nothing else
    assert back.equal(~one)


def test_the_background_is_kept_and_measured_as_the_object(fast, clip):
    seen, wanted = {}, dict(masks=clip.parent / "truth", outputs=["masks", "cutout"])
    for invert in (False, True):
        result = fast(invert=invert, **wanted)
        alpha = np.array(Image.open(result.folder / "cutout_00002.png"))[..., 3]
        seen[invert] = list(result.masks)[2], torch.from_numpy(alpha > 127), result.report["J"]
        assert result.report["settings"].get("invert", False) == invert
    (mask, solid, J), (other, rest, same) = seen[False], seen[True]
    assert mask.any() and other.equal(~mask) and rest.equal(~solid) and J == same
    for wrong, says in {"rle": "leave out invert", "prompts": "leave out invert"}.items():
        refused(SegmentOptions, outputs=["masks", wrong], invert=True, says=f"{wrong}.*{says}")
    refused(SegmentOptions, outputs=["colmap"], max_side=80, says="colmap.*max_side")


def test_the_object_of_a_clip_is_chosen_by_motion_too(clip):
    "The object's mask covers two sides of the frame; the border is wrong, motion outweighs it."
    truth = torch.stack([read_mask(f) > 0 for f in sorted((clip.parent / "truth").iterdir())])
    truth[:, :1] = truth[:, :, :1] = True
    images = [.4 * image / 255 + .6 * t for (_, image), t in zip(open_clip(clip), truth)]
    by_border = choose_object(predict_masks(Bright(), images))
    assert by_border.tolist() == [True, False]
    assert choose_in_clip(Bright(), images, 10).tolist() == [False, True]
    assert choose_in_clip(Bright(), images[:1], 1).shape == (2,)


@pytest.mark.parametrize("options, merge", [
    ({}, "spectral"), (dict(polish="guided"), "spectral"), (dict(adapt=1), "spectral"),
    (dict(trained="STv2"), "spectral"), (dict(trained="STv2", preset="trained"), "")], ids=str)
def test_the_published_network_on_ones_own_clip(mirror, clip, tmp_path, monkeypatch, options,
                                                merge):
    tiny = lambda weights: merging.Spectral(KeyFeatures("vit_tiny_patch16_224", 8, (1,)))
    monkeypatch.setitem(merging.mergers, "spectral", tiny)
    Mirror.files[place("STv2")] = mirror.data
    options = dict(preset="published", outputs=["masks"]) | options
    report = segment(clip, tmp_path / "out", **options).report
    assert len(written(tmp_path / "out")) == 10 and report["object_masks"]
    assert report["settings"]["merge"] == merge
    assert Mirror.asked == [place(options.get("trained", "DAVIS"))]
    assert ("training" in report["seconds"]) == ("adapt" in options)


def test_polish_is_applied_at_the_clip_s_own_size(fast, tmp_path):
    torch.manual_seed(4)
    save(create_network("small", 2), tmp_path / "net.safetensors")
    plain, guided = (torch.stack(list(fast(preset=None, trained=tmp_path / "net.safetensors",
                                           polish=polish).masks)) for polish in ("", "guided"))
    assert not torch.equal(plain, guided) and jaccard(plain, guided).mean() > .3


def fails(*args, **kwargs): raise OSError(28, "No space left on device")


@pytest.mark.parametrize("stage", ["__enter__", "write", "__exit__"])
@pytest.mark.parametrize("kind", ["overlay", "cutout", "mov", "webm", "green", "rle", "sheet",
                                  "colmap", "prompts"])
def test_an_output_that_fails_costs_no_mask(tmp_path, monkeypatch, kind, stage):
    monkeypatch.setattr(outputs[kind], stage, fails)
    names, image = ["a", "b", "c"], torch.full((3, 32, 48), 128, dtype=torch.uint8)
    other = "sheet" if kind != "sheet" else "rle"
    with Outputs(["masks", kind, other], tmp_path, names) as written:
        for name in names:
            written.add(name, image, torch.ones(32, 48))
    assert all((read_mask(tmp_path / f"{name}.png") == 1).all() for name in names)
    failed, = written.failed
    assert failed.split()[0] == kind and "No space left" in failed
    assert (tmp_path / output_files([other], names)[0]).is_file()
    assert kind in ("cutout", "colmap") or not (tmp_path / output_files([kind], names)[0]).exists()


def test_a_failed_output_is_reported_and_has_its_exit_code(clip, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(outputs["overlay"], "write", fails)
    code = segment_all(clip, tmp_path / "out", SegmentOptions(preset="fast", end="4"))
    report = json.loads((tmp_path / "out/result.json").read_text())
    assert code == 3 and len(written(tmp_path / "out")) == 4
    assert "overlay.mp4" not in report["files"] and "overlay" in report["failed"][0]
    assert report["failed"][0] in capsys.readouterr().err


def test_masks_are_there_as_they_come_and_those_mended_by_hand_stay(fast, tmp_path, monkeypatch):
    "A full disk after two masks: these two stay, and a later run replaces them."
    write, calls = outputs["masks"].write, []
    def full(self, cut):
        calls.append(cut)
        return fails() if len(calls) == 3 else write(self, cut)
    monkeypatch.setattr(outputs["masks"], "write", full)
    refused(fast, says="No space", error=OSError)
    left = sorted(f.name for f in (tmp_path / "out").glob("[!.]*"))
    assert left == ["00000.png", "00001.png", "result.json"]
    assert len(fast()) == 4 and len(written(tmp_path / "out")) == 4
    os.utime(tmp_path / "out/00002.png", (2e9, 2e9))
    refused(fast, says="00002.png")


@pytest.mark.parametrize("cache", ["a file", "full", "removed by another run"])
def test_a_cache_that_cannot_be_used_costs_nothing(fast, tmp_path, monkeypatch, cache):
    monkeypatch.setenv("GWM_CACHE", str(tmp_path / "cache"))
    keep = refine._save_window
    def other_is_done(file, *args):
        keep(file, *args)
        shutil.rmtree(file.parent)
    if cache == "a file": (tmp_path / "cache").write_text("")
    elif cache == "full": monkeypatch.setattr(refine.torch, "save", fails)
    else: monkeypatch.setattr(refine, "_save_window", other_is_done)
    notes = fast().report["notes"]
    assert len(written(tmp_path / "out")) == 4
    assert cache[0] == "r" or len(notes) == 1 and str(tmp_path / "cache") in notes[0]
