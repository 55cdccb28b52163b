"""Methods, presets and options; results in Python; parts of clips, several objects, masks that
outlive what fails beside them."""
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from gwm_nb import merging, refine
from gwm_nb.checkpoints import save
from gwm_nb.clips import open_clip
from gwm_nb.commands import gwm_segment, segment_all
from gwm_nb.cutouts import Outputs, output_files, outputs, write_labels
from gwm_nb.evaluate import choose_object, jaccard
from gwm_nb.files import read_mask
from gwm_nb.jobs import ClipDiagnostics, Result
from gwm_nb.methods import SegmentOptions, best_match, choose_in_clip, presets
from gwm_nb.network import create_network
from gwm_nb.paper import KeyFeatures
from gwm_nb.refine import RefineSettings, Refined, refine_clip
from gwm_nb.scenes import MovingScenes
from gwm_nb.segment import segment
from inputs import frame_pixels, write_image, write_scene
from test_checkpoints import Mirror, mirror, place      # noqa: F401, a fixture


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    "Ten frames of a scene, with annotations in the folder `truth` beside them."
    root = tmp_path_factory.mktemp("segment")
    return write_scene(root / "frames", root / "truth", n=10, size=(96, 160))


@pytest.fixture
def fast(clip, tmp_path):
    "Segment the first four frames: `fast(masks=..., outputs=...)`, into tmp_path/out."
    def run(**options):
        return segment(clip, tmp_path / "out", preset="fast", outputs=["masks"], end=4, **options)
    return run


def written(out): return torch.stack([read_mask(f) for f in sorted(Path(out).glob("[0-9]*.png"))])


# ---- results

def test_a_result_is_what_was_written(clip, tmp_path):
    truth, outputs = clip.parent / "truth", ["masks", "sheet"]
    result = segment(clip, tmp_path / "out", preset="fast", masks=truth, outputs=outputs)
    report, names = result.report, [f"{t:05d}" for t in range(10)]
    assert len(result) == 10 and result.names == names and report["settings"]["preset"] == "fast"
    masks = torch.stack(list(result.masks))
    assert masks.dtype == torch.bool and masks.any()
    assert torch.equal(masks, written(tmp_path / "out") > 0)
    sure = report["confidence"]
    assert result.confidence.tolist() == pytest.approx([sure["frames"][n] for n in names])
    assert sure["mean"] == pytest.approx(result.confidence.mean().item(), abs=1e-3)
    assert set(report["J"]["frames"]) == set(names) and isinstance(report["quality_warnings"], list)
    overlays = list(result.overlay())
    assert len(overlays) == 10 and overlays[0].shape == (3, 96, 160)
    copied = sorted(p.name for p in result.save(tmp_path / "copy").iterdir())
    assert copied == sorted(report["files"])
    assert copied == sorted([*(f"{n}.png" for n in names), "sheet.png", "result.json"])
    assert Result(tmp_path / "copy").report == report
    (tmp_path / "taken").mkdir(), (tmp_path / "taken/00000.png").write_text("mine")
    with pytest.raises(ValueError, match="00000.png"):
        result.save(tmp_path / "taken")


def test_a_result_without_a_folder_lives_as_long_as_it_is_held(clip):
    result = segment(clip, preset="fast", outputs=["masks"], end=4)
    folder = result.folder
    assert len(list(result.masks)) == 4 and folder.is_dir()
    del result
    assert not folder.exists()


@pytest.mark.parametrize("options", [dict(preset="fast"), dict(preset="gwm", steps=2, num_masks=2)],
                         ids=str)
def test_parts_of_a_clip(clip, tmp_path, options):
    part = dict(start=2, end=9, every=2, max_side=80, fps=12)
    result = segment(clip, tmp_path, **part, **options)
    assert result.names == ["00002", "00004", "00006", "00008"]
    assert next(result.masks).shape == (48, 80) and next(result.overlay()).shape == (3, 48, 80)
    film = open_clip(tmp_path / "overlay.mp4")
    assert len(film.names()) == 4 and film.rate == pytest.approx(6, rel=.01)
    assert result.report["settings"] | part == result.report["settings"]


