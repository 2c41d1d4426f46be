"""What AbeT's learned temperature says of pixels: of background, of ID objects, of OOD objects.

Trains what is not trained yet, as ``oodbench eval`` does with the same words.

    python benchmarks/temperature.py --id scenes --recipe quick --seeds 0,1,2
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping

import numpy as np

from oodbench import Hardware, get_benchmark, metrics
from oodbench.data.samples import OOD, VOID, Samples
from oodbench.tasks.pixels import segment
from oodbench.training.run import plan
from oodbench.training.train import train


def temperatures(
    network: object, samples: Samples, preprocess: object, background: list[int], hardware: Hardware
) -> Mapping[str, np.ndarray]:
    """T of all pixels of some samples: ``background``, ``ID objects`` and ``OOD objects``."""
    parts: dict[str, list[np.ndarray]] = {"background": [], "ID objects": [], "OOD objects": []}
    for image in segment(network, samples, preprocess, hardware):  # type: ignore[arg-type]
        values = image.outputs.extra["temperature"].cpu().numpy().reshape(image.mask.shape)
        behind, ood = np.isin(image.mask, background), image.mask == OOD
        parts["background"].append(values[behind])
        parts["OOD objects"].append(values[ood])
        parts["ID objects"].append(values[~behind & ~ood & (image.mask != VOID)])
    return {name: np.concatenate(values) for name, values in parts.items()}


def main() -> None:
    """Print a line a seed and OOD set, and the medians over seeds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--id", default="scenes")
    parser.add_argument("--recipe", default="quick")
    parser.add_argument("--seeds", default="0")
    arguments = parser.parse_args()
    benchmark, hardware = (
        get_benchmark(arguments.id, task="segmentation"),
        Hardware(accelerator="cpu"),
    )
    medians: dict[tuple[str, str], list[float]] = {}
    for seed in map(int, arguments.seeds.split(",")):
        run = plan(benchmark, "abet", recipe=arguments.recipe, seed=seed)
        network = train(run, hardware).eval()
        classes = list(benchmark.id.load("test").classes)
        background = [classes.index(name) for name in benchmark.background]
        for chosen in benchmark.ood:
            samples = chosen.spec.load("test")
            by_part = temperatures(network, samples, benchmark.preprocess, background, hardware)
            line = [f"seed {seed}, {chosen.spec.name}:"]
            for name, values in by_part.items():
                low, middle, high = np.percentile(values, [10, 50, 90])
                medians.setdefault((chosen.spec.name, name), []).append(float(middle))
                line.append(f"{name} {middle:.3f} ({low:.3f} to {high:.3f}),")
            for name in ("background", "ID objects"):
                figure = 100 * metrics.auroc(by_part[name], by_part["OOD objects"])
                line.append(f"AUROC of T against {name} {figure:.1f}")
            print(" ".join(line))
    for (ood, name), values in medians.items():
        print(f"{ood}, {name}: {', '.join(f'{value:.3f}' for value in values)}")


if __name__ == "__main__":
    main()
