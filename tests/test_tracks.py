"Tracks and their loss: exact motions are found, lost points end, the value and the gradient are those of the plain formula."
import math
import urllib.error

import pytest
import torch
import torch.nn as nn

from gwm_nb.network import create_network
from gwm_nb.scenes import Layer, Motion, MovingScenes, Scene, Shape, Texture
from gwm_nb.tracks import (ChainedTracker, CoTracker, FollowTracks, TrackLoss, Tracks, at_start, beyond_rank, point_grid, register_tracker, sample_at, scene_tracks,
                           smooth_tracks, temporal_difference, track, track_matrix, track_points, trackers)
from gwm_nb.train import fit


def noise(*shape, seed=0): return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def affine_flows(A, b, size, frames):
    "Flow there and back of p -> A p + b, the same in every frame."
    h, w = size
    y, x = torch.meshgrid(torch.arange(h).double(), torch.arange(w).double(), indexing="ij")
    p = torch.stack([x, y], -1)
    there, back = p @ A.T + b - p, (p - b) @ torch.linalg.inv(A).T - p
    return tuple(f.permute(2, 0, 1).expand(frames - 1, -1, -1, -1) for f in (there, back))


def low_rank(rank, T=12, N=40, seed=0):
    "Tracks (1,T,N,2) whose matrix has this rank."
    P = noise(2 * T, rank, seed=seed) @ noise(rank, N, seed=seed + 1)
    return P.view(2, T, N).permute(1, 2, 0)[None]


def still_life(object_speed=(3., 0.), turn=0.):
    "A disk that rests on a resting background for two frames and then moves."
    paint = lambda photo: Texture(photo, 64, torch.zeros(2), torch.ones(3), torch.zeros(3))
    rest, go = Motion(torch.zeros(2).double()), Motion(torch.tensor(object_speed).double(), turn * torch.tensor([[0., -1.], [1., 0.]]).double(), centre=torch.tensor([20., 24.]).double())
    disk = Shape(torch.tensor([20., 24.]), 8.)
    return Scene([Layer(paint("grass"), rest), Layer(paint("coffee"), go, disk, begins=2, rests=rest)], (48, 64))


# ---- reading between pixels

def test_sampling_at_pixels_is_reading_them_and_between_them_is_the_mean():
    maps = noise(2, 3, 5, 7)
    x, y = torch.tensor([0, 6, 3]), torch.tensor([0, 4, 2])
    points = torch.stack([x, y], -1).double().expand(2, -1, -1)
    torch.testing.assert_close(sample_at(maps, points), maps[:, :, y, x])
    torch.testing.assert_close(sample_at(maps, points[:, 2:] + torch.tensor([.5, 0]))[..., 0], maps[:, :, 2, 3:5].mean(-1))
    torch.testing.assert_close(sample_at(maps, points[:, :1] - 30)[..., 0], maps[:, :, 0, 0])


def test_points_are_in_pixels_of_the_frame_not_of_the_map():
    "A map of half the size, whose pixel (1, 2) covers pixels 2..3 by 4..5 of the frame."
    maps = noise(1, 1, 6, 8)
    torch.testing.assert_close(sample_at(maps, torch.tensor([[[2.5, 4.5]]]), size=(12, 16))[0, 0, 0], maps[0, 0, 2, 1])


# ---- following

@pytest.mark.parametrize("start", [0, 2, 5])
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_a_translation_is_followed_to_the_last_digit(start, mode):
    flows, backs = affine_flows(torch.eye(2).double(), torch.tensor([1.5, -.75]).double(), (40, 60), 6)
    points = torch.tensor([[25., 20.], [30.25, 22.5]])
    tracks = track_points(flows, backs, points, start, mode)
    t = torch.arange(6).double()[:, None, None] - start
    torch.testing.assert_close(tracks.points, points.double() + t * torch.tensor([1.5, -.75]).double(), atol=1e-9, rtol=0)
    assert tracks.visible.all() and tracks.start == start and tracks.points.shape == (6, 2, 2)


