"Measuring in a stream, choosing without labels, and what 09_segment promises beyond the command line."
import gc
import json
import os
import subprocess
import sys
import weakref
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, Subset

from gwm_nb.evaluate import border_ratio, choose_object, evaluate, jaccard, object_mask, show_ranked
from gwm_nb.flow import DIS
from gwm_nb.network import predict_masks
from gwm_nb.scenes import MovingScenes
from gwm_nb.segment import _scene_in_view, segment_clip, write_masks

root = Path(__file__).resolve().parent.parent


class Bright(torch.nn.Module):
    "Calls bright pixels object; needs no training."
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(50.))

    def forward(self, image):
        bright = (image.mean(1) - .5) * self.scale
        return torch.stack([-bright, bright], 1)


class Watched(Dataset):
    "Squares on black; counts what is asked for, and what is alive whenever something is asked for."
    def __init__(self, sequences=4, frames=24, named=True, annotated=lambda i: True, size=(32, 48)):
        self.all_names = [f"s{i // frames}/{i % frames:05d}" for i in range(sequences * frames)]
        if named:
            self.names = self.all_names
        self.annotated, self.size, self.frames = annotated, size, frames
        self.asked, self.alive, self.bytes, self.pictures = [0] * len(self.all_names), [], [], weakref.WeakSet()

    def __len__(self):
        return len(self.all_names)

    def __getitem__(self, i):
        self.asked[i] += 1
        image = torch.zeros(3, *self.size)
        image[:, 8:24, 10 + i % 5:26 + i % 5] = 1
        self.pictures.add(image)
        self.alive.append(len(self.pictures))
        if i % self.frames == 0:
            self.bytes.append(sum(t.numel() * t.element_size() for t in gc.get_objects() if type(t) is torch.Tensor))
        sample = dict(image=image, flow=torch.zeros(2, *self.size), name=self.all_names[i])
        return sample | dict(mask=image[0].long()) if self.annotated(i) else sample


# ---- evaluate

def test_each_sample_is_loaded_once_and_let_go():
    data = Watched()
    result = evaluate(Bright(), data)
    assert set(data.asked) == {1}
    assert max(data.alive) < data.frames            # never the pictures of a whole sequence
    assert result["J"] == 1 and result["frames"] == len(data) and list(result["sequences"]) == ["s0", "s1", "s2", "s3"]


def test_memory_does_not_grow_with_the_number_of_sequences():
    data = Watched(sequences=12)
    evaluate(Bright(), data)
    assert len(data.bytes) == 12 and max(data.bytes[1:]) - min(data.bytes[1:]) < 10_000      # one sequence's masks: 295,000


def test_samples_without_cheap_names_are_not_kept_either():
    data = Watched(named=False)
    result = evaluate(Bright(), data)
    assert set(data.asked) == {2} and max(data.alive) < data.frames
    assert result == evaluate(Bright(), Watched())


def test_names_behind_a_subset():
    data = Watched()
    chosen = [50, 3, 51, 4, 2]
    result = evaluate(Bright(), Subset(Subset(data, list(range(len(data)))), chosen))
    assert [data.asked[i] for i in chosen] == [1] * 5 and sum(data.asked) == 5
    assert {k: list(v) for k, v in result["sequences"].items()} == {"s2": ["00002", "00003"], "s0": ["00003", "00004", "00002"]}


def test_a_list_of_samples_in_any_order():
    data = Watched(sequences=2, frames=3)
    samples = [data[i] for i in (5, 0, 3, 1, 4, 2)]
    assert list(evaluate(Bright(), samples)["sequences"]["s0"]) == ["00000", "00001", "00002"]


def test_means_over_sequences_of_means_over_annotated_frames():
    "A sequence of one wrong frame weighs as much as one of three right frames; what has no annotation does not count."
    samples = [Watched(frames=4)[i] for i in range(4)]
    for i, s in enumerate(samples):
        s["name"] = f"long/{i}"
    del samples[1]["mask"]
    wrong = samples[0] | dict(name="short/0", mask=1 - samples[0]["mask"])
    bare = {k: v for k, v in samples[2].items() if k != "mask"} | dict(name="bare/0")
    result = evaluate(Bright(), [*samples, wrong, bare])
    assert result["J"] == .5 and result["J_best_of_two"] == 1 and result["J_best_mask"] == 1
    assert result["frames"] == 4 and result["sequences"] == {"long": {"0": 1., "2": 1., "3": 1.}, "short": {"0": 0.}}


def test_masks_come_to_the_size_of_the_annotation():
    scenes = MovingScenes(3, seed=1000)
    large = [s | dict(mask=s["mask"].repeat_interleave(3, 0).repeat_interleave(3, 1)) for s in scenes]
    masks = predict_masks(Bright(), (s["image"] for s in scenes))
    truth = torch.stack([s["mask"] > 0 for s in large])
    expected = jaccard(object_mask(masks, choose_object(masks), truth.shape[-2:]), truth)
    assert list(evaluate(Bright(), large)["sequences"]["scene1000"].values()) == pytest.approx(expected.tolist(), abs=1e-6)


def test_nothing_to_measure():
    data = Watched(sequences=1, annotated=lambda i: False)
    for function in (evaluate, show_ranked):
        with pytest.raises(ValueError, match="no sample has a mask"):
            function(Bright(), data)


def test_network_is_left_as_it_was_found():
    network = Bright().train()
    evaluate(network, Watched(sequences=1, frames=2))
    assert network.training


# ---- choosing

