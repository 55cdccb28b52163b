"Tracks and their loss: exact motions are found, lost points end, the loss is the formula."
import urllib.error

import pytest
import torch
import torch.nn as nn

from gwm_nb.drawing import Shape, Texture
from gwm_nb.scenes import Layer, Motion, MovingScenes, Scene
from gwm_nb.tracks import (CoTracker, FollowTracks, TrackLoss, Tracks, point_grid, sample_at,
                           scene_tracks, smooth_tracks, temporal_difference, track, track_points)
from gwm_nb.train import Flips, fit
from inputs import refused

close = torch.testing.assert_close


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.double)


def constant_flows(speed, size, frames):
    there = speed[:, None, None].expand(frames - 1, 2, *size)
    return there, -there


def test_sampling_at_pixels_is_reading_them_and_between_them_is_the_mean():
    "Points are in pixels of the frame, of which the map may have half the size."
    maps, at = noise(2, 3, 5, 7), lambda *xy: torch.tensor(xy).double().expand(2, 1, 2)
    for x, y in ((0, 0), (6, 4), (3, 2)):
        close(sample_at(maps, at(x, y))[..., 0], maps[:, :, y, x])
    close(sample_at(maps, at(3.5, 2))[..., 0], maps[:, :, 2, 3:5].mean(-1))
    close(sample_at(maps, at(-30, -30))[..., 0], maps[:, :, 0, 0])
    close(sample_at(maps, at(6.5, 4.5), size=(10, 14))[..., 0], maps[:, :, 2, 3])


def test_what_leaves_ends_where_it_was_lost_and_does_not_come_back():
    "Four frames to the right, three back."
    right, left = constant_flows(torch.tensor([4., 0.]).double(), (20, 30), 8)
    flows = torch.cat([right[:4], left[:3]])
    tracks = track_points(flows, -flows, torch.tensor([[20., 10.]]))
    assert tracks.visible[:, 0].tolist() == [True] * 3 + [False] * 5
    assert tracks.points[2:, 0, 0].tolist() == [28.] * 6 and not tracks.lasting.any()


def test_what_is_covered_ends():
    "A disk moves over a resting background: points are lost when it comes, others last."
    paint = lambda photo: Texture(photo, 64, torch.zeros(2), torch.ones(3), torch.zeros(3))
    rest, go = Motion(torch.zeros(2).double()), Motion(torch.tensor([3., 0.]).double())
    disk = Layer(paint("coffee"), go, Shape(torch.tensor([20., 24.]), 8.), begins=2, rests=rest)
    scene = Scene([Layer(paint("grass"), rest), disk], (48, 64))
    flows, backs = (torch.stack([scene.flow(t + at, gap) for t in range(6)])
                    for at, gap in ((0, 1), (1, -1)))
    points = point_grid(scene.size, 3)
    found, truth = track_points(flows, backs, points), scene_tracks(scene, points, 7)
    covered = ~truth.lasting
    assert 5 < covered.sum() < 50 and not (found.lasting & covered).any()
    assert (found.lasting & truth.lasting).sum() > .97 * truth.lasting.sum()
    off = (found.points - truth.points).norm(dim=-1)[found.visible & truth.visible]
    assert off.quantile(.99) < .01


class Predictor(nn.Module):
    "Stands in for CoTracker: moves nothing, and remembers how it was called."
    def forward(self, video, queries, backward_tracking):
        self.called = video, queries, backward_tracking
        paths = queries[:, None, :, 1:].expand(-1, video.shape[1], -1, -1)
        return paths, torch.ones(paths.shape[:3])


def test_cotracker_is_called_as_its_authors_do(monkeypatch):
    predictor, asked = Predictor(), []
    monkeypatch.setattr(torch.hub, "load", lambda *a, **k: asked.append(a) or predictor)
    frames, points = torch.rand(4, 3, 20, 30), torch.tensor([[3., 4.], [10., 12.]]).double()
    tracks = track(frames, points, 2, "cotracker")
    video, queries, backward = predictor.called
    assert asked == [("facebookresearch/co-tracker", "cotracker2")] and backward
    close(video, frames[None] * 255)
    close(tracks.points, points.expand(4, -1, -1))
    assert queries.tolist() == [[[2., 3., 4.], [2., 10., 12.]]] and tracks.start == 2
    assert tracks.visible.shape == (4, 2) and tracks.visible.dtype == torch.bool

    def load(*a, **k): raise urllib.error.URLError("no route")
    monkeypatch.setattr(torch.hub, "load", load)
    refused(lambda: CoTracker()(frames, points), says="CoTracker.*'chained'")


def logits_for(B=1, K=2, h=12, w=16): return noise(B, K, h, w).float()


def scattered(T=12, N=40, B=1): return 8 + 3 * noise(B, T, N, 2)


