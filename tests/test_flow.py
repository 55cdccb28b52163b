"Flow files that are damaged, frames that do not fit, estimators as objects, scenes, the loss."
import json
import struct
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
import pytest
import torch
from torchvision.models import get_model

from gwm_nb.flow import (DIS, estimate_flow, flow_estimators, get_estimator, occlusion_mask,
                         resize_flow, warp)
from gwm_nb.flow_files import FLO_MAGIC, read_flo, read_flow, read_kitti, write_flo, write_kitti
from gwm_nb.loss import ReconstructionLoss
from gwm_nb.motion import fit_motion, reconstruct
from gwm_nb.drawing import load_photo
from gwm_nb.scenes import MovingScenes
from gwm_nb.store import estimator_settings
from gwm_nb.weights import RAFT

frame = torch.rand(3, 60, 96, generator=torch.Generator().manual_seed(0))
flow = torch.rand(2, 30, 50, generator=torch.Generator().manual_seed(1)) * 20 - 10


@pytest.fixture
def flo(tmp_path):
    return write_flo(tmp_path / "good.flo", flow).read_bytes()


# ---- files

NAN = struct.pack("<f", float("nan"))


@pytest.mark.parametrize("damage, says", [
    (lambda d: d[:-1], ["50x30", "12012", "12011"]), (lambda d: d + b"\0", ["overlong"]),
    (lambda d: d[:7], ["7 bytes"]), (lambda d: b"", ["0 bytes"]),
    (lambda d: b"JUNK" + d[4:], ["202021.25"]),
    (lambda d: struct.pack("<fii", FLO_MAGIC, -3, 4), ["-3x4"]),
    (lambda d: d[:12 + 8 * 155] + NAN + d[16 + 8 * 155:], ["1 pixels", "x=5, y=3"]),
    (lambda d: d[:12] + struct.pack("<f", 1e10) + d[16:], ["x=0, y=0"])])
def test_damaged_flo_files_are_refused_by_name(flo, tmp_path, damage, says):
    (tmp_path / "bad.flo").write_bytes(damage(flo))
    with pytest.raises(ValueError, match="bad.flo") as e:
        read_flo(tmp_path / "bad.flo")
    assert all(word in str(e.value) for word in says)


def test_flow_files_that_are_none(tmp_path):
    cv2.imwrite(str(tmp_path / "photo.png"), np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "text.png").write_bytes(b"no image")
    for call, says in ((lambda: read_flo(tmp_path / "none.flo"), "none.flo"),
                       (lambda: read_kitti(tmp_path / "none.png"), "none.png"),
                       (lambda: write_flo(tmp_path / "x.flo", flow[None]), r"\(2,h,w\)"),
                       (lambda: read_kitti(tmp_path / "photo.png"), "photo.png.* 3 .* 8"),
                       (lambda: read_kitti(tmp_path / "text.png"), "text.png")):
        with pytest.raises((ValueError, FileNotFoundError), match=says):
            call()


def test_kitti_keeps_what_is_unknown_and_read_flow_refuses_it(tmp_path):
    known = torch.ones(30, 50, dtype=torch.bool)
    known[3:5, 7] = False
    write_kitti(tmp_path / "k.png", flow, known)
    again, also_known = read_kitti(tmp_path / "k.png")
    assert torch.equal(known, also_known) and (again - flow)[:, known].abs().max() <= 1 / 128
    with pytest.raises(ValueError, match="unknown at 2 pixels"):
        read_flow(tmp_path / "k.png")
    with pytest.raises(ValueError, match=r"\[-512,512\)"):
        write_kitti(tmp_path / "x.png", flow * 500)


# ---- frames, resizing, warping

@pytest.mark.parametrize("change, says", [
    (dict(image2=frame[:, 1:]), "differ in size"), (dict(longest=5), "at least 16"),
    (dict(image1=frame[:, :8], image2=frame[:, :8]), "too small"),
    (dict(image1=(frame * 255).byte()), "(3, 60, 96) of torch.uint8"),
    (dict(image1=frame[:1]), "(3,h,w)"), (dict(method="magic"), "dis, raft"),
    (dict(method=None), "None")])