def test_results_beside_their_clip_and_a_second_run(clip, tmp_path, monkeypatch, capsys):
    video = tmp_path / "my_clip.webp"
    first, *others = [Image.open(f) for f in sorted(clip.iterdir())]
    first.save(video, save_all=True, append_images=others, duration=40, lossless=True)
    monkeypatch.chdir(tmp_path)
    gwm_segment("my_clip.webp", ".", preset="fast")
    files = sorted(p.name for p in tmp_path.iterdir())
    assert {"00009.png", "overlay.mp4", "my_clip.webp"} <= set(files)
    gwm_segment(str(tmp_path), str(tmp_path), preset="fast")
    assert "one clip, my_clip" in capsys.readouterr().out
    assert sorted(p.name for p in tmp_path.iterdir()) == files
    assert Result(tmp_path).report["settings"]["clip"] == str(video)


# ---- options and presets

def test_options_are_complete_and_stay_so():
    assert SegmentOptions().preset == "default" and SegmentOptions(trained="x").preset == "trained"
    options = SegmentOptions(preset="gwm", steps=60, keep_network=True)
    assert (options.steps, options.num_masks, options.features) == (60, 4, None)
    assert replace(options, masks="there") == replace(options, masks="there", num_masks=4)
    assert SegmentOptions(objects="3").objects == 3 and SegmentOptions(objects="auto")
    given = SegmentOptions(preset="fast", start=2).given()
    assert given | dict(start=2, objects=1, method="dis") == given and "steps" not in given


def options_of_others():
    "(preset, an option that is not its own, the presets that have it)."
    every = sorted({option for preset in presets.values() for option in preset.options})
    owners = {o: [name for name, preset in presets.items() if o in preset.options] for o in every}
    return [(name, o, owners[o]) for name in presets for o in every if name not in owners[o]]


@pytest.mark.parametrize("preset, option, owners", options_of_others())
def test_a_preset_refuses_the_options_of_others(preset, option, owners):
    with pytest.raises(ValueError, match=f"'{preset}'.* {option};.*'{owners[0]}'"):
        SegmentOptions(preset=preset, **{option: 1})


@pytest.mark.parametrize("options, said", [
    (dict(preset="gmw"), "'gmw'; did you mean 'gwm'"), (dict(preset="xyz"), "'xyz'; choose .*fast"),
    (dict(objects=0), "auto.*20.*0"), (dict(outputs=["gif"]), "'gif'"),
    (dict(preset="gwm", polish="flow"), "'flow'"), (dict(preset="gwm", polish="soap"), "'soap'")],
    ids=str)
def test_bad_options_name_the_value_and_the_remedy(options, said):
    with pytest.raises(ValueError, match=said):
        SegmentOptions(**options)


def test_an_option_that_there_is_not():
    with pytest.raises(TypeError, match="stepz"):
        segment("clip", stepz=3)


def test_the_method_is_printed(clip, tmp_path, capsys):
    for preset in ("fast", "gwm"):
        options = SegmentOptions(preset=preset, end=2, outputs=["masks"], quiet=True,
                                 **dict(steps=1) if preset == "gwm" else {})
        assert segment_all(clip, tmp_path / preset, options) == 0
        assert f"method: {presets[preset].about}\n" in capsys.readouterr().out
    assert "--preset gwm" in presets["default"].about


# ---- methods

