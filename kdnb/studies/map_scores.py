"""Do the attention maps of distilled students fall on the object? Scores every run below a folder.

    python -m kdnb.studies.map_scores runs > data/records/map_scores.csv

One row a network, seed, layer and score: means over the test pictures of shapes, of attention maps at
each stage and of Grad-CAM at the last, for the class on the label. Runs on other data are
passed over. Give a folder with one run a method, variant and seed: nothing else tells them apart.
"""

import sys
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from kdnb import datasets
from kdnb.analysis import centre_maps, edge_maps, grad_cam, map_scores, uniform_maps
from kdnb.functional import attention_map
from kdnb.networks import build
from kdnb.runs.checkpoints import load_network
from kdnb.runs.records import read
from kdnb.runs.teachers import shapes_teacher

PICTURES = 1000


def variant_of(spec: dict) -> str:
    """What sets a run apart from the method's defaults, such as ``regression_weight=0.0``."""
    return " ".join(f"{name}={value}" for name, value in sorted(spec["options"].items()))


def layers_of(net: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    with torch.inference_mode():
        maps = net.eval().features(images).maps
    layers = {f"attention {stage}": attention_map(map) for stage, map in enumerate(maps, 1)}
    return layers | {"Grad-CAM": grad_cam(net, images, labels, layer=f"stages.{len(maps) - 1}")}


def main(folder: Path) -> None:
    data = datasets.load("shapes")
    images, labels = next(iter(data.batches("test", PICTURES)))
    masks = data.test.masks[:PICTURES]
    found = []

    def score(layers: dict[str, Tensor], method: str, variant: str = "", seed: int = 0) -> None:
        for layer, maps in layers.items():
            means = map_scores(maps, masks).mean()
            found.extend((method, variant, seed, layer, name, round(mean, 4)) for name, mean in means.items())

    for path in sorted(folder.rglob("run.json")):
        spec = read(path.parent).spec
        if spec["data"] != "shapes":
            continue
        net = load_network(path.parent).net
        score(layers_of(net, images, labels), spec["method"], variant_of(spec), spec["seed"])
    score(layers_of(load_network(shapes_teacher()).net, images, labels), "teacher")
    for seed in range(5):
        untrained = build("resnet8", classes=len(data.classes), seed=seed)
        score(layers_of(untrained, images, labels), "random weights", seed=seed)
    controls = {"uniform": uniform_maps(images), "centre": centre_maps(images), "edges": edge_maps(images)}
    for name, maps in controls.items():
        score({"picture": maps}, name)
    columns = ["method", "variant", "seed", "stage", "score", "value"]
    pd.DataFrame(found, columns=columns).to_csv(sys.stdout, index=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