@pytest.mark.parametrize("smooth, weight", [(1, 1.), (1, 5e-5), (5, 1.)])
def test_the_loss_is_the_formula(smooth, weight):
    """Mean over batch and masks of singular values beyond the fifth, of columns times masks, which
    are read where the tracks are before they are smoothed, in a frame of each sample."""
    logits, tracks, start = logits_for(2, 3), scattered(B=2), torch.tensor([3, 9])
    masks = sample_at(logits.softmax(1), tracks[[0, 1], start]).double().clamp(1e-6, 1 - 1e-6)
    parts = [tracks[:, max(t - smooth // 2, 0):t + smooth // 2 + 1].mean(1) for t in range(12)]
    smoothed = torch.stack(parts, 1)                  # means over frames, shorter at the ends
    close(smooth_tracks(tracks, smooth), smoothed)
    P = torch.cat([smoothed[..., 0], smoothed[..., 1]], 1)
    expected = torch.linalg.svdvals(P[:, None] * masks[:, :, None])[..., 5:].sum(-1).mean()
    options = {} if weight == 5e-5 else dict(weight=weight)          # which is the usual one
    found = TrackLoss(smooth=smooth, **options)(logits, tracks, start)
    close(found.double(), weight * expected, rtol=1e-5, atol=0)


def followed(n, points=torch.zeros(5, 2), start=0):
    return track(torch.zeros(n, 3, 48, 64), points, start)


@pytest.mark.parametrize("call, says", [
    (lambda: followed(1), r"2.*\(1, 3, 48, 64\)"), (lambda: followed(3, start=3), "0 to 2, not 3"),
    (lambda: followed(3, torch.zeros(5, 3)), r"points must be \(N,2\)"),
    (lambda: TrackLoss(rank=0), "at least 1.* 0"), (lambda: TrackLoss(smooth=4), "odd.* 4"),
    (lambda: TrackLoss()(logits_for(2), scattered()), r"\(2, 2, 12, 16\) and \(1, 12, 40, 2\)"),
    (lambda: TrackLoss()(logits_for(), scattered(T=10)), "10 frames.*11; lower smooth, or follow")])
def test_what_is_refused(call, says): refused(call, says=says)


def test_temporal_difference_by_hand():
    "The masks of the right half change places: two of four points, (1 + 1) each."
    masks = torch.zeros(1, 2, 6, 8)
    masks[:, 0] = 1
    others = masks.clone()
    others[..., 4:] = masks[..., 4:].flip(1)
    points = torch.tensor([[[1., 1.], [6., 1.], [6., 2.], [2., 2.]]])
    shifted = (points - torch.tensor([4., 0.])).clamp_min(0)
    for counts, where, wanted in (("1111", points, 1), ("1100", points, 1), ("1001", points, 0),
                                  ("0000", points, 0), ("1111", shifted, 0)):
        which = torch.tensor([[c == "1" for c in counts]])
        assert temporal_difference(masks, others, points, where, which) == wanted


def lesson(n=6, frames=12):
    data = MovingScenes(n, seed=0, size=(32, 48), still=1.)
    grid = point_grid((32, 48), 8)
    return data, {data.names[i]: scene_tracks(data.scene(i), grid, frames) for i in range(n)}


def teach(data, follow, steps=1, **options):
    torch.manual_seed(0)
    return fit(data, steps=steps, callbacks=[follow],
               **dict(batch_size=2, progress=False, device="cpu", augment=[]) | options)


class Losses(FollowTracks):
    "Keeps the last batch, and what was added to its loss."
    def after_loss(self, learn):
        before = learn.loss.detach().clone()
        super().after_loss(learn)
        self.added = (learn.loss - before).item()
        self.logits, self.batch = learn.logits.detach(), learn.batch


@pytest.mark.parametrize("every, augment", [(True, []), (False, []), (True, [Flips(1.)])])
def test_the_callback_adds_the_loss_of_this_batchs_tracks(every, augment):
    "Those of a mirrored batch are mirrored, too."
    (data, tracks), loss = lesson(), TrackLoss(weight=.5, normalise=True)
    follow = Losses(tracks, loss, every)
    teach(data, follow, batch_size=4, augment=augment)
    points, visible = (torch.stack([getattr(tracks[name], k) for name in follow.batch["name"]])
                       for k in ("points", "visible"))
    if augment:
        points = points * torch.tensor([-1, 1]) + torch.tensor([47, 0])
    wanted = loss(follow.logits, points, 0, None if every else visible.all(1)).item()
    assert follow.added == pytest.approx(wanted, abs=1e-6, rel=1e-4) and wanted > 0


def test_tracks_that_do_not_belong_to_the_samples_are_refused():
    data, tracks = lesson()
    odd = Tracks(torch.zeros(3, 2, 2), torch.ones(3, 2, dtype=torch.bool), 0)
    for wrong, says in ((dict(list(tracks.items())[:1]), "scene0/0000"),
                        (tracks | {"other": odd}, r"\(3, 2, 2\), \(12, 24, 2\)")):
        refused(lambda: teach(data, FollowTracks(wrong), batch_size=6), says=says)
