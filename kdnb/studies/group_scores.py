"""Measures whether students that learn together look at different places.

    python -m kdnb.studies.group_scores runs > data/records/group_scores.csv

The script scores every run of a group below a folder, on 1,000 test pictures of shapes-v1. Its table has a
row for each run, network and score:

- ``cosine`` is the cosine of two students' raw last maps, averaged over all pairs of students. This is our
  reading of FFSD's Tab. IV.
- ``attention cosine`` is the same for the attention maps.
- ``mass inside`` is the share of a network's last attention map that lies on the object.

The folders must still hold the states of the runs, as ``kdnb train`` leaves them.
"""

import sys
from itertools import combinations
from pathlib import Path

import pandas as pd
import torch

from kdnb import datasets
from kdnb.analysis import mass_inside
from kdnb.functional import attention_map, cosine_similarity
from kdnb.methods.families.online import OnlineDistillation
from kdnb.runs.checkpoints import load_state
from kdnb.runs.records import read
from kdnb.runs.running import assemble
from kdnb.runs.spec import Spec

PICTURES = 1000


def scores(method: OnlineDistillation, images: torch.Tensor, masks: torch.Tensor) -> list[tuple]:
    """Scores the students of a group, and its leader if it has one.

    Args:
        method: The trained group.

        images: Pictures, shape (B, 3, H, W).

        masks: Object masks, bool, shape (B, H, W).

    Returns:
        Triples (learner, score, value). Scores between students have the learner ``students``.
    """
    with torch.inference_mode():
        students = method.eval().features(images)
        maps = dict(zip(method.group, (student.final for student in students), strict=True))
        if method.leadership != "none":
            maps["leader"] = method.leader.features(images).final
    rows = [
        (name, "mass inside", mass_inside(attention_map(map), masks).mean()) for name, map in maps.items()
    ]
    for name, view in (("cosine", torch.clone), ("attention cosine", attention_map)):
        pairs = combinations([view(maps[student]) for student in method.group], 2)
        found = torch.stack([cosine_similarity(a, b).mean() for a, b in pairs])
        rows.append(("students", name, found.mean()))
    return rows


def main(folder: Path) -> None:
    """Writes the table of all runs below a folder to the standard output.

    Args:
        folder: The folder. Runs of other data or methods and runs without a state are skipped.
    """
    data = datasets.load("shapes-v1")
    images, _ = next(iter(data.batches("test", PICTURES)))
    rows = []
    for path in sorted(folder.rglob("run.json")):
        spec = Spec(**read(path.parent).spec)
        state = load_state(path.parent)
        if spec.data != "shapes-v1" or spec.method not in ("dml", "one", "ffsd") or state is None:
            continue
        method, _ = assemble(spec, data)
        method.load_state_dict(state["train"]["method"])
        for learner, score, value in scores(method, images, data.test.masks[:PICTURES]):
            rows.append((path.parent.name, learner, score, round(value.item(), 4)))
    pd.DataFrame(rows, columns=["run", "learner", "score", "value"]).to_csv(sys.stdout, index=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