def test_an_interrupted_run_goes_on_from_its_windows(clip, tmp_path, monkeypatch):
    monkeypatch.setenv("GWM_CACHE", str(tmp_path / "cache"))
    short = replace(refine.refine_presets["fast"], window=4, overlap=1)
    monkeypatch.setitem(refine.refine_presets, "fast", short)
    options = dict(preset="fast", outputs=["masks"])
    whole = segment(clip, tmp_path / "whole", **options)
    done, real, limit = [], refine.refine_window, 2
    def counted(*args, **more):
        if len(done) == limit:
            raise KeyboardInterrupt
        done.append(1)
        return real(*args, **more)
    monkeypatch.setattr(refine, "refine_window", counted)
    with pytest.raises(KeyboardInterrupt):
        segment(clip, tmp_path / "out", **options)
    begun = json.loads((tmp_path / "out/result.json").read_text())
    assert begun["unfinished"] and 0 < len(written(tmp_path / "out")) < 10
    assert len(list((tmp_path / "cache/windows").rglob("*.pt"))) == 2
    done, limit = [], 1
    segment(clip, tmp_path / "out", **options)
    assert len(done) == 1 and len(whole) == 10
    assert torch.equal(written(tmp_path / "out"), written(tmp_path / "whole"))
    assert not list((tmp_path / "cache/windows").rglob("*.pt"))


def test_several_objects_are_numbers_in_masks(tmp_path):
    scene = MovingScenes(40, seed=7, size=(144, 240), objects=3, camera=.5).scene(0)
    for t in range(8):
        write_image(tmp_path / f"clip/{t}.png", frame_pixels(scene, t))
    options = dict(preset="fast", objects="2", outputs=["masks", "rle"])
    result = segment(tmp_path / "clip", tmp_path / "out", **options)
    masks = torch.stack(list(result.masks))
    assert masks.dtype == torch.uint8 and set(masks.unique().tolist()) == {0, 1, 2}
    write_labels(tmp_path / "out/3.png", np.zeros((144, 240)))          # no object in one frame
    assert {m.dtype for m in result.masks} == {torch.uint8}
    found = json.loads((tmp_path / "out/coco.json").read_text())["annotations"]
    assert {a["track_id"] for a in found} == {1, 2}
    assert result.report["settings"]["objects"] == 2


def test_labels_cut_the_mask_and_nothing_else():
    soft, ids = np.zeros((2, 2, 6, 8), np.uint8)
    soft[:, 1:5, 1:7] = 255
    ids += 1
    ids[:, :, 4:] = 2
    box, ones = np.array([[0., 0, 6, 8]] * 2), np.ones(2)
    stats = np.zeros((2, 4))
    found = Refined(soft, box, (6, 8), (12, 16), ones, ones, stats, objects=ids)
    assert torch.equal(found.labels(0) > 0, found[0] > .5)
    assert set(found.labels(1).unique().tolist()) == {0, 1, 2}
    assert replace(found, objects=np.zeros((2, 0, 0), np.uint8)).labels(0) is None
    assert found.part(1, 2).objects.shape == (1, 6, 8)


def test_any_backbone_describes_superpixels(clip, tmp_path):
    "A transformer of random weights, from a file: what `best` does with DINO's."
    name, weights = "vit_tiny_patch16_224", tmp_path / "vit.pth"
    torch.save(timm.create_model(name).state_dict(), weights)
    quick = RefineSettings(features=name, pretrained=str(weights), superpixels=200, enlarge=1.,
                           second_passes=1)
    frames = [image for _, image in open_clip(clip)][:4]
    assert refine_clip(frames, quick, progress=False)[0].shape == (96, 160)
    assert presets["best"].make(SegmentOptions(preset="best", features=name))
    with pytest.raises(ValueError, match=f"'vit_tiny_patch61_224'; did you mean '{name}'"):
        presets["best"].make(SegmentOptions(preset="best", features="vit_tiny_patch61_224"))


class Recorded(torch.nn.Module):
    "A network that gives recorded masks (N,K,h,w), whatever it sees."
    def __init__(self, soft):
        super().__init__()
        self.device = torch.nn.Parameter(torch.zeros(1))
        self.soft = iter(soft)

    def forward(self, images): return torch.stack([next(self.soft) for _ in images]).log()


