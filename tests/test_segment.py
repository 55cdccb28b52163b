"The tool: presets and their options, results in Python, parts of clips, several objects, and the published network on one's own clip."
import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from gwm_nb import merging, refine, segment as segment_module
from gwm_nb.clips import open_clip
from gwm_nb.commands import gwm_segment
from gwm_nb.cutouts import Outputs, output_files, outputs, write_labels
from gwm_nb.evaluate import choose_object, jaccard
from gwm_nb.files import read_mask
from gwm_nb.network import create_network
from gwm_nb.paper import KeyFeatures
from gwm_nb.refine import RefineSettings, Refined, refine_clip
from gwm_nb.scenes import MovingScenes
from gwm_nb.segment import Job, Result, choose_in_clip, get_way, merged_cuts, presets, segment, segment_clip
from test_checkpoints import Mirror, mirror      # noqa: F401, a fixture


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    "Ten frames of a scene."
    root = tmp_path_factory.mktemp("segment")
    scene = MovingScenes(1, seed=14, size=(96, 160)).scene(0)
    for name in ("frames", "truth"): (root / name).mkdir()
    for t in range(10):
        cv2.imwrite(str(root / "frames" / f"{t:05d}.png"), (scene.frame(t) * 255).round().byte().permute(1, 2, 0).numpy()[..., ::-1])
        cv2.imwrite(str(root / "truth" / f"{t:05d}.png"), scene.labels(t).numpy().astype(np.uint8) * 255)
    return root / "frames"


def written(out): return torch.stack([read_mask(f) for f in sorted(Path(out).glob("[0-9]*.png"))])


def test_a_result_is_what_was_written(clip, tmp_path):
    result = segment(clip, tmp_path / "out", preset="fast", masks=clip.parent / "truth", outputs=["masks", "sheet"])
    assert len(result) == 10 and result.names == [f"{t:05d}" for t in range(10)] and result.report["settings"]["preset"] == "fast"
    masks = torch.stack(list(result.masks))
    assert masks.dtype == torch.bool and torch.equal(masks, written(tmp_path / "out") > 0) and masks.any()
    sure = result.report["confidence"]
    assert result.confidence.tolist() == pytest.approx([sure["frames"][n] for n in result.names]) and sure["mean"] == pytest.approx(result.confidence.mean().item(), abs=1e-3)
    assert set(result.report["J"]["frames"]) == set(result.names) and isinstance(result.report["doubts"], list)
    pictures = list(result.overlay())
    assert len(pictures) == 10 and pictures[0].shape == (3, 96, 160)
    assert sorted(p.name for p in result.save(tmp_path / "copy").iterdir()) == sorted(result.report["files"]) == sorted([*(f"{n}.png" for n in result.names), "sheet.png", "result.json"])
    again = Result(tmp_path / "copy")
    assert again.report == result.report
    with pytest.raises(ValueError, match="not from an earlier run"):
        (tmp_path / "taken").mkdir(), (tmp_path / "taken/00000.png").write_text("mine")
        result.save(tmp_path / "taken")


def test_a_result_without_a_folder_lives_as_long_as_it_is_held(clip):
    result = segment(clip, preset="fast", outputs=["masks"], part=dict(end=4))
    folder = result.folder
    assert len(list(result.masks)) == 4 and folder.is_dir()
    del result
    assert not folder.exists()


def test_parts_of_a_clip(clip, tmp_path):
    for preset, options in (("fast", {}), ("gwm", dict(steps=2, num_masks=2))):
        result = segment(clip, tmp_path / preset, preset=preset, part=dict(start=2, end=9, every=2, max_side=80, fps=12), **options)
        assert result.names == ["00002", "00004", "00006", "00008"] and next(result.masks).shape == (48, 80)
        film = open_clip(tmp_path / preset / "overlay.mp4")
        assert len(film.names()) == 4 and film.rate == pytest.approx(6, rel=.01) and next(result.overlay()).shape == (3, 48, 80)
        assert result.report["settings"] | dict(start=2, end=9, every=2, max_side=80, fps=12) == result.report["settings"]


def test_every_option_has_a_preset_and_every_preset_refuses_the_others():
    for name in presets:
        for other, preset in presets.items():
            for option in segment_module._options(preset):
                if option in segment_module._options(presets[name]): continue
                with pytest.raises(ValueError, match=f"{option} must be left out with preset='{name}'; it belongs to .*'{other}'"): get_way(name, {option: 1})
    with pytest.raises(TypeError, match="unknown option 'stepz'"): get_way("gwm", dict(stepz=3))
    with pytest.raises(ValueError, match="unknown preset 'gmw'; choose from default, fast"): get_way("gmw", {})


