"K masks become two: the published way against recorded numbers, the others by hand."
import numpy as np
import pytest
import torch

from gwm_nb.merging import (cosine_affinity, get_merger, mean_features, merge_by_motion,
                            merge_masks, two_groups)
from gwm_nb.paper import KeyFeatures
from inputs import recorded_value


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
    with pytest.raises((ValueError, FileNotFoundError), match=value):
        call()
