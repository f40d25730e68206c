"""A study of seconds, and records for it that nobody trained."""

import json
from dataclasses import asdict
from pathlib import Path

from kdnb.runs import Record, Spec
from kdnb.studies import Progress, Study, study_of

ARMS = {
    "labels only": {"method": "labels-only"},
    "kd": {"method": "kd", "teacher_arm": "alone"},
    "alone": {"method": "labels-only", "student": "resnet14"},
}
SEARCH = {"seeds": [0], "values": {"lr": [0.01, 0.05, 0.1]}}


def small_study(data: str = "shapes", *, seeds: tuple[int, ...] = (10, 11, 12), **changes: object) -> Study:
    """Labels only, and KD from a network that was trained alone."""
    content = {"title": "Small", "baseline": "labels only", "seeds": list(seeds), "arms": ARMS}
    content |= {"search": SEARCH, "all": {"data": data, "size": 8, "pad": 1, "epochs": 2, "batch_size": 8}}
    return study_of(content | changes)


def pretend(out: Path, spec: Spec, *, validation: float = 50.0, last: float = 50.0, **about: object) -> None:
    """Writes the record and the history of a run of ``spec`` that never was.

    Args:
        out: The folder of the runs.

        spec: The run.

        validation: Accuracy after the last epoch, in percent.

        last: Test accuracy after the last epoch, in percent.

        about: Other fields of the record.
    """
    folder = out / spec.name
    folder.mkdir(parents=True, exist_ok=True)
    metrics = {
        "student": {"last": last, "selected": last - 1, "selected_epoch": 1, "best": last, "best_epoch": 2}
    }
    versions = {"kdnb": "2", "torch": "2.15.0"}
    fields = {
        "spec": spec.settings,
        "metrics": metrics,
        "versions": versions,
        "device": "cpu",
        "code": "abc",
    }
    fields |= {"data": "x", "teacher": None, "student": "y", "seconds": 36.0, "options": spec.all_options}
    (folder / "run.json").write_text(json.dumps(asdict(Record(**(fields | about)))))
    (folder / "history.csv").write_text(
        f"epoch,validation/student,test/student\n1,,\n2,{validation},{last}\n"
    )


def finish(progress: Progress, scores: dict[str, float], *, kd_lr: float = 0.05) -> None:
    """Pretends all runs of a ``small_study``.

    Args:
        progress: Of the study.

        scores: Test accuracy of each arm, to which a tenth of the seed is added. In the search the rate 0.05
            is the best of every arm but kd.

        kd_lr: The best rate of kd.
    """
    study = progress.study
    while ready := progress.ready():
        for spec in ready.values():
            arm = "kd" if spec.method == "kd" else "alone" if spec.student == "resnet14" else "labels only"
            best = spec.lr == (kd_lr if arm == "kd" else 0.05)
            last = scores[arm] + spec.seed / 10
            pretend(progress.out, spec, validation=60.0 if best else 40.0, last=last)
    assert all(spec is not None for arm in study.arms.values() for _, spec in progress.reported(arm))