def test_an_affine_motion_is_followed_since_bilinear_reading_of_it_is_exact():
    A, b = torch.tensor([[1.01, -.03], [.03, .99]]).double(), torch.tensor([.5, .2]).double()
    flows, backs = affine_flows(A, b, (60, 80), 8)
    tracks = track_points(flows, backs, torch.tensor([[40., 30.], [20., 20.]]))
    expected = [torch.tensor([[40., 30.], [20., 20.]]).double()]
    for _ in range(7): expected.append(expected[-1] @ A.T + b)
    torch.testing.assert_close(tracks.points, torch.stack(expected), atol=1e-6, rtol=0)
    assert tracks.lasting.all()


def test_forwards_and_backwards_are_one_and_the_same_with_time_turned_around():
    scene = MovingScenes(2, seed=0, size=(48, 64)).scene(1)
    flows, backs = (torch.stack([scene.flow(t + gap, 1 - 2 * gap) for t in range(4)]) for gap in (0, 1))
    points = point_grid((48, 64), 8)
    one, other = track_points(flows, backs, points, 0), track_points(backs.flip(0), flows.flip(0), points, 4)
    torch.testing.assert_close(one.points, other.points.flip(0))
    assert torch.equal(one.visible, other.visible.flip(0))


def test_what_leaves_ends_where_it_was_lost_and_does_not_come_back():
    flows, backs = affine_flows(torch.eye(2).double(), torch.tensor([4., 0.]).double(), (20, 30), 8)
    flows = torch.cat([flows[:4], backs[:3]])                       # four frames to the right, three back
    backs = -flows
    tracks = track_points(flows, backs, torch.tensor([[20., 10.]]))
    assert tracks.visible[:, 0].tolist() == [True] * 3 + [False] * 5
    assert tracks.points[2:, 0, 0].tolist() == [28.] * 6 and not tracks.lasting.any()


def test_what_is_covered_ends():
    "Exact flow of a disk that moves over a resting background: points under its way are lost when it comes, others last."
    scene = still_life()
    points, T = point_grid(scene.size, 3), 7
    flows, backs = (torch.stack([scene.flow(t + gap, 1 - 2 * gap) for t in range(T - 1)]) for gap in (0, 1))
    found, truth = track_points(flows, backs, points), scene_tracks(scene, points, T)
    covered = ~truth.lasting
    assert 5 < covered.sum() < 50 and not (found.lasting & covered).any()
    assert (found.lasting & truth.lasting).sum() > .97 * truth.lasting.sum()
    seen = found.visible & truth.visible
    assert (found.points - truth.points).norm(dim=-1)[seen].quantile(.99) < .01


def test_exact_tracks_go_on_behind_what_covers_them_and_out_of_the_frame():
    scene = still_life((9., 0.))
    tracks = scene_tracks(scene, torch.tensor([[20., 24.], [40., 24.], [5., 5.]]).double(), 8)
    torch.testing.assert_close(tracks.points[:, 0, 0], torch.tensor([20., 20., 20., 29., 38., 47., 56., 65.]).double())
    torch.testing.assert_close(tracks.points[:, 1], torch.tensor([40., 24.]).double().expand(8, 2))
    assert tracks.visible[:, 0].tolist() == [True] * 7 + [False]
    assert tracks.visible[:, 1].tolist() == [True] * 4 + [False] + [False] + [True] * 2      # hidden while the disk passes
    assert tracks.visible[:, 2].all()


