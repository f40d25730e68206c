"""Measures whether the attention maps of distilled students fall on the object.

    python -m kdnb.studies.map_scores runs > scores.csv
    python -m kdnb.studies.map_scores runs shapes-v1 > data/records/map_scores.csv

The script scores every run below a folder on test pictures of shapes. Its table has a row for each network,
seed, layer and score. A value is the mean over the pictures. The layers are the attention maps of each stage,
and Grad-CAM at the last stage for the class of the label. Runs on other data are skipped. What a map has on
the objects of other pictures tells how much of its score any map of that kind would have. Every map is
scored where its cells look, as ``effective_places`` measures it. (The records of shapes-v1 were made before
that, with maps stretched over the picture.)

The folder must hold only one run of each method, variant and seed, because nothing else distinguishes
them in the table.
"""

import sys
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from kdnb import datasets
from kdnb.analysis import (
    centre_maps,
    edge_maps,
    effective_places,
    grad_cam,
    map_scores,
    mass_on_others,
    placed,
    uniform_maps,
)
from kdnb.functional import attention_map
from kdnb.networks import build
from kdnb.runs.checkpoints import load_network
from kdnb.runs.records import read
from kdnb.runs.teachers import shapes_teacher

PICTURES = 1000
PLACES = 64  # pictures by which the places of cells are measured


def variant_of(spec: dict) -> str:
    """Names the options of a run that differ from the method's defaults.

    Args:
        spec: The settings of the run, as its record holds them.

    Returns:
        A text such as ``regression_weight=0.0``.
    """
    return " ".join(f"{name}={value}" for name, value in sorted(spec["options"].items()))


def layers_of(net: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Computes the maps of a network that are scored.

    Args:
        net: The network.

        images: Pictures, shape (B, 3, H, W).

        labels: True classes, shape (B,).

    Returns:
        Attention maps of each stage and Grad-CAM at the last stage, each of shape (B, H, W), by name.
    """
    with torch.inference_mode():
        maps = net.eval().features(images).maps
    places = effective_places(net, images[:PLACES])
    layers = {f"attention {stage}": attention_map(map) for stage, map in enumerate(maps, 1)}
    layers["Grad-CAM"] = grad_cam(net, images, labels, layer=f"stages.{len(maps) - 1}", stretched=False)
    return {
        name: placed(small, place, images)
        for (name, small), place in zip(layers.items(), [*places, places[-1]], strict=True)
    }


def main(folder: Path, shown: str = "shapes") -> None:
    """Writes the table of all runs below a folder to the standard output.

    The table also has rows for the shipped teacher, for networks with random weights, and for maps that are
    computed without a network.

    Args:
        folder: The folder.

        shown: ``"shapes"`` or ``"shapes-v1"``, what the runs learned from.
    """
    data = datasets.load(shown)
    images, labels = next(iter(data.batches("test", PICTURES)))
    masks = data.test.masks[:PICTURES]
    found = []

    def score(layers: dict[str, Tensor], method: str, variant: str = "", seed: int = 0) -> None:
        for layer, maps in layers.items():
            means = map_scores(maps, masks).mean()
            means["mass on other objects"] = mass_on_others(maps, masks).mean().item()
            found.extend((method, variant, seed, layer, name, round(mean, 4)) for name, mean in means.items())

    for path in sorted(folder.rglob("run.json")):
        spec = read(path.parent).spec
        if spec["data"] != shown:
            continue
        net = load_network(path.parent).net
        score(layers_of(net, images, labels), spec["method"], variant_of(spec), spec["seed"])
    score(layers_of(load_network(shapes_teacher(shown)).net, images, labels), "teacher")
    for seed in range(5):
        untrained = build("resnet8", classes=len(data.classes), seed=seed)
        score(layers_of(untrained, images, labels), "random weights", seed=seed)
    controls = {"uniform": uniform_maps(images), "centre": centre_maps(images), "edges": edge_maps(images)}
    for name, maps in controls.items():
        score({"picture": maps}, name)
    columns = ["method", "variant", "seed", "stage", "score", "value"]
    pd.DataFrame(found, columns=columns).to_csv(sys.stdout, index=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
