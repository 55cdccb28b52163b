"K masks become two: the published way against recorded numbers, the others by hand."
import numpy as np
import pytest
import torch

from gwm_nb.merging import (cosine_affinity, get_merger, mean_features, merge_by_motion,
                            merge_masks, two_groups)
from gwm_nb.paper import KeyFeatures
from inputs import recorded_value, refused


@pytest.mark.parametrize("i", range(6))
def test_merging_is_the_published_one(golden, i):
    z = np.load(golden / "eval_merge.npz")
    A = cosine_affinity(torch.tensor(z[f"basis{i}"]))
    np.testing.assert_allclose(A[0].numpy(), z[f"A{i}"], atol=1e-6)
    second = two_groups(A[0])
    found = {frozenset(group.nonzero()[:, 0].tolist()) for group in (second, ~second)}
    assert found == {frozenset(z[f"{name}{i}"].tolist()) for name in ("inda", "indb")}
    out = merge_masks(torch.tensor(z[f"masks{i}"]), second)
    out = out if second[z[f"indb{i}"]].all() else out.flip(1)
    np.testing.assert_allclose(out.numpy(), z[f"out{i}"], atol=1e-6)


def test_the_whole_merging_with_a_backbone(golden, tmp_path):
    "Filled as the recorded runs were; its weights come from a file."
    dino = KeyFeatures("vit_small_patch8_224.dino", 4, (11,)).model
    with torch.no_grad():
        for name, p in dino.named_parameters():
            p.copy_(recorded_value(f"merger.extractor.model.{name}", p.shape))
    torch.save(dino.state_dict(), tmp_path / "dino.pth")
    merge = get_merger("spectral", tmp_path / "dino.pth")
    z = np.load(golden / "eval_merger_vits8.npz")
    images, masks = torch.tensor(z["rgb"]).float() / 255, torch.tensor(z["masks"])
    np.testing.assert_allclose(merge.features(masks, images).numpy(), z["basis"], atol=1e-5)
    out = merge(masks, images).numpy()
    assert min(np.abs(o - z["cos"]).max() for o in (out, out[:, ::-1])) < 1e-6
    five = merge(torch.cat([masks] * 5), torch.cat([images] * 5))          # more than one batch
    np.testing.assert_allclose(five[4].numpy(), out[0], atol=1e-6)


def test_mean_features_by_hand():
    masks = torch.zeros(1, 3, 4, 4)
    masks[0, 0, :, :2], masks[0, 1, :, 2:] = 1, .5
    maps = torch.arange(16.).reshape(1, 1, 4, 4)
    assert mean_features(masks, maps)[0, :, 0].tolist() == [6.5, 8.5, 0]


@pytest.mark.parametrize("call, value", [
    (lambda: two_groups(torch.ones(1, 1)), "1"), (lambda: get_merger("magic"), "'magic'.*motion"),
    (lambda: get_merger("none")(torch.rand(2, 4, 8, 8), None), "4.*motion"),
    (lambda: merge_by_motion(torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8)), "1"),
    (lambda: get_merger("spectral", "nothing.pth"), "nothing.pth")])
def test_what_cannot_be_merged_is_refused(call, value):
    refused(call, says=value, error=(ValueError, FileNotFoundError))


def test_one_object_leaves_its_rim_to_the_background():
    torch.manual_seed(0)
    masks, frames = torch.zeros(3, 3, 48, 64), torch.rand(3, 48, 64).expand(3, 3, 48, 64).clone()
    texture = torch.rand(3, 16, 16)
    for t in range(3):
        masks[t, 1, 12:36, 12 + 2 * t:36 + 2 * t] = 1                   # the rim, then the object
        masks[t, 2, 16:32, 16 + 2 * t:32 + 2 * t] = 1
        masks[t, 1] -= masks[t, 2]
        masks[t, 0] = 1 - masks[t, 1:].sum(0)
        frames[t, :, 16:32, 16 + 2 * t:32 + 2 * t] = texture
    torch.testing.assert_close(get_merger("object")(masks, frames)[:, 1], masks[:, 2])
    still = get_merger("object")(masks[:1], frames[:1])                 # a frame has no motion
    assert still[:, 1].equal(masks[:1, 2]) or still[:, 1].equal(masks[:1, 1])