def test_an_interrupted_run_goes_on_from_its_windows(clip, tmp_path, monkeypatch):
    monkeypatch.setenv("GWM_CACHE", str(tmp_path / "cache"))
    short = replace(refine.refine_presets["fast"], window=4, overlap=1)
    monkeypatch.setitem(refine.refine_presets, "fast", short)
    whole = segment(clip, tmp_path / "whole", preset="fast", outputs=["masks"])
    done, real = [], refine.refine_window
    def counted(*args, **options):
        if len(done) == 2: raise KeyboardInterrupt
        done.append(1)
        return real(*args, **options)
    monkeypatch.setattr(refine, "refine_window", counted)
    with pytest.raises(KeyboardInterrupt): segment_clip(clip, tmp_path / "out", preset="fast", outputs=["masks"])
    begun = json.loads((tmp_path / "out/result.json").read_text())
    assert begun["unfinished"] and 0 < len(written(tmp_path / "out")) < 10
    assert len(list((tmp_path / "cache/windows").rglob("*.pt"))) == 2
    calls = []
    monkeypatch.setattr(refine, "refine_window", lambda *a, **o: calls.append(1) or real(*a, **o))
    segment_clip(clip, tmp_path / "out", preset="fast", outputs=["masks"])
    assert len(calls) == 1 and torch.equal(written(tmp_path / "out"), written(tmp_path / "whole")) and len(whole) == 10
    assert not list((tmp_path / "cache/windows").rglob("*.pt"))


def test_several_objects_are_numbers_in_masks(tmp_path):
    scene = MovingScenes(40, seed=7, size=(144, 240), objects=3, camera=.5).scene(0)
    (tmp_path / "clip").mkdir()
    for t in range(8): cv2.imwrite(str(tmp_path / f"clip/{t}.png"), (scene.frame(t) * 255).round().byte().permute(1, 2, 0).numpy()[..., ::-1])
    result = segment(tmp_path / "clip", tmp_path / "out", preset="fast", objects=2, outputs=["masks", "rle"])
    masks = torch.stack(list(result.masks))
    assert masks.dtype == torch.uint8 and set(masks.unique().tolist()) == {0, 1, 2}
    write_labels(tmp_path / "out/3.png", np.zeros((144, 240)))               # nobody in one of the frames
    assert {m.dtype for m in result.masks} == {torch.uint8}
    tracks = {a["track_id"] for a in json.loads((tmp_path / "out/coco.json").read_text())["annotations"]}
    assert tracks == {1, 2} and result.report["settings"]["objects"] == 2


def test_labels_cut_the_mask_and_nothing_else():
    soft = np.zeros((2, 6, 8), np.uint8)
    soft[:, 1:5, 1:7] = 255
    ids = np.ones_like(soft)
    ids[:, :, 4:] = 2
    found = Refined(soft, np.array([[0., 0, 6, 8]] * 2), (6, 8), (12, 16), np.ones(2), np.ones(2),
                    stats=np.zeros((2, 4)), objects=ids)
    assert torch.equal(found.labels(0) > 0, found[0] > .5) and set(found.labels(1).unique().tolist()) == {0, 1, 2}
    assert replace(found, objects=np.zeros((2, 0, 0), np.uint8)).labels(0) is None and found.part(1, 2).objects.shape == (1, 6, 8)


def test_any_backbone_describes_superpixels(clip, tmp_path):
    "A transformer of random weights, from a file: what `best` does with DINO's."
    weights = tmp_path / "vit.pth"
    import timm
    torch.save(timm.create_model("vit_tiny_patch16_224").state_dict(), weights)
    quick = RefineSettings(features="vit_tiny_patch16_224", pretrained=str(weights), superpixels=200,
                           enlarge=1., second_passes=1)
    frames = [image for _, image in open_clip(clip)][:4]
    assert refine_clip(frames, quick, progress=False)[0].shape == (96, 160)
    assert get_way("best", dict(features="vit_tiny_patch16_224"))[1]["features"] == "vit_tiny_patch16_224"
    with pytest.raises(ValueError, match="unknown backbone 'vit_tiny_patch61_224'; did you mean"): get_way("best", dict(features="vit_tiny_patch61_224"))