def test_exact_tracks_agree_with_exact_flow_from_any_frame():
    scene = MovingScenes(3, seed=2, size=(48, 64), still=1.).scene(0)
    points = point_grid((48, 64), 4)
    x, y = points.long().T
    for start in (0, 3):
        tracks = scene_tracks(scene, points, 6, start)
        torch.testing.assert_close(tracks.points[start], points)
        for t in (0, 5):
            step = scene.flow(start, t - start)[:, y, x].T
            torch.testing.assert_close((tracks.points[t] - points).float(), step, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("change, says", [
    (dict(backs=torch.zeros(3, 2, 20, 30)), "flows and backs must be"), (dict(flows=torch.zeros(4, 20, 30)), "flows and backs must be"),
    (dict(points=torch.zeros(5, 3)), r"points must be \(N,2\)"), (dict(start=5), "from 0 to 4, not 5"), (dict(start=-1), "from 0 to 4, not -1")])
def test_what_cannot_be_followed_is_refused(change, says):
    good = dict(flows=torch.zeros(4, 2, 20, 30), backs=torch.zeros(4, 2, 20, 30), points=torch.zeros(5, 2), start=4)
    assert track_points(**good).points.shape == (5, 5, 2)
    with pytest.raises(ValueError, match=says): track_points(**good | change)


# ---- trackers by name

def test_trackers_by_name():
    frames = torch.stack([MovingScenes(1, size=(48, 64)).scene(0).frame(t) for t in range(3)])
    points = point_grid((48, 64), 8)
    one, other = track(frames, points, 1), track(frames, points, 1, ChainedTracker("dis"))
    assert torch.equal(one.points, other.points) and one.start == 1 and one.points.shape == (3, 48, 2)
    with pytest.raises(ValueError, match="unknown tracker 'sift'; choose one of chained, cotracker"): track(frames, points, method="sift")
    with pytest.raises(ValueError, match="unknown flow method"): track(frames, points, method=ChainedTracker("sift"))
    with pytest.raises(ValueError, match=r"T of at least 2, not \(1, 3, 48, 64\)"): track(frames[:1], points)


def test_a_tracker_of_ones_own(monkeypatch):
    monkeypatch.setattr("gwm_nb.tracks.trackers", dict(trackers))

    @register_tracker("lazy")
    class Lazy:
        def __call__(self, frames, points, start=0): return Tracks(points.expand(len(frames), -1, -1), torch.ones(len(frames), len(points), dtype=torch.bool), start)

    assert track(torch.zeros(4, 3, 20, 20), torch.zeros(5, 2), 2, "lazy").points.shape == (4, 5, 2)
    register_tracker("plain")(lambda frames, points, start: Lazy()(frames[:-1], points, start))
    assert track(torch.zeros(4, 3, 20, 20), torch.zeros(5, 2), 2, "plain").points.shape == (3, 5, 2)
    assert "lazy" not in trackers


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
    torch.testing.assert_close(video, frames[None] * 255)
    assert queries.tolist() == [[[2., 3., 4.], [2., 10., 12.]]]
    torch.testing.assert_close(tracks.points, points.expand(4, -1, -1))
    assert tracks.visible.shape == (4, 2) and tracks.visible.dtype == torch.bool and tracks.start == 2


def test_cotracker_without_internet_is_one_line(monkeypatch):
    def load(*a, **k): raise urllib.error.URLError("no route")
    monkeypatch.setattr(torch.hub, "load", load)
    with pytest.raises(ValueError, match="CoTracker: they could not be had .URLError.; connect to the internet, or use the tracker 'chained'") as e:
        CoTracker()(torch.rand(4, 3, 20, 30), torch.zeros(2, 2))
    assert "\n" not in str(e.value)


# ---- low rank

def plain(P, masks, rank): return torch.linalg.svdvals(P[:, None] * masks[:, :, None])[..., rank:].sum(-1)


@pytest.mark.parametrize("rank", [0, 1, 5, 15])
@pytest.mark.parametrize("N", [7, 16, 300])
def test_value_and_gradient_are_those_of_the_full_decomposition(rank, N):
    P, masks = noise(2, 16, N), torch.rand(2, 3, N, generator=torch.Generator().manual_seed(1), dtype=torch.double).requires_grad_()
    ours, theirs = beyond_rank(P, masks, rank), plain(P, masks, rank)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-9)
    g, h = (torch.autograd.grad(v.square().sum(), masks)[0] for v in (ours, theirs))
    torch.testing.assert_close(g, h, atol=1e-6, rtol=1e-7)