def test_the_object_of_a_clip_is_chosen_by_motion_too(clip):
    "The object's mask covers two sides of the frame; the border is wrong, motion outweighs it."
    truth = torch.stack([read_mask(f) > 0 for f in sorted((clip.parent / "truth").iterdir())])
    truth[:, :1] = truth[:, :, :1] = True
    soft = torch.stack([truth, ~truth], 1).float().clamp(1e-6)
    images = [image / 255 for _, image in open_clip(clip)]
    assert choose_object(soft).tolist() == [False, True]                # by the border alone
    assert choose_in_clip(Recorded(soft), images, 10).tolist() == [True, False]
    assert choose_in_clip(Recorded(soft.flip(1)), images, 10).tolist() == [False, True]
    assert choose_in_clip(Recorded(soft), images[:1], 1).shape == (2,)


def test_merged_masks_keep_to_the_choice():
    "Whichever of the two comes first."
    mask = torch.rand(10, 24, 40)
    two = torch.stack([mask, 1 - mask], 1)
    two[::2] = two[::2].flip(1)
    assert torch.equal(best_match(two, mask.clamp(.1)), mask)
    assert torch.equal(best_match(two, 1 - mask), 1 - mask)


def tiny_spectral(weights):
    return merging.Spectral(KeyFeatures("vit_tiny_patch16_224", 8, (1,)))


@pytest.mark.parametrize("options", [
    {}, dict(polish="guided"), dict(adapt=1), dict(trained="STv2")], ids=str)
def test_the_published_network_on_ones_own_clip(
        mirror, clip, tmp_path, monkeypatch, options):      # noqa: F811
    monkeypatch.setitem(merging.mergers, "spectral", tiny_spectral)
    Mirror.files[place("STv2")] = mirror.data
    result = segment(clip, tmp_path / "out", preset="published", outputs=["masks"], **options)
    report = result.report
    assert len(list(result.masks)) == 10 and report["object_masks"]
    assert report["settings"]["merge"] == "spectral"
    assert Mirror.asked == [place(options.get("trained", "DAVIS"))]
    assert ("training" in report["seconds"]) == ("adapt" in options)


def test_a_published_network_by_from_and_what_cannot_be_had(
        mirror, clip, tmp_path, monkeypatch):      # noqa: F811
    result = segment(clip, tmp_path / "out", trained="DAVIS", outputs=["masks"])
    assert result.report["settings"]["preset"] == "trained"
    assert result.report["settings"]["merge"] == ""
    monkeypatch.setenv("GWM_RELEASE", "http://127.0.0.1:9")
    with pytest.raises(ValueError, match="FBMS") as e:
        segment(clip, tmp_path / "new", preset="published", trained="FBMS")
    assert "\n" not in str(e.value) and not (tmp_path / "new").exists()


def test_polish_is_applied_at_the_clip_s_own_size(clip, tmp_path):
    save(create_network("small", 2), tmp_path / "net.safetensors")
    masks = {}
    for polish in ("", "guided"):
        out, options = tmp_path / f"out{polish}", dict(polish=polish, outputs=["masks"])
        segment(clip, out, trained=tmp_path / "net.safetensors", **options)
        masks[polish] = written(out) > 0
    assert not torch.equal(masks[""], masks["guided"])
    assert jaccard(masks[""], masks["guided"]).mean() > .3


def test_quiet_keeps_notes_for_the_report(clip, fast, capsys):
    for quiet in (False, True):
        notes = fast(masks=clip.parent / "truth", quiet=quiet).report["notes"]
        assert any("annotations" in note for note in notes)
        assert ("annotations" in capsys.readouterr().out) is not quiet