def test_the_object_of_a_clip_is_chosen_by_motion_too(clip):
    "The object's mask has two sides of the frame as well, so that the border speaks for the other one, and motion speaks louder."
    truth = torch.stack([read_mask(f) > 0 for f in sorted((clip.parent / "truth").iterdir())]).float()
    truth[:, :1] = truth[:, :, :1] = 1
    soft = torch.stack([truth, 1 - truth], 1)
    assert choose_object(soft).tolist() == [False, True]                # by the border alone
    job = Job(clip, Path("out"), names=[f"{t:05d}" for t in range(10)], size=(96, 160))
    assert choose_in_clip(job, soft.numpy()).tolist() == [True, False] and choose_in_clip(job, soft.flip(1).numpy()).tolist() == [False, True]
    assert choose_in_clip(job, soft[:1].numpy()).shape == (2,)


def test_merged_masks_keep_to_the_choice(clip):
    soft = torch.rand(10, 3, 24, 40).softmax(1)
    soft[:, 2] += 2 * (torch.arange(40) > 20)
    soft = soft / soft.sum(1, keepdim=True)
    job = Job(clip, Path("out"), names=[f"{t:05d}" for t in range(10)], size=(96, 160))
    def merge(masks, images): return torch.stack([torch.stack([m[2], m[:2].sum(0)][:: 1 if t % 2 else -1]) for t, m in enumerate(masks)])
    cuts = torch.stack(list(merged_cuts(job, soft, torch.tensor([False, False, True]), merge, 4)))
    assert torch.equal(cuts, soft[:, 2])


def tiny_spectral(weights): return merging.Spectral(KeyFeatures("vit_tiny_patch16_224", 8, (1,)))


@pytest.mark.parametrize("options", [{}, dict(polish="guided"), dict(adapt=1), dict(trained="STv2")], ids=str)
def test_the_published_network_on_ones_own_clip(mirror, clip, tmp_path, monkeypatch, options):      # noqa: F811
    monkeypatch.setitem(merging.mergers, "spectral", tiny_spectral)
    Mirror.files[mirror.place("STv2")] = mirror.data
    result = segment(clip, tmp_path / "out", preset="published", outputs=["masks"], **options)
    assert len(list(result.masks)) == 10 and result.report["settings"]["merge"] == "spectral" and result.report["object_masks"]
    assert Mirror.asked == [mirror.place(options.get("trained", "DAVIS"))] and ("training" in result.report["seconds"]) == ("adapt" in options)


def test_a_published_network_by_from_and_what_cannot_be_had(mirror, clip, tmp_path, monkeypatch):      # noqa: F811
    report = segment_clip(clip, tmp_path / "out", trained="DAVIS", outputs=["masks"])
    assert report["settings"]["preset"] == "trained" and report["settings"]["merge"] == ""
    monkeypatch.setenv("GWM_RELEASE", "http://127.0.0.1:9")
    with pytest.raises(ValueError, match="published checkpoint FBMS: .*could not be fetched") as e: segment_clip(clip, tmp_path / "new", preset="published", trained="FBMS")
    assert "\n" not in str(e.value) and not (tmp_path / "new").exists()


def test_polish_is_applied_at_the_clip_s_own_size(clip, tmp_path):
    network = create_network("small", 2)
    from gwm_nb.checkpoints import save
    save(network, tmp_path / "net.safetensors")
    masks = {}
    for polish in ("", "guided"):
        segment_clip(clip, tmp_path / f"out{polish}", trained=tmp_path / "net.safetensors", polish=polish, outputs=["masks"])
        masks[polish] = written(tmp_path / f"out{polish}") > 0
    assert not torch.equal(masks[""], masks["guided"]) and jaccard(masks[""], masks["guided"]).mean() > .3


def test_quiet_keeps_notes_for_the_report(clip, tmp_path, capsys):
    for quiet in (False, True):
        report = segment_clip(clip, tmp_path / str(quiet), masks=clip.parent / "truth", preset="fast", outputs=["masks"], quiet=quiet)
        assert any(note.startswith("annotations are read as") for note in report["notes"])
        assert ("annotations are read as" in capsys.readouterr().out) is not quiet


# ---- masks outlive what is beside them

EXTRA = ["overlay", "cutout", "mov", "webm", "green", "rle", "sheet"]


def fails(*args, **kwargs): raise OSError(28, "No space left on device")


@pytest.mark.parametrize("stage", ["__enter__", "write", "__exit__"])
@pytest.mark.parametrize("kind", EXTRA)
def test_an_output_that_fails_costs_no_mask(tmp_path, monkeypatch, kind, stage):
    monkeypatch.setattr(outputs[kind], stage, fails)
    names, image = ["a", "b", "c"], torch.full((3, 32, 48), 128, dtype=torch.uint8)
    other = "sheet" if kind != "sheet" else "rle"
    with Outputs(["masks", kind, other], tmp_path, names) as written_by:
        for name in names: written_by.add(name, image, torch.ones(32, 48))
    assert [read_mask(tmp_path / f"{name}.png").float().mean() for name in names] == [1, 1, 1]
    assert [line.split()[0] for line in written_by.failed] == [kind] and "No space left" in written_by.failed[0]
    assert (tmp_path / output_files([other], names)[0]).is_file()
    if kind != "cutout": assert not (tmp_path / output_files([kind], names)[0]).exists()