def test_gradient_against_finite_differences_also_where_singular_values_are_equal():
    masks = torch.full((1, 1, 12), .7).double() + .01 * noise(1, 1, 12)
    assert torch.autograd.gradcheck(lambda m: beyond_rank(noise(1, 8, 12), m, 3), masks.clone().requires_grad_())
    twins = torch.eye(8).double()[None].repeat(1, 1, 2)              # all singular values are one
    g, = torch.autograd.grad(beyond_rank(twins, torch.ones(1, 1, 16).double().requires_grad_(), 0).sum(), (m := torch.ones(1, 1, 16).double().requires_grad_()), allow_unused=True)
    assert g is None
    g, = torch.autograd.grad(beyond_rank(twins, m, 0).sum(), m)
    torch.testing.assert_close(g, torch.full_like(g, 1 / math.sqrt(2)))     # of 8 norms sqrt(a^2 + b^2)


def test_tracks_as_they_are_a_hundred_thousand_pixels_beside_a_hundredth():
    "Small singular values beside large ones: squared, they are 14 digits apart, and a thousandth of a pixel is still right."
    U, V = (torch.linalg.qr(noise(n, 8, seed=n))[0] for n in (24, 500))
    sigma = torch.tensor([1e5, 3e3, 1e3, 1e2, 10., 1., .1, .01]).double()
    P = (U * sigma) @ V.T
    found = beyond_rank(P[None], torch.ones(1, 1, 500).double())
    torch.testing.assert_close(found, sigma[5:].sum()[None, None], atol=1e-3, rtol=0)


def test_rank_of_rigid_things():
    "Points in space before an affine camera: rank 4. Flat ones: 3. Two things: the sum."
    T, N = 9, 50
    camera = noise(2 * T, 4, seed=3)
    def seen(X, camera): return camera @ torch.cat([X, torch.ones(1, X.shape[1])])
    solid, flat = noise(3, N), noise(3, N, seed=1)
    flat[2] = 0
    rank = lambda P: int(torch.linalg.matrix_rank(P))
    assert rank(seen(solid, camera)) == 4 and rank(seen(flat, camera)) == 3
    assert rank(torch.cat([seen(solid, camera), seen(flat, noise(2 * T, 4, seed=4))], 1)) == 7


def test_rows_are_x_then_y():
    tracks = noise(2, 3, 5, 2)
    P = track_matrix(tracks)
    assert P.shape == (2, 6, 5)
    torch.testing.assert_close(P, torch.cat([tracks[..., 0], tracks[..., 1]], 1))


# ---- smoothing

def test_smoothing_is_a_mean_over_frames_shorter_at_the_ends():
    tracks = noise(2, 9, 4, 2)
    smooth = smooth_tracks(tracks, 5)
    torch.testing.assert_close(smooth[:, 4], tracks[:, 2:7].mean(1))
    torch.testing.assert_close(smooth[:, 0], tracks[:, :3].mean(1))
    torch.testing.assert_close(smooth[:, 8], tracks[:, 6:].mean(1))
    torch.testing.assert_close(smooth_tracks(tracks, 1), tracks)
    torch.testing.assert_close(smooth_tracks(tracks[:, :3], 11), tracks[:, :3].mean(1, keepdim=True).expand(-1, 3, -1, -1))


@pytest.mark.parametrize("rank", [3, 5])
def test_smoothing_never_raises_a_rank(rank):
    tracks = low_rank(rank)
    assert torch.linalg.matrix_rank(track_matrix(smooth_tracks(tracks))[0]) <= rank


# ---- the loss

def logits_for(B=1, K=2, h=12, w=16, seed=0): return noise(B, K, h, w, seed=seed).float()


def scattered(T=12, N=40, B=1, seed=0): return 8 + 3 * noise(B, T, N, 2, seed=seed)