def frame_of(*masks):
    return torch.stack(masks).float()[None]


def test_what_is_hardly_used_decides_nothing():
    inside = torch.zeros(40, 60, dtype=torch.bool)
    inside[10:30, 20:40] = True
    dot = torch.zeros_like(inside)
    dot[20, 30] = True
    assert choose_object(frame_of(~inside, inside & ~dot, dot)).tolist() == [False, True, False]
    everything = torch.ones_like(inside)
    assert choose_object(frame_of(everything)).tolist() == [False]
    assert choose_object(frame_of(everything & ~dot, dot)).tolist() == [False, True]     # not "all of it is object"


def test_one_of_each_kind_at_least():
    left = torch.zeros(40, 60)
    left[:, :30] = 1
    assert sum(choose_object(frame_of(left, 1 - left)).tolist()) == 1
    even = torch.full((4, 40, 60), .25)
    assert 0 < choose_object(even[None]).sum() < 4                                       # as an untrained network says


def test_the_rule_has_limits_that_the_text_names():
    "An object along the border; and a background in stripes whose parts are judged apart."
    wide = torch.zeros(96, 160, dtype=torch.bool)
    wide[52:] = True
    assert choose_object(frame_of(~wide, wide)).tolist() == [True, False]

    truth = torch.zeros(96, 160, dtype=torch.bool)
    truth[56:, 50:110] = True
    even = (torch.arange(96) % 2 == 0)[:, None]
    striped = frame_of(~truth & even, truth, ~truth & ~even)
    assert border_ratio(frame_of(~truth)).item() > 1 and choose_object(striped).tolist() == [False, True, True]
    assert choose_object(frame_of(~truth, truth)).tolist() == [False, True]


# ---- show_ranked

def test_only_what_is_shown_is_loaded_twice():
    data = Watched(sequences=2, frames=10)
    show_ranked(Bright(), data, ranks=(0., 1.))
    assert sorted(data.asked) == [1] * 18 + [2] * 2


def test_the_motions_of_the_reconstruction_are_those_asked_for():
    scenes = MovingScenes(2, seed=1000)
    explained = [show_ranked(Bright(), scenes, (0.,), basis).axes[3].images[0].get_array() for basis in ("translation", "quadratic")]
    assert np.abs(explained[0] - explained[1]).max() > .05


# ---- 09_segment

@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips") / "clip"
    folder.mkdir()
    scene = MovingScenes(1, seed=14, size=(64, 96)).scene(0)
    for t in range(3):
        cv2.imwrite(str(folder / f"{t:05d}.png"), (scene.frame(t) * 255).round().byte().permute(1, 2, 0).numpy())
    return folder


def test_help_in_the_notebook_is_the_command_s_own():
    cells = json.loads((root / "nbs/09_segment.ipynb").read_text(encoding="utf-8"))["cells"]
    cell = next(c for c in cells if c["cell_type"] == "code" and "run('--help')" in "".join(c["source"]))
    kept = "".join(line for o in cell["outputs"] for line in o["text"])
    program = [sys.executable, "-c", "from gwm_nb.segment import gwm_segment; gwm_segment()", "--help"]
    done = subprocess.run(program, capture_output=True, text=True, env=os.environ | dict(COLUMNS="100"), check=True)
    assert kept.split() == done.stdout.split()      # run the notebook again if this fails


def test_an_estimator_as_object_is_reported_in_words(clip, tmp_path):
    report = segment_clip(clip, tmp_path / "out", method=DIS("fast"), steps=1)
    written = json.loads((tmp_path / "out/result.json").read_text())
    assert written == report and "fast" in json.dumps(written["settings"]["method"])
    assert {"flow", "training", "writing", "total"} <= set(written["seconds"])


@pytest.mark.parametrize("options, message", [(dict(num_masks=1), "at least 2"), (dict(pretrained="imagenet"), "not 'imagenet'"),
                                              (dict(method="magic"), "unknown flow method"), (dict(basis="cubic"), "unknown motion basis")])
def test_settings_are_refused_before_any_work(clip, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        segment_clip(clip, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_annotation_of_another_size_is_named(clip, tmp_path):
    out, wrong = tmp_path / "out", tmp_path / "00001.png"
    out.mkdir()
    cv2.imwrite(str(wrong), np.zeros((10, 20), np.uint8))
    masks = torch.full((3, 2, 64, 96), .5)
    with pytest.raises(ValueError, match=r"00001.png: the annotation is 20x10, its frame 96x64"):
        write_masks(clip, masks, torch.tensor([False, True]), out, {"00001": wrong})


def test_a_network_that_needs_its_own_size_says_so_in_one_line(clip, tmp_path, monkeypatch):
    class Stubborn(Bright):
        def forward(self, image):
            raise AssertionError("Input height (64) doesn't match model (224).")
    monkeypatch.setattr("gwm_nb.segment.create_network", lambda *a: Stubborn())
    with pytest.raises(ValueError, match="'small' does not work on pictures of .*: Input height"):
        segment_clip(clip, tmp_path / "out", steps=1)
    assert not (tmp_path / "out").exists()


def test_the_demo_shows_a_scene_whose_object_stays():
    scenes = MovingScenes(64, seed=1000)
    scene = _scene_in_view(scenes, 36)
    assert min((scene.labels(t) > 0).float().mean() for t in range(0, 36, 7)) > .05
    assert _scene_in_view(MovingScenes(1, seed=0, objects=0), 36).labels(0).max() == 0      # none stays: the last one
