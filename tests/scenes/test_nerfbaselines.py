"""AutoInt through nerfbaselines' interface: with a small fake of it, and the package itself where it is installed."""

import dataclasses

import numpy as np
import pytest

from autoint.scenes import nerfbaselines as ours
from autoint.scenes import nerfbaselines_spec
from autoint.scenes.data.procedural import orbit
from tests.scenes import captures

TINY = {
    "network.hidden_features": 8,
    "network.num_layers": 2,
    "encoding": "normalized_positional",
    "encoding.num_frequencies": 2,
    "sections": 4,
    "batch_size": 64,
    "trainer.max_steps": 4,
    "trainer.accelerator": "cpu",
}


@dataclasses.dataclass(frozen=True)
class Cameras:
    """As nerfbaselines documents its cameras: OpenCV's axes, and one camera without the first axis."""

    poses: np.ndarray
    intrinsics: np.ndarray
    camera_models: np.ndarray
    distortion_parameters: np.ndarray
    image_sizes: np.ndarray
    nears_fars: np.ndarray | None

    def __getitem__(self, index):
        values = (getattr(self, f.name) for f in dataclasses.fields(self))
        return Cameras(*(value if value is None else value[index] for value in values))

    def item(self):
        return self if self.poses.ndim == 2 else self[0]


def dataset_of(count, cameras=Cameras, alpha=True):
    camera = captures.Camera(26.0, 25.0, 9.5, 7.0, 18, 14, (0.08, 0.01, 0.0, 0.002, -0.001))
    poses, looks = orbit(count, 0.3), camera.looks()
    images = [np.round(captures.picture(camera, pose, looks, alpha) * 255).astype(np.uint8) for pose in poses]
    k1, k2, k3, p1, p2 = camera.lens
    every = cameras(
        poses=(poses.numpy() * [1, -1, -1, 1])[:, :3].astype(np.float32),
        intrinsics=np.tile(np.float32([26, 25, 9.5, 7]), (count, 1)),
        camera_models=np.full(count, 1),
        distortion_parameters=np.tile(np.float32([k1, k2, p1, p2, k3, 0]), (count, 1)),
        image_sizes=np.tile([18, 14], (count, 1)),
        nears_fars=np.tile(np.float32([2.0, 6.5]), (count, 1)),
    )
    about = {"background_color": np.array([255, 255, 255]), "color_space": "srgb"}
    return {"cameras": every, "images": images, "metadata": about}, camera, poses


def check(method_class, dataset, camera, poses, folder):
    """Train, render, save and load; the rays are those of the cameras that took the images."""
    method = method_class(train_dataset=dataset, config_overrides=TINY)
    info = method.get_info()
    assert (info["num_iterations"], info["loaded_step"], info["hparams"]["sections"]) == (4, None, 4)
    cameras = dataset["cameras"]
    before = method.render(cameras[0])["color"]
    losses = [method.train_iteration(step)["loss"] for step in range(4)]
    assert all(np.isfinite(losses))
    out = method.render(cameras[0])
    assert out["color"].shape == (14, 18, 3)
    assert out["depth"].shape == out["accumulation"].shape == (14, 18)
    assert not np.array_equal(out["color"], before)
    rays, truth = method._camera(cameras[2].item()).rays(), camera.rays(poses[2])
    assert (rays.directions - truth.directions).abs().max() < 2e-6
    assert (rays.origins - truth.origins).abs().max() < 2e-6
    method.save(str(folder))
    again = method_class(checkpoint=str(folder))
    assert again.get_info()["loaded_step"] == 4
    assert np.array_equal(again.render(cameras[0])["color"], out["color"])
    assert "autoint-nerfbaselines-" not in (folder / "autoint" / "config.json").read_text()  # no paths
    few = again.render(cameras[0], options={"outputs": ("color",), "output_type_dtypes": {"color": "uint8"}})
    assert few.keys() == {"color"}
    assert few["color"].dtype == np.uint8


def test_trained_rendered_and_kept_through_the_interface(tmp_path):
    check(ours.Method, *dataset_of(6), tmp_path)


def test_what_is_not_supported_is_refused_in_a_line():
    dataset, *_ = dataset_of(3)
    with pytest.raises(ValueError, match="only srgb is supported"):
        ours.Method(train_dataset={**dataset, "metadata": {"color_space": "linear"}})
    sizes = np.array([[18, 14], [18, 14], [9, 7]])
    with pytest.raises(ValueError, match="a scene has images of one size"):
        ours.Method(train_dataset={**dataset, "cameras": dataclasses.replace(dataset["cameras"], image_sizes=sizes)})
    fish = dataclasses.replace(dataset["cameras"], camera_models=np.full(3, 2))
    with pytest.raises(ValueError, match="camera model 2 of nerfbaselines is not supported; use pinhole or opencv"):
        ours.Method(train_dataset={**dataset, "cameras": fish})
    with pytest.raises(ValueError, match="give a checkpoint, to render it, or a dataset"):
        ours.Method()
    with pytest.raises(ValueError, match="sectoins"):
        ours.Method(train_dataset=dataset, config_overrides={"sectoins": 4})


def test_the_package_itself_takes_it(tmp_path):
    package = pytest.importorskip("nerfbaselines", reason="nerfbaselines is not installed (it wants numpy below 2)")
    if "autoint" not in package.get_supported_methods():
        package.register(nerfbaselines_spec.SPEC)
    dataset, camera, poses = dataset_of(6, package.new_cameras)
    with package.build_method_class(package.get_method_spec("autoint"), backend="python") as method_class:
        assert issubclass(method_class, package.Method)
        check(method_class, dataset, camera, poses, tmp_path)