def test_what_estimate_flow_refuses(change, says):
    with pytest.raises(ValueError) as e:
        estimate_flow(**dict(image1=frame, image2=frame) | change)
    assert says in str(e.value)


def test_what_leaves_the_frame_is_hidden():
    right = torch.zeros(2, 40, 60)
    right[0] = 2
    hidden = occlusion_mask(right, -right)
    assert hidden[:, -2:].all() and not hidden[:, :-2].any()


# ---- estimators

def test_one_dis_object_serves_many_threads():
    dis = DIS()
    with pytest.raises(ValueError, match="'slow'.*ultrafast, fast, medium"):
        DIS("slow")
    pairs = [(frame.roll(k, -1)[None], frame[None]) for k in range(12)]
    alone = [dis(a, b) for a, b in pairs]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(lambda p: dis(*p), pairs * 3))
    assert all(torch.equal(a, b) for a, b in zip(alone * 3, together))
    batch = dis(torch.cat([a for a, _ in pairs]), frame.expand(12, -1, -1, -1))
    assert torch.equal(batch, torch.cat(alone))


@pytest.fixture
def added():
    before = dict(flow_estimators)
    yield flow_estimators
    flow_estimators.clear()
    flow_estimators.update(before)


def still(image1, image2): return torch.zeros_like(image1[:, :2])


@dataclass(frozen=True)
class Constant:
    u: float = 1.

    def __call__(self, image1, image2): return torch.full_like(image1[:, :2], self.u)


def test_an_estimator_is_a_name_an_object_or_a_function(added):
    assert get_estimator("dis") == DIS() and get_estimator("raft_small") == RAFT(small=True)
    flow_estimators.register("still")(still)
    flow_estimators.register("constant")(Constant)
    assert get_estimator("still") is still and get_estimator("constant") == Constant()
    assert estimate_flow(frame, frame, "still").abs().max() == 0
    assert MovingScenes(1, flow_method="still")[0]["flow"].abs().max() == 0
    assert estimate_flow(frame, frame, Constant(3.)).unique().tolist() == [3.]
    assert estimate_flow(frame, frame, lambda a, b: Constant()(a, b)).unique().tolist() == [1.]


def test_settings_tell_what_the_flow_depends_on(added, tmp_path):
    flow_estimators.register("still")(still)
    flow_estimators.register("constant")(Constant)
    for dis in ("dis", DIS()):
        assert estimator_settings(dis) == dict(name="dis", preset="medium")
    assert estimator_settings(Constant(2.)) == dict(name="constant", u=2.)
    assert estimator_settings("still") == estimator_settings(still) == dict(name="still")
    (tmp_path / "a.pth").write_bytes(b"weights")
    (tmp_path / "b.pth").write_bytes(b"weights")
    (tmp_path / "c.pth").write_bytes(b"others")
    a, b, c = (estimator_settings(RAFT(tmp_path / f"{n}.pth", device="cpu")) for n in "abc")
    assert a == b != c and json.loads(json.dumps(a)) == a and "device" not in a
    with pytest.raises(ValueError, match="named function or a dataclass"):
        estimator_settings(lambda a, b: a)


# ---- RAFT: the plumbing, with random weights

@pytest.fixture(scope="module")
def raft():
    torch.manual_seed(0)
    return RAFT("random", small=True, updates=2, device="cpu")


def test_raft_reads_a_local_file_and_notices_a_new_one(raft, tmp_path):
    a, b = torch.rand(1, 3, 50, 83), torch.rand(1, 3, 50, 83)
    torch.save(raft.network().state_dict(), tmp_path / "small.pth")
    local = RAFT(tmp_path / "small.pth", small=True, updates=2, device="cpu")
    torch.testing.assert_close(local(a, b), raft(a, b))
    torch.save(get_model("raft_small", weights=None).state_dict(), tmp_path / "small.pth")
    assert (local(a, b) - raft(a, b)).abs().max() > .01