@pytest.mark.parametrize("odd, named", [([], False), ([4], True), ([1, 3, 5, 7], False)])
def test_a_damaged_frame_is_named(clip, odd, named):
    "And light that flickers all the time is not."
    diagnostics = ClipDiagnostics()
    for t, (name, image) in enumerate(open_clip(clip)):
        diagnostics.add(name, 255 - image if t in odd else image)
    assert any("damaged" in w and "00004" in w for w in diagnostics.warnings()) == named


# ---- masks outlive what is beside them

def fails(*args, **kwargs): raise OSError(28, "No space left on device")


@pytest.mark.parametrize("stage", ["__enter__", "write", "__exit__"])
@pytest.mark.parametrize("kind", ["overlay", "cutout", "mov", "webm", "green", "rle", "sheet"])
def test_an_output_that_fails_costs_no_mask(tmp_path, monkeypatch, kind, stage):
    monkeypatch.setattr(outputs[kind], stage, fails)
    names, image = ["a", "b", "c"], torch.full((3, 32, 48), 128, dtype=torch.uint8)
    other = "sheet" if kind != "sheet" else "rle"
    with Outputs(["masks", kind, other], tmp_path, names) as written:
        for name in names:
            written.add(name, image, torch.ones(32, 48))
    assert all((read_mask(tmp_path / f"{name}.png") == 1).all() for name in names)
    assert [line.split()[0] for line in written.failed] == [kind]
    assert "No space left" in written.failed[0]
    assert (tmp_path / output_files([other], names)[0]).is_file()
    if kind != "cutout":
        assert not (tmp_path / output_files([kind], names)[0]).exists()


def test_a_failed_output_is_reported_and_has_its_exit_code(clip, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(outputs["overlay"], "write", fails)
    code = segment_all(clip, tmp_path / "out", SegmentOptions(preset="fast", end="4"))
    report = json.loads((tmp_path / "out/result.json").read_text())
    assert code == 3 and len(written(tmp_path / "out")) == 4
    assert "overlay.mp4" not in report["files"] and "overlay" in report["failed"][0]
    assert report["failed"][0] in capsys.readouterr().err


def test_masks_are_there_as_they_come(fast, tmp_path, monkeypatch):
    "A full disk after two masks: these two stay, and a later run replaces them."
    write, calls = outputs["masks"].write, []
    def full(self, cut):
        calls.append(cut)
        return fails() if len(calls) == 3 else write(self, cut)
    monkeypatch.setattr(outputs["masks"], "write", full)
    with pytest.raises(OSError, match="No space"):
        fast()
    left = sorted(f.name for f in (tmp_path / "out").glob("[!.]*"))
    assert left == ["00000.png", "00001.png", "result.json"]
    assert len(fast()) == 4 and len(written(tmp_path / "out")) == 4


@pytest.mark.parametrize("cache", ["a file", "full"])
def test_a_cache_that_cannot_be_written_costs_nothing(fast, tmp_path, monkeypatch, cache):
    monkeypatch.setenv("GWM_CACHE", str(tmp_path / "cache"))
    if cache == "a file":
        (tmp_path / "cache").write_text("")
    else:
        monkeypatch.setattr(refine.torch, "save", fails)
    notes = fast().report["notes"]
    assert len(written(tmp_path / "out")) == 4 and len(notes) == 1
    assert str(tmp_path / "cache") in notes[0]


def test_two_runs_of_one_clip_at_once(fast, monkeypatch):
    "The other run is done first, and removes what both have kept."
    keep = refine._save_window
    def other_is_done(file, *args):
        keep(file, *args)
        shutil.rmtree(file.parent)
    monkeypatch.setattr(refine, "_save_window", other_is_done)
    assert len(fast()) == 4


def test_masks_mended_by_hand_are_not_overwritten(fast, tmp_path):
    fast()
    os.utime(tmp_path / "out/00002.png", (2e9, 2e9))
    with pytest.raises(ValueError, match="00002.png"):
        fast()
