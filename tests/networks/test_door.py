"""Networks of any number type, images of any size: right, or one error that says what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

import oodbench
from oodbench import Hardware, Head
from oodbench.data.samples import Samples, image_folder
from oodbench.data.transforms import Preprocess
from oodbench.errors import OODBenchError
from oodbench.extract import extract
from oodbench.looking import fit_with_network, score_with_network
from oodbench.networks.door import fed, number_type
from tests.conftest import write_images

CPU = Hardware(accelerator="cpu", devices="1", workers=0)
RGB = Preprocess(32, (0.5,) * 3, (0.25,) * 3)
GREY = Preprocess(32, (0.5,), (0.25,), mode="L")
TYPES = [torch.bfloat16, torch.float16, torch.float64]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, 2)
        self.fc = nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.fc(self.conv(x).relu().mean((2, 3)))
        return found


class Says(nn.Module):
    """A network whose outputs are changed on their way out."""

    def __init__(self, change: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.net, self.change = Net(), change

    def outputs(self, images: Tensor) -> Any:
        features = self.net.conv(images).relu().mean((2, 3))
        return {"features": features, "logits": self.change(self.net.fc(features))}

    def head(self) -> Head | None:
        return None


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    root = tmp_path_factory.mktemp("photos")
    return image_folder("photos", write_images(root, {"a": 6, "b": 6}))


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Any]:
    """Arguments of an evaluation."""
    for split in ("train", "test"):
        write_images(tmp_path / "id" / split, {"a": 6, "b": 6}, seed=len(split))
    write_images(tmp_path / "ood", {"c": 6}, seed=9)
    return {
        "id": f"folder:{tmp_path / 'id'}",
        "ood": [f"folder:{tmp_path / 'ood'}"],
        "hardware": CPU,
    }


@pytest.fixture
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def batch(samples: Samples, preprocess: Preprocess = RGB) -> Tensor:
    return torch.stack([preprocess(samples[i]) for i in range(len(samples))])


@pytest.mark.parametrize("dtype", TYPES)
def test_outputs_are_those_of_the_network_in_its_type(dtype: torch.dtype, photos: Samples) -> None:
    network = Net().to(dtype).eval()
    found = extract(network, photos, RGB, hardware=CPU)
    with torch.inference_mode():
        wanted = network(batch(photos).to(dtype))
    kept = torch.float64 if dtype is torch.float64 else torch.float32
    assert found.logits.dtype == found.features.dtype == kept
    assert torch.equal(found.logits, wanted.to(kept))
    assert found.head is not None
    assert found.head.weight.dtype == kept
    assert network.fc.weight.dtype == dtype
    again = extract(network, photos, RGB, hardware=CPU)
    assert torch.equal(again.features, found.features)


@pytest.mark.parametrize("dtype", TYPES)
def test_detectors_of_all_kinds_on_any_type(dtype: torch.dtype, folders: dict[str, Any]) -> None:
    detectors = ["msp", "energy", "vim", "react", "odin", "gram", "rankfeat", "mcdropout"]
    torch.manual_seed(0)
    network = Net()
    wanted = oodbench.evaluate(network, detectors=detectors, preprocess="benchmark", **folders)
    found = oodbench.evaluate(
        network.to(dtype), detectors=detectors, preprocess="benchmark", **folders
    )
    assert not found.failures
    for one, other in zip(wanted, found, strict=True):
        # some pairs of scores change places when weights are rounded
        assert one["auroc"] == pytest.approx(other["auroc"], abs=0.15)


def test_a_default_of_double_precision_changes_nothing(
    folders: dict[str, Any], new_cache: Any, request: pytest.FixtureRequest
) -> None:
    torch.manual_seed(0)
    network = Net()
    options = {"epochs": 1, "batch_size": 4}
    names = ["msp", "kpca", "relation", "knn", "odin", "gram"]
    names.remove("knn")  # more neighbours than there are images

    def rows() -> list[Any]:
        given = oodbench.evaluate(network, detectors=names, preprocess="benchmark", **folders)
        trained = oodbench.evaluate(
            detectors=["msp"], method="ce", recipe="quick", recipe_options=options, **folders
        )
        assert not given.failures
        return [(r["detector"], r["weights"], r["auroc"]) for r in (*given, *trained)]

    wanted = rows()
    new_cache()
    request.getfixturevalue("double")
    assert rows() == wanted
    assert torch.get_default_dtype() is torch.float64


@pytest.mark.usefixtures("double")
def test_a_network_made_in_double_precision(photos: Samples) -> None:
    network = Net().eval()
    found = extract(network, photos, RGB, hardware=CPU)
    assert found.logits.dtype == torch.float64
    with torch.inference_mode():
        assert torch.equal(found.logits, network(batch(photos).double()))


def test_mixed_types() -> None:
    body = nn.Sequential(nn.Conv2d(3, 4, 3).bfloat16(), nn.Flatten(), nn.Linear(4, 2))
    assert number_type(body) is torch.bfloat16
    assert number_type(nn.Flatten()) is None
    images = {"a": torch.zeros(1, 3), "b": torch.zeros(1, dtype=torch.uint8)}
    assert {k: v.dtype for k, v in fed(body, images).items()} == {
        "a": torch.bfloat16,
        "b": torch.uint8,
    }
    assert fed(nn.Flatten(), images)["a"].dtype == torch.float32


def test_a_network_of_two_types_runs_or_says_which(photos: Samples) -> None:
    class Casts(Net):
        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.fc(self.conv(x).relu().mean((2, 3)).float())
            return found

    right, wrong = Casts(), Net()
    right.conv.bfloat16()
    wrong.conv.bfloat16()
    assert extract(right, photos, RGB, hardware=CPU).logits.dtype == torch.float32
    with pytest.raises(OODBenchError, match=r"types, bfloat16, float32: cast"):
        extract(wrong, photos, RGB, hardware=CPU)


@pytest.mark.parametrize(
    ("change", "dtype"),
    [
        (lambda z: (100 * z).round().to(torch.int32), torch.float64),
        (lambda z: (10 * z).round().clamp(-128, 127).to(torch.int8), torch.float64),
        (lambda z: z > 0, torch.float64),
        (lambda z: z.double(), torch.float64),
        (lambda z: z.half(), torch.float32),
    ],
)
def test_whole_numbers_are_kept_exactly(
    change: Any, dtype: torch.dtype, photos: Samples, folders: dict[str, Any]
) -> None:
    network = Says(change).eval()
    found = extract(network, photos, RGB, hardware=CPU)
    assert found.logits.dtype == dtype
    with torch.inference_mode():
        assert torch.equal(found.logits, network.outputs(batch(photos))["logits"].to(dtype))
    results = oodbench.evaluate(
        network, detectors=["msp", "energy", "odin"], preprocess="benchmark", **folders
    )
    assert not set(results.failures) - {"odin"}  # whole numbers have no gradients


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda z: z.to(torch.complex64), "complex logits.*magnitude"),
        (lambda z: z[:1], "logits with one row per sample, 12, not"),
        (lambda z: z.sum(), "logits with one row per sample"),
        (lambda z: z.tolist(), "logits with one row per sample, 12, not list"),
    ],
)
def test_outputs_that_cannot_be_kept(change: Any, told: str, photos: Samples) -> None:
    with pytest.raises(OODBenchError, match=f"the Says .*{told}"):
        extract(Says(change), photos, RGB, hardware=CPU)


def test_a_tuple_for_named_tensors(photos: Samples) -> None:
    network = Says(lambda z: z)
    network.outputs = lambda images: (images, images)  # type: ignore[method-assign]
    with pytest.raises(OODBenchError, match=r"the Says must give named tensors.*gives tuple"):
        extract(network, photos, RGB, hardware=CPU)


def test_layers_without_weights(photos: Samples) -> None:
    lazy = nn.Sequential(nn.Flatten(), nn.LazyLinear(2))
    with pytest.raises(OODBenchError, match=r"without weights so far \(1\).*Pass one"):
        extract(lazy, photos, RGB, hardware=CPU)
    lazy(batch(photos))
    assert extract(lazy, photos, RGB, hardware=CPU).logits.shape == (12, 2)


def lenet() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 6, 5), nn.Flatten(), nn.Linear(6 * 28 * 28, 2))


WRONG: dict[str, tuple[Callable[[], nn.Module], Preprocess, str]] = {
    "vit at 32": (
        lambda: timm.create_model("vit_tiny_patch16_224", num_classes=2),
        RGB,
        r"VisionTransformer cannot take images of 3 x 32 x 32 \(float32\).*224.*preprocess=",
    ),
    "rgb on grey": (
        lambda: torchvision.models.resnet18(num_classes=2),
        GREY,
        r"ResNet cannot take images of 1 x 32 x 32.*wants 3 channel\(s\).*have 1.*mode='RGB'",
    ),
    "grey on rgb": (
        lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(1800, 2)),
        RGB,
        r"Sequential cannot take images of 3 x 32 x 32.*wants 1 channel\(s\).*mode='L'",
    ),
    "too small": (
        lambda: torchvision.models.alexnet(num_classes=2),
        RGB,
        r"AlexNet cannot take images of 3 x 32 x 32.*preprocess=",
    ),
    "another side": (
        lenet,
        Preprocess(28, (0.5,) * 3, (0.25,) * 3),
        r"Sequential cannot take images of 3 x 28 x 28.*preprocess=",
    ),
    "tokens": (
        lambda: nn.Sequential(nn.Embedding(5, 2), nn.Flatten(), nn.Linear(2, 2)),
        RGB,
        r"Sequential cannot take images of 3 x 32 x 32",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_images_that_a_network_cannot_take(kind: str, folders: dict[str, Any]) -> None:
    make, preprocess, told = WRONG[kind]
    with pytest.raises(OODBenchError, match=told) as caught:
        oodbench.evaluate(make(), detectors=["msp"], preprocess=preprocess, **folders)
    assert caught.value.__cause__ is not None  # what the network raised, for its author
    assert len(str(caught.value)) < 500


def test_detectors_with_the_network_at_hand_say_it_too(photos: Samples) -> None:
    odin, gram = oodbench.create_detector("odin"), oodbench.create_detector("gram")
    network = torchvision.models.resnet18(num_classes=2)
    with pytest.raises(OODBenchError, match="wants 3 channel"):
        score_with_network(odin, network, photos, GREY, hardware=CPU)
    with pytest.raises(OODBenchError, match="wants 3 channel"):
        fit_with_network(gram, network, photos, GREY, hardware=CPU)


@pytest.mark.parametrize(
    ("backbone", "told"),
    [
        ("vit_tiny_patch16_224", r"VisionTransformer cannot take images of 3 x 32 x 32.*224"),
        ("swin_tiny_patch4_window7_224", r"SwinTransformer cannot take images of 3 x 32 x 32"),
    ],
)
def test_training_at_a_size_that_cannot_be(
    backbone: str, told: str, folders: dict[str, Any]
) -> None:
    with pytest.raises(OODBenchError, match=told):
        oodbench.evaluate(
            detectors=["msp"],
            backbone=backbone,
            recipe_options={"epochs": 1, "batch_size": 4},
            **folders,
        )


def test_little_memory_is_said_so(photos: Samples) -> None:
    class Hungry(Net):
        def forward(self, x: Tensor) -> Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.")

    with pytest.raises(OODBenchError, match=r"not enough memory for the Hungry.*batch_size=16"):
        extract(Hungry(), photos, RGB, hardware=CPU)


def test_a_networks_own_error_is_passed_on(photos: Samples) -> None:
    class Refuses(Net):
        def forward(self, x: Tensor) -> Tensor:
            raise OODBenchError("on Mondays I rest.")

    with pytest.raises(OODBenchError, match=r"^on Mondays I rest\.$"):
        extract(Refuses(), photos, RGB, hardware=CPU)


def test_preprocessing_is_single_precision_whatever_the_default(double: None) -> None:
    image = np.zeros((40, 40, 3), dtype=np.uint8)
    from PIL import Image

    assert RGB(Image.fromarray(image)).dtype == torch.float32
