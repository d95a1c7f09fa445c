"""The figures of a scan, looked at: every panel shows something, and nothing that was measured is lost in one."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from PIL import Image

from autoint.registry import PHANTOMS
from autoint.tomography import classics, evaluation
from autoint.tomography.data import fans
from autoint.tomography.data.sinograms import Scan, seen_views
from autoint.tomography.evaluation import explained, measured_rows
from autoint.tomography.models import LatticeObject


@pytest.fixture(scope="module")
def scan():
    return PHANTOMS.build("ellipses", "", 48, 96)


def panels(figure):
    """Yield the name and the pixels (H, W, 3) of each drawn panel with a picture in it."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    drawn = np.asarray(canvas.buffer_rgba())[..., :3]
    for axes in figure.axes:
        if axes.images:
            box = axes.get_window_extent()
            rows = slice(len(drawn) - int(box.y1) + 2, len(drawn) - int(box.y0) - 2)
            yield axes.get_title(), drawn[rows, int(box.x0) + 2 : int(box.x1) - 2] / 255


def unseen(pixels):
    return np.abs(pixels - to_rgb(evaluation.UNSEEN)).max(-1) < 0.02


@pytest.mark.parametrize("views", [6, 32])
def test_every_panel_of_the_sinograms_has_contrast(scan, views):
    seen = seen_views(96, views, None)
    filled = classics.linear(scan, seen).sinogram
    found = dict(panels(evaluation.sinogram_figure(scan, seen, {"linear": filled})))
    assert list(found)[:2] == ["all views", f"the {views} measured"]
    for name, pixels in found.items():
        assert pixels.std() > 0.05, name
        assert ((pixels > 0.97).all(-1)).mean() < 0.5 or name.startswith("error"), name
    measured = found[f"the {views} measured"]
    between = unseen(measured)
    assert 0.25 < between.mean() < 0.5  # as much measured as not
    bands = np.diff((~between[:, between.shape[1] // 2]).astype(int), prepend=0, append=0)
    assert (bands == 1).sum() == views  # none is lost


def test_more_views_than_a_picture_has_room_for_leave_no_gaps(scan):
    values = np.repeat(scan.values, 8, axis=0)
    seen = np.arange(0, len(values), 3)
    drawn = measured_rows(values, seen)
    assert np.isfinite(drawn).all()
    rows, of = {tuple(row) for row in drawn}, {tuple(row) for row in values[seen]}
    assert rows == of
    assert measured_rows(values, np.arange(len(values))) is values


def test_every_image_has_contrast(scan):
    seen = seen_views(96, 16, None)
    filled = {"FBP": classics.fbp(scan, seen), "AutoInt line": classics.linear(scan, seen)}
    found = dict(panels(evaluation.images_figure(scan, filled)))
    names = {name.partition(",")[0] for name in found} - {""}
    assert names == {"object", "FBP", "AutoInt line", "FBP of all views", "FBP of AutoInt line"}
    row = evaluation.errors(filled["FBP"], scan, seen)
    assert f"FBP, {row['image_psnr']:.1f} dB" in found
    for name, pixels in found.items():
        assert pixels.std() > 0.05, name


@pytest.mark.parametrize(("center", "inside"), [(4.0, slice(0, 9)), (6.0, slice(4, 9))])
def test_lines_that_a_view_from_the_other_side_has_measured_are_not_unseen(center, inside):
    """Over a whole turn, 0 and 360 degrees included: views 0 to 24, of which 4, 12, 20 and 24 are on measured lines."""
    turn = Scan(np.random.default_rng(0).random((25, 9)), np.arange(25) * np.pi / 12, center=center)
    seen, off = np.array([0, 8, 16]), np.zeros((25, 9))
    off[np.setdiff1d(np.arange(25), [*seen, 4, 12, 20, 24])] = 0.1
    outside = np.setdiff1d(np.arange(9), np.arange(9)[inside])
    off[np.ix_([4, 12, 20], outside)] = 0.1
    row = evaluation.errors(classics.Filled(turn.values + off, None), turn, seen)
    assert row["psnr"] == pytest.approx(20 * np.log10(turn.values.max() / 0.1))
    fan = replace(turn, fan=fans.Fan(40.0))
    assert np.unique(np.nonzero(~evaluation.unmeasured(fan, seen))[0]).tolist() == [0, 8, 16, 24]


def test_no_view_is_lost_in_the_picture_of_a_sinogram(scan):
    """Whether a view is bright or dark can be told in the picture, of each of 700."""
    values = np.where(np.arange(700)[:, None] % 2, 1.0, 0.2) * np.ones(8)
    tall = Scan(values, np.arange(700) * np.pi / 700, center=4.0)
    drawn = dict(panels(evaluation.sinogram_figure(tall, np.arange(0, 700, 2), {"linear": values})))
    for name in ("all views", "linear"):
        assert abs(np.diff((drawn[name][:, 20, 0] > 0.5).astype(int))).sum() >= 690, name
    dark = drawn["the 350 measured"][:, 20, 0]
    assert np.abs(dark - 0.2).max() < 0.02


@pytest.mark.parametrize("pixel_size", [None, 0.5])
def test_the_slice_is_written_as_numbers(scan, tmp_path, pixel_size):
    """Its sum over all pixels, times their size, is that of every view of the sinogram."""
    seen = seen_views(96, 16, None)
    obj = LatticeObject(scan.values[seen], scan.theta[seen], scan.rho, 1 / scan.radius)
    obj.values.copy_(torch.from_numpy(evaluation.true_image(scan)[obj.lattice.inside().numpy()] / float(obj.scale)))
    rows = evaluation.write([obj], replace(scan, pixel_size=pixel_size), seen, tmp_path, ())
    image = np.load(tmp_path / "slice.npy")
    assert image.dtype == np.float32
    assert np.array_equal(np.asarray(Image.open(tmp_path / "slice.tif")), image)
    assert image.sum() * (pixel_size or 1) == pytest.approx(scan.values.sum(1).mean(), rel=0.05)
    assert rows[0]["image_psnr"] > 100


def test_a_fit_that_explains_nothing_says_so(scan, caplog):
    measured = scan.values[::8]
    assert explained(measured, measured, "AutoInt object") == 1
    assert explained(measured + 0.01, measured, "AutoInt object") > 0.99
    assert not caplog.records
    assert explained(np.zeros_like(measured), measured, "AutoInt object") == 0
    assert (
        "AutoInt object explains 0.0 % of the measured views, no more than their mean does: what it fills in rests on"
        in caplog.text
    )
    caplog.clear()
    wrong = 2 * measured.mean(0) - measured  # of the same mean, and changing the other way
    assert 0.5 < explained(wrong, measured, "AutoInt line") < 0.97
    assert "AutoInt line explains" in caplog.text
    assert "no more than their mean does" in caplog.text
    cylinder = np.broadcast_to(measured.mean(0), measured.shape)
    caplog.clear()
    noise = np.random.default_rng(0).normal(0, 0.01, measured.shape)
    assert explained(cylinder + noise, cylinder + noise[::-1], "AutoInt object") > 0.99
    assert not caplog.records  # views that are alike have nothing but their mean


def test_a_run_says_how_much_it_explains(program, tmp_path, undrawn):
    """Here little, for its prior wants it to be flat."""
    import json

    angles, rho = np.arange(16) * 180 / 16, (np.arange(33) - 16) / 16
    values = np.sqrt(np.maximum(0.3 - (rho - 0.3 * np.cos(np.deg2rad(angles))[:, None]) ** 2, 0))
    np.savez(tmp_path / "s.npz", sinogram=values, theta=angles)
    common = ("task=ct", "phantom=sinogram", "phantom.path=s.npz", "data_dir=.", "views=3", "fields=[object]")
    common += ("trainer.max_steps=3", "passes=3", "spacing=2", "exponent=1", "+trainer.enable_progress_bar=false")
    status, out, err = program("train", *common, "strength=1e9", "hydra.run.dir=run")
    assert status == 0, err
    metrics = json.loads((tmp_path / "run" / "result.json").read_text())["metrics"]
    assert metrics["test/explained_object"] < 0.5
    assert "AutoInt object explains" in out + err
    assert "measured views explained" in out + err