def test_raft_refuses_weights_that_are_not_its_own(tmp_path, monkeypatch):
    def unreachable(*args, **kwargs): raise OSError("no route")
    monkeypatch.setattr("gwm_nb.weights.models.get_model_weights", unreachable)
    with pytest.raises(ValueError, match=r"raft_large.*weights=.*DIS"):
        RAFT(device="cpu")(frame[None], frame[None])
    torch.save({"weight": torch.ones(3)}, tmp_path / "wrong.pth")
    (tmp_path / "torn.pth").write_bytes(b"PK")
    for name in ("wrong.pth", "torn.pth"):
        with pytest.raises(ValueError, match=name):
            RAFT(tmp_path / name, device="cpu")(frame[None], frame[None])
    with pytest.raises(FileNotFoundError, match="none.pth"):
        RAFT(tmp_path / "none.pth")
    with pytest.raises(ValueError, match="at least 1"):
        RAFT(updates=0)


# ---- scenes, motion, loss: what they refuse, and cases that must stay finite

def test_scenes_stay_finite_and_their_flow_exact():
    late = MovingScenes(6, seed=1000, size=(48, 80))
    assert all(late.scene(i).frame(20).isfinite().all() for i in range(3))
    for i in range(2):
        scene = MovingScenes(4, seed=2, size=(64, 96), objects=2).scene(i)
        for t in (0, 2):
            visible = ~scene.occluded(t, 2)
            pulled = warp(scene.frame(t + 2)[None], scene.flow(t, 2)[None])[0]
            assert (pulled - scene.frame(t)).abs().mean(0)[visible].mean() < .03


masks, field = torch.rand(1, 2, 24, 32), torch.rand(1, 2, 24, 32)


@pytest.mark.parametrize("call, message", [
    (lambda: MovingScenes(n=0), "at least 1"), (lambda: MovingScenes(similar=2), "[0,1]"),
    (lambda: MovingScenes(size=(8, 8)), "32x32"), (lambda: MovingScenes(8)[8], "scene 8 of 8"),
    (lambda: load_photo("lena"), "choose from astronaut"),
    (lambda: resize_flow(flow, (15, 25), mode="cubic"), "'nearest' or 'bilinear'"),
    (lambda: warp(frame[None], flow[None]), "resize_flow"),
    (lambda: fit_motion(masks, field, "cubic"), "translation, affine, quadratic"),
    (lambda: fit_motion(masks[0], field), "(B,K,h,w)"),
    (lambda: fit_motion(masks[..., 1:], field), "(1, 2, 24, 31)"),
    (lambda: reconstruct(masks, torch.zeros(1, 2, 3, 2)), "theta of basis 'quadratic'"),
    (lambda: ReconstructionLoss("cubic"), "unknown motion basis"),
    (lambda: ReconstructionLoss(criterion="huber"), "'l2' or 'l1'"),
    (lambda: ReconstructionLoss(form="code"), "'blended' or 'per_mask'"),
    (lambda: ReconstructionLoss(flow_clip=0), "positive"),
])
def test_what_scenes_motion_and_loss_refuse(call, message):
    with pytest.raises((ValueError, IndexError)) as e:
        call()
    assert message in str(e.value)


@pytest.mark.parametrize("size", [(24, 32), (480, 854)])
def test_small_soft_masks_anywhere_stay_finite(size):
    "Over a tiny rest, as a saturated softmax leaves them."
    torch.manual_seed(0)
    number = lambda below: int(torch.randint(0, below, ()))
    for _ in range(5):
        m = torch.full((1, 2, *size), 10. ** -(3 + number(37)))
        i, j = number(size[0]), number(size[1])
        m[0, 0, i:i + 1 + number(8), j:j + 1 + number(8)] = 1
        m.requires_grad_()
        out = reconstruct(m, fit_motion(m, torch.randn(1, 2, *size)))
        out.square().mean().backward()
        assert out.isfinite().all() and out.abs().max() < 1e3, (size, i, j)
        assert m.grad.isfinite().all(), (size, i, j)
