"""Do students that learn together look at different places? Scores every group's run below a folder.

    python -m kdnb.studies.group_scores runs > data/records/group_scores.csv

One row a run, network and score, on 1,000 test pictures of shapes: ``cosine`` is the mean over pairs of
students of raw last maps' cosine (the reading of FFSD's Tab. IV), ``attention cosine`` that of their
attention maps, ``mass inside`` the share of a network's last attention map that lies on the object. The
folders must still hold the runs' states, as ``kdnb train`` leaves them.
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
    """(learner, score, value) of every student, of the leader, and of the students among themselves."""
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
    data = datasets.load("shapes")
    images, _ = next(iter(data.batches("test", PICTURES)))
    rows = []
    for path in sorted(folder.rglob("run.json")):
        spec = Spec(**read(path.parent).spec)
        state = load_state(path.parent)
        if spec.data != "shapes" or spec.method not in ("dml", "one", "ffsd") or state is None:
            continue
        method, _ = assemble(spec, data)
        method.load_state_dict(state["train"]["method"])
        for learner, score, value in scores(method, images, data.test.masks[:PICTURES]):
            rows.append((path.parent.name, learner, score, round(value.item(), 4)))
    pd.DataFrame(rows, columns=["run", "learner", "score", "value"]).to_csv(sys.stdout, index=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