def test_a_failed_output_is_reported_and_has_its_exit_code(clip, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(outputs["overlay"], "write", fails)
    code = segment_module.segment_all(clip, tmp_path / "out", preset="fast", end="4", outputs=("masks", "overlay"))
    report = json.loads((tmp_path / "out/result.json").read_text())
    assert code == 3 and len(written(tmp_path / "out")) == 4 and "overlay.mp4" not in report["files"]
    assert "overlay could not be written" in report["failed"][0] and report["failed"][0] in capsys.readouterr().err


def test_masks_are_there_as_they_come(clip, tmp_path, monkeypatch):
    "A full disk after two masks: these two stay, and a later run replaces them."
    write, calls = outputs["masks"].write, []
    def full(self, cut):
        calls.append(cut)
        return fails() if len(calls) == 3 else write(self, cut)
    monkeypatch.setattr(outputs["masks"], "write", full)
    options = dict(preset="fast", outputs=["masks"], part=dict(end=4))
    with pytest.raises(OSError, match="No space"): segment_clip(clip, tmp_path / "out", **options)
    assert sorted(f.name for f in (tmp_path / "out").glob("[!.]*")) == ["00000.png", "00001.png", "result.json"]
    assert segment_clip(clip, tmp_path / "out", **options)["frames"] == 4 and len(written(tmp_path / "out")) == 4


@pytest.mark.parametrize("cache", ["a file", "full"])
def test_a_cache_that_cannot_be_written_costs_nothing(clip, tmp_path, monkeypatch, cache):
    monkeypatch.setenv("GWM_CACHE", str(tmp_path / "cache"))
    if cache == "a file": (tmp_path / "cache").write_text("")
    else: monkeypatch.setattr(refine, "write_whole", fails)
    report = segment_clip(clip, tmp_path / "out", preset="fast", part=dict(end=4))
    assert len(written(tmp_path / "out")) == 4 and ["finished windows are not kept" in n for n in report["notes"]] == [True]


def test_two_runs_of_one_clip_at_once(clip, tmp_path, monkeypatch):
    "The other run is done first, and removes what both have kept."
    keep = refine._save_window
    def other_is_done(file, *args):
        keep(file, *args)
        segment_module.shutil.rmtree(file.parent)
    monkeypatch.setattr(refine, "_save_window", other_is_done)
    assert segment_clip(clip, tmp_path / "out", preset="fast", part=dict(end=4))["frames"] == 4


def test_masks_mended_by_hand_are_not_overwritten(clip, tmp_path):
    import os
    options = dict(preset="fast", outputs=["masks"], part=dict(end=4))
    segment_clip(clip, tmp_path / "out", **options)
    os.utime(tmp_path / "out/00002.png", (2e9, 2e9))
    with pytest.raises(ValueError, match="00002.png"): segment_clip(clip, tmp_path / "out", **options)
def test_results_beside_their_film_and_a_second_run(clip, tmp_path, monkeypatch, capsys):
    shown = tmp_path / "my_clip.webp"
    first, *others = [Image.open(f) for f in sorted(clip.iterdir())]
    first.save(shown, save_all=True, append_images=others, duration=40, lossless=True)
    monkeypatch.chdir(tmp_path)
    gwm_segment("my_clip.webp", ".", preset="fast")
    files = sorted(p.name for p in tmp_path.iterdir())
    assert "00009.png" in files and "overlay.mp4" in files and "my_clip.webp" in files
    gwm_segment(str(tmp_path), str(tmp_path), preset="fast")
    assert "one clip, my_clip" in capsys.readouterr().out
    assert sorted(p.name for p in tmp_path.iterdir()) == files and Result(tmp_path).report["settings"]["clip"] == str(shown)


def test_a_damaged_frame_is_named(clip, tmp_path):
    def notes(odd):
        for f in sorted(clip.iterdir()):
            image = cv2.imread(str(f))
            cv2.imwrite(str(tmp_path / f.name), 255 - image if f.stem in odd else image)
        watch = segment_module.Watch()
        for name, image in open_clip(tmp_path): watch.look(name, image)
        return [note for note in watch.notes() if "unlike the frames on both sides" in note]
    assert notes([]) == [] and "00004" in notes(["00004"])[0]
    assert notes(["00001", "00003", "00005", "00007"]) == []      # light that flickers all the time
