"Flow files that are damaged, frames that do not fit, estimators as objects, scenes, the loss."
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
import pytest
import torch
from torchvision.models import get_model

from gwm_nb.fast_fit import fit_error, fit_motion_fast
from gwm_nb.flow import (DIS, estimate_flow, flow_estimators, get_estimator, occlusion_mask,
                         resize_flow, warp)
from gwm_nb.flow_files import read_flow, read_kitti, write_kitti
from gwm_nb.loss import ReconstructionLoss
from gwm_nb.motion import fit_motion, reconstruct
from gwm_nb.scenes import MovingScenes
from gwm_nb.store import estimator_settings
from gwm_nb.weights import RAFT
from inputs import refused

frame = torch.rand(3, 60, 96, generator=torch.Generator().manual_seed(0))
flow = torch.rand(2, 30, 50, generator=torch.Generator().manual_seed(1)) * 20 - 10
masks, field = torch.rand(1, 2, 24, 32), torch.rand(1, 2, 24, 32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "Files that hold no flow, no weights, or flow that is unknown at two pixels."
    folder, known = tmp_path_factory.mktemp("files"), torch.ones(30, 50, dtype=torch.bool)
    cv2.imwrite(str(folder / "photo.png"), np.zeros((8, 8, 3), np.uint8))
    known[3:5, 7] = False
    write_kitti(folder / "unknown.png", flow, known)
    torch.save({"weight": torch.ones(3)}, folder / "wrong.pth")
    return folder


def raft(weights): return RAFT(weights, device="cpu")(frame[None], frame[None])


@pytest.mark.parametrize("call, message", [
    (lambda at: read_kitti(at / "photo.png"), "photo.png"),
    (lambda at: read_flow(at / "unknown.png"), "unknown at 2 pixels"),
    (lambda at: estimate_flow(frame, frame[:, 1:]), "differ in size"),
    (lambda at: estimate_flow(frame, frame, longest=5), "at least 16"),
    (lambda at: estimate_flow(frame[:, :8], frame[:, :8]), "too small"),
    (lambda at: estimate_flow((frame * 255).byte(), frame), "(3, 60, 96) of torch.uint8"),
    (lambda at: estimate_flow(frame[:1], frame), "(3,h,w)"),
    (lambda at: estimator_settings(lambda a, b: a), "named function or a dataclass"),
    (lambda at: raft(at / "wrong.pth"), "wrong.pth"), (lambda at: RAFT(updates=0), "at least 1"),
    (lambda at: MovingScenes(similar=2), "[0,1]"), (lambda at: MovingScenes(8)[8], "scene 8 of 8"),
    (lambda at: MovingScenes(size=(8, 8)), "32x32"),
    (lambda at: resize_flow(flow, (15, 25), mode="cubic"), "'nearest' or 'bilinear'"),
    (lambda at: warp(frame[None], flow[None]), "resize_flow"),
    *((lambda at, fit=fit, m=m, f=f: fit(m, f), f"{tuple(m.shape)}, {tuple(f.shape)}")
      for fit in (fit_motion, fit_motion_fast, fit_error) for m, f in (
          (masks[0], field), (masks[..., 1:], field), (masks, field[:, :1]))),
    (lambda at: fit_error(masks, field, criterion="l3"), "'l2' or 'l1', not 'l3'"),
    (lambda at: reconstruct(masks, torch.zeros(1, 2, 3, 2)), "theta of basis 'quadratic'"),
    (lambda at: ReconstructionLoss(form="code"), "'blended' or 'per_mask'"),
    (lambda at: ReconstructionLoss(flow_clip=0), "positive")])
def test_what_is_refused(folder, call, message):
    refused(call, folder, says=[message], error=(ValueError, IndexError, FileNotFoundError))


def test_what_leaves_the_frame_is_hidden():
    right = torch.zeros(2, 40, 60)
    right[0] = 2
    hidden = occlusion_mask(right, -right)
    assert hidden[:, -2:].all() and not hidden[:, :-2].any()


def test_one_dis_object_serves_many_threads():
    dis = DIS()
    pairs = [(frame.roll(k, -1)[None], frame[None]) for k in range(12)]
    alone = [dis(a, b) for a, b in pairs]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(lambda p: dis(*p), pairs * 3))
    assert all(torch.equal(a, b) for a, b in zip(alone * 3, together))
    batch = dis(torch.cat([a for a, _ in pairs]), frame.expand(12, -1, -1, -1))
    assert torch.equal(batch, torch.cat(alone))


def still(image1, image2): return torch.zeros_like(image1[:, :2])


@dataclass(frozen=True)
class Constant:
    u: float = 1.

    def __call__(self, image1, image2): return torch.full_like(image1[:, :2], self.u)


def test_an_estimator_is_a_name_an_object_or_a_function(monkeypatch, tmp_path):
    monkeypatch.setitem(flow_estimators, "still", still)
    monkeypatch.setitem(flow_estimators, "constant", Constant)
    assert get_estimator("dis") == DIS() and get_estimator("raft_small") == RAFT(small=True)
    assert get_estimator("still") is still and get_estimator("constant") == Constant()
    assert estimate_flow(frame, frame, "still").abs().max() == 0
    assert MovingScenes(1, flow_method="still")[0]["flow"].abs().max() == 0
    assert estimate_flow(frame, frame, Constant(3.)).unique().tolist() == [3.]
    assert estimate_flow(frame, frame, lambda a, b: Constant()(a, b)).unique().tolist() == [1.]
    for dis in ("dis", DIS()):
        assert estimator_settings(dis) == dict(name="dis", preset="medium")
    assert estimator_settings(Constant(2.)) == dict(name="constant", u=2.)
    assert estimator_settings("still") == estimator_settings(still) == dict(name="still")
    for name, data in zip("abc", (b"weights", b"weights", b"others")):
        (tmp_path / f"{name}.pth").write_bytes(data)
    a, b, c = (estimator_settings(RAFT(tmp_path / f"{n}.pth", device="cpu")) for n in "abc")
    assert a == b != c and json.loads(json.dumps(a)) == a and "device" not in a


def test_raft_reads_a_local_file_and_notices_a_new_one(tmp_path, monkeypatch):
    "Where torchvision's weights cannot be fetched, the error says what else there is."
    monkeypatch.setattr("gwm_nb.weights.models.get_model_weights", lambda name: open("no/route"))
    refused(raft, None, says=r"raft_large.*weights=.*DIS")
    a, b = torch.rand(1, 3, 50, 83), torch.rand(1, 3, 50, 83)
    random = RAFT("random", small=True, updates=2, device="cpu")
    torch.save(random.network().state_dict(), tmp_path / "small.pth")
    local = RAFT(tmp_path / "small.pth", small=True, updates=2, device="cpu")
    torch.testing.assert_close(local(a, b), random(a, b))
    torch.save(get_model("raft_small", weights=None).state_dict(), tmp_path / "small.pth")
    assert (local(a, b) - random(a, b)).abs().max() > .01


def test_scenes_stay_finite():
    late = MovingScenes(6, seed=1000, size=(48, 80))
    assert all(late.scene(i).frame(20).isfinite().all() for i in range(3))