def test_the_loss_is_the_formula():
    "Mean over batch and masks of singular values beyond the fifth, of columns times masks read in the query frame."
    logits, tracks, start = logits_for(2, 3), scattered(B=2), 3
    masks = sample_at(logits.softmax(1), tracks[:, start]).double().clamp(1e-6, 1 - 1e-6)
    expected = torch.stack([torch.linalg.svdvals(torch.cat([t[..., 0], t[..., 1]]) * m)[5:].sum() for t, ms in zip(tracks, masks) for m in ms]).mean()
    torch.testing.assert_close(TrackLoss(smooth=1, weight=1.)(logits, tracks, start).double(), expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(TrackLoss(smooth=1)(logits, tracks, start).double(), 5e-5 * expected, rtol=1e-5, atol=0)


def test_masks_are_clamped_away_from_zero_and_one():
    sure = torch.tensor([50., -50., -50.]).double()[None, :, None, None].expand(1, 3, 12, 16)
    values = torch.linalg.svdvals(track_matrix(scattered()))[0, 5:].sum()
    loss = TrackLoss(smooth=1, weight=1.)(sure, scattered())
    torch.testing.assert_close(loss, values * (1 - 1e-6 + 2e-6) / 3, rtol=1e-9, atol=0)


def test_tracks_are_smoothed_and_masks_are_read_where_they_really_are():
    logits, tracks = logits_for(), scattered()
    constant = torch.zeros_like(logits)
    torch.testing.assert_close(TrackLoss(smooth=5, weight=1.)(constant, tracks), TrackLoss(smooth=1, weight=1.)(constant, smooth_tracks(tracks, 5)))
    masks = sample_at(logits.softmax(1), tracks[:, 3]).double()
    expected = beyond_rank(track_matrix(smooth_tracks(tracks, 5)), masks).mean()
    torch.testing.assert_close(TrackLoss(smooth=5, weight=1.)(logits, tracks, 3).double(), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("rank, free, zero", [(3, 5, True), (5, 5, True), (6, 5, False), (3, 3, True), (4, 3, False)])
def test_it_is_zero_where_the_rank_is_low_whatever_the_masks(rank, free, zero):
    loss = TrackLoss(free, weight=1.)(logits_for(K=4), low_rank(rank))
    assert (loss < 1e-8) == zero


def test_at_zero_the_gradient_is_zero_and_not_nan():
    for tracks in (low_rank(4), torch.zeros(1, 12, 40, 2).double()):
        logits = logits_for().requires_grad_()
        TrackLoss(weight=1., normalise=True)(logits, tracks).backward()
        assert logits.grad.isfinite().all() and logits.grad.abs().max() < 1e-6


def test_gradient_of_the_whole_loss():
    tracks = scattered(N=15)
    loss = TrackLoss(weight=1., normalise=True, smooth=3)
    assert torch.autograd.gradcheck(lambda l: loss(l, tracks, 2), noise(1, 2, 5, 6).requires_grad_(), atol=1e-6)


def test_what_it_does_not_depend_on():
    logits, tracks = logits_for(2), scattered(B=2)
    loss = TrackLoss(smooth=1, weight=1.)
    value = loss(logits, tracks, 3)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(loss(logits, tracks[:, :, order], 3), value)                              # tracks have no order
    torch.testing.assert_close(loss(logits.flip(1), tracks, 3), value)                                   # nor have masks
    torch.testing.assert_close(loss(logits, tracks.flip(1), 8), value)                                   # nor has time
    torch.testing.assert_close(loss(logits.repeat(3, 1, 1, 1), tracks.repeat(3, 1, 1, 1), 3), value)     # a mean over the batch
    # in normalised form, frames twice as large say the same
    large = nn.functional.interpolate(logits, scale_factor=2, mode="nearest")
    same = TrackLoss(smooth=1, weight=1., normalise=True)
    torch.testing.assert_close(same(logits, 2 * tracks, 3, size=(24, 32)), same(logits, 2 * tracks, 3, size=large.shape[-2:]))


def test_tracks_that_do_not_count_are_not_there():
    logits, tracks = logits_for(), scattered(N=40)
    counts = torch.arange(40)[None] < 25
    for normalise in (False, True):
        loss = TrackLoss(weight=1., normalise=normalise)
        torch.testing.assert_close(loss(logits, tracks, 0, counts), loss(logits, tracks[:, :, :25], 0))
    assert loss(logits, tracks, 0, counts & False) == 0


def test_one_mask_for_all_is_one_over_K_when_normalised():
    sure = torch.tensor([60., 0., 0., 0.])[None, :, None, None].expand(1, 4, 12, 16)
    torch.testing.assert_close(TrackLoss(weight=1., normalise=True)(sure, scattered()), torch.tensor(.25), atol=1e-4, rtol=0)


def test_each_sample_may_start_in_a_frame_of_its_own():
    logits, tracks = logits_for(2), scattered(B=2)
    loss = TrackLoss(weight=1.)
    both = loss(logits, tracks, torch.tensor([1, 9]))
    torch.testing.assert_close(both, (loss(logits[:1], tracks[:1], 1) + loss(logits[1:], tracks[1:], 9)) / 2)
    torch.testing.assert_close(at_start(tracks, torch.tensor([1, 9])), torch.stack([tracks[0, 1], tracks[1, 9]]))


def values_of_disk(turn, free):
    "The loss of true, shifted and unused masks of a disk that rests in two frames, and then moves and turns; tracks tremble a little."
    scene, T = still_life((2., 1.), turn), 12
    labels = scene.labels(0)
    tracks = scene_tracks(scene, point_grid(scene.size, 3), T).points
    tracks = tracks + .01 * noise(*tracks.shape)
    as_logits = lambda inside: 20 * torch.stack([~inside, inside]).float()[None]
    assert scene.flow(0).abs().max() == 0
    return [TrackLoss(free, 1, weight=1., normalise=True)(as_logits(m), tracks[None]).item() for m in (labels == 1, (labels == 1).roll(10, 1), labels == 5)]


def test_true_masks_win_where_the_object_still_rests():
    true, *others = values_of_disk(.2, 3)
    assert true < .5 * min(others)


def test_a_thing_that_only_shifts_before_a_resting_ground_is_within_rank_three():
    "x, y and one row for the shift: with that much free, who is who makes no difference, and a division only spreads the trembling."
    true, _, one = values_of_disk(0., 3)
    assert true > one == pytest.approx(.5, abs=1e-3)
    true, *others = values_of_disk(0., 2)
    assert true < .9 * min(others)


@pytest.mark.parametrize("make, says", [
    (lambda: TrackLoss(0), "rank must be at least 1, not 0"), (lambda: TrackLoss(smooth=4), "odd number of frames, not 4"), (lambda: TrackLoss(smooth=0), "odd number"),
    (lambda: TrackLoss()(logits_for(), scattered()[0]), r"logits must be \(B,K,h,w\) and tracks \(B,T,N,2\)"),
    (lambda: TrackLoss()(logits_for(2), scattered()), r"not \(2, 2, 12, 16\) and \(1, 12, 40, 2\)"),
    (lambda: TrackLoss()(logits_for(), scattered(T=2)), "tracks of 2 frames never have more than rank 4, and 5 is free: follow points for longer"),
    (lambda: TrackLoss()(logits_for(), scattered(T=10)), "tracks of 10 frames are too short to be smoothed over 11: lower smooth, or follow points for longer"),
    (lambda: TrackLoss()(logits_for(), scattered(), 12), "start must be a frame from 0 to 11"), (lambda: TrackLoss()(logits_for(), scattered(), -1), "start must be")])
def test_what_has_no_loss_is_refused(make, says):
    with pytest.raises(ValueError, match=says): make()


# ---- the temporal difference

def test_temporal_difference_by_hand():
    masks = torch.zeros(1, 2, 6, 8)
    masks[:, 0] = 1
    others = masks.clone()
    others[..., 4:] = masks[..., 4:].flip(1)
    points = torch.tensor([[[1., 1.], [6., 1.], [6., 2.], [2., 2.]]])
    everyone = torch.ones(1, 4, dtype=torch.bool)
    assert temporal_difference(masks, others, points, points, everyone) == 1           # two of four points, (1 + 1) each
    assert temporal_difference(masks, others, points, points, torch.tensor([[True, True, False, False]])) == 1
    assert temporal_difference(masks, others, points, points, torch.tensor([[True, False, False, True]])) == 0
    assert temporal_difference(masks, others, points, points, everyone & False) == 0
    moved = points - torch.tensor([4., 0.])
    assert temporal_difference(masks, others, points, moved.clamp_min(0), everyone) == 0


# ---- in a training

def lesson(n=6, frames=12):
    data = MovingScenes(n, seed=0, size=(32, 48), still=1.)
    grid = point_grid((32, 48), 8)
    return data, {data.names[i]: scene_tracks(data.scene(i), grid, frames) for i in range(n)}


class Losses(FollowTracks):
    "Keeps what it was told and what it made of it."
    def after_loss(self, learn):
        before = learn.loss.detach().clone()
        super().after_loss(learn)
        points, visible, start = self._drawn(learn)
        self.kept = before, learn.loss.detach(), learn.logits.detach(), points, visible, self._mirrored(learn), learn.batch


@pytest.mark.parametrize("every", [True, False])
def test_the_callback_adds_the_loss_of_this_batchs_tracks(every):
    data, tracks = lesson()
    follow = Losses(tracks, TrackLoss(weight=.5, normalise=True), every)
    fit(data, steps=1, batch_size=4, progress=False, device="cpu", augment=[], callbacks=[follow])
    before, after, logits, points, visible, mirrored, batch = follow.kept
    own = torch.stack([tracks[name].points for name in batch["name"]])
    torch.testing.assert_close(points, own)
    counts = None if every else visible.all(1)
    torch.testing.assert_close(after - before, TrackLoss(weight=.5, normalise=True)(logits, own, 0, counts), atol=1e-6, rtol=1e-4)
    assert not mirrored and after > before


def test_a_mirrored_batch_has_mirrored_tracks():
    from gwm_nb.train import Flips
    data, tracks = lesson()
    follow = Losses(tracks)
    fit(data, steps=1, batch_size=2, progress=False, device="cpu", augment=[Flips(1.)], callbacks=[follow])
    *_, logits, points, visible, mirrored, batch = follow.kept
    torch.testing.assert_close(points[0], tracks[batch["name"][0]].points * torch.tensor([-1, 1]) + torch.tensor([47, 0]))
    x, y = points[0, 0].T.long()
    own = data[data.names.index(batch["name"][0])]["image"]
    assert mirrored
    torch.testing.assert_close(batch["image"][0][:, y, x], own[:, y, 47 - x])


def test_the_temporal_difference_ramps_up():
    data, tracks = lesson()
    later = {data.names[i]: data.scene(i).frame(5) for i in range(len(data))}
    added = []

    class Silent(nn.Module):
        def forward(self, logits, *rest): return logits.sum() * 0

    class Watch(FollowTracks):
        def after_loss(self, learn):
            before = learn.loss.detach().clone()
            super().after_loss(learn)
            added.append((learn.loss - before).item())

    options = dict(steps=4, batch_size=2, progress=False, device="cpu", lr=0.)
    torch.manual_seed(0)
    fit(data, callbacks=[Watch(tracks, Silent(), True, later, temporal=100.)], **options)
    assert 0 < added[0] < added[1] < added[3] and added[0] < .1 * added[3]
    added.clear()
    fit(data, callbacks=[Watch(tracks, Silent(), True)], **options)
    assert max(map(abs, added)) < 1e-6


def test_tracks_that_do_not_belong_to_the_samples_are_refused():
    data, tracks = lesson()
    options = dict(steps=2, batch_size=6, progress=False, device="cpu")
    with pytest.raises(ValueError, match="there are no tracks for sample scene0/0000"):
        fit(data, callbacks=[FollowTracks(dict(list(tracks.items())[:1]))], **options)
    odd = tracks | {"other": Tracks(torch.zeros(3, 2, 2), torch.ones(3, 2, dtype=torch.bool), 0)}
    with pytest.raises(ValueError, match=r"as many frames and points each, not \[\(3, 2, 2\), \(12, 24, 2\)\]"):
        fit(data, callbacks=[FollowTracks(odd)], **options)


def test_a_few_steps_lower_the_loss_of_tracks():
    data, tracks = lesson()
    loss = TrackLoss(weight=1., normalise=True, smooth=1)
    points = torch.stack([t.points for t in tracks.values()])
    images = torch.stack([s["image"] for s in data])
    torch.manual_seed(0)
    network = create_network("small").train()
    before = loss(network(images), points).item()
    fit(data, network, steps=25, batch_size=6, progress=False, device="cpu", augment=[], callbacks=[FollowTracks(tracks, loss, every=True)])
    assert loss(network(images), points).item() < .9 * before
