"""A Spec gives a Record: train, or find what was trained; keep, and resume."""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from time import perf_counter

import pandas as pd
import torch

from kdnb import datasets
from kdnb.datasets import Augmentation, Batches, Dataset
from kdnb.errors import InputError
from kdnb.files import write_whole
from kdnb.method import Method, Parts
from kdnb.networks import Network, build
from kdnb.runs.checkpoints import load_state, save_network, save_state
from kdnb.runs.records import (
    Record,
    code_version,
    metrics_of,
    read,
    require_defaults_of_today,
    versions,
)
from kdnb.runs.spec import Spec
from kdnb.runs.teachers import SHIPPED, SHIPPED_SIZE, fit_teacher, shapes_teacher
from kdnb.seeds import derived_seed
from kdnb.train import SCHEDULES, evaluate, train


def run(
    spec: Spec,
    *,
    out: Path,
    resume: bool = False,
    again: bool = False,
    data_root: Path | None = None,
    data: Dataset | None = None,
    memory: int | None = None,
    evaluate_every: int = 1,
    report: Callable[[dict[str, float]], None] = lambda row: None,
) -> Record:
    """Trains what ``spec`` says, or returns the record of the run that is there.

    After every epoch the state is saved. An interrupted run goes on with ``resume``, to the same bits as
    without the interruption. Under torchrun every process trains; the leading one writes and reports.

    Args:
        spec: The run. Its folder is ``out / spec.name``.

        out: The folder of the runs.

        resume: Whether an interrupted run goes on.

        again: Whether a finished or interrupted run is replaced by a new one.

        data_root: Where data are downloaded, archives unpacked, and decoded pictures kept; the course's
            ``data`` folder if None.

        memory: Bytes that the decoded pictures of a folder may fill, as for ``datasets.load``. It changes
            no weight.

        data: The data set that ``spec`` names, if it is loaded already; None loads it.

        evaluate_every: Epochs from one evaluation to the next; the last epoch always has one. It changes
            no weight, but the selected and the best epoch are among those evaluated.

        report: Gets every epoch's row of the history.

    Returns:
        The record, also found in ``run.json``.

    Raises:
        InputError: For bad input; for an interrupted run without ``resume``, or whose data or teacher are
            others by now; for a run under a default that has changed since; and, before training, when
            the folder cannot be written.
    """
    if evaluate_every < 1:
        raise InputError(f"evaluate_every must be at least 1 epoch, found {evaluate_every}.")
    folder = Path(out) / spec.name
    if (folder / "run.json").exists() and not again:
        record = read(folder)
        require_defaults_of_today(record.options, spec, folder)
        return record
    state = None if again else _interrupted(spec, folder, resume)
    data = data or load_data(spec, data_root, memory)
    shown = training_data(spec, data)
    method, teacher = assemble(spec, shown, beside=Path(out))
    share = getattr(method, "batch_size", None)  # where images of a batch are compared
    origin = {"data": data.fingerprint(), "teacher": teacher, "share of a batch": share}
    fresh = {"train": None, "history": [], "seconds": 0.0, **origin}
    begun = fresh if state is None else _same_origin(state, origin, folder)
    augmentation = Augmentation(spec.flip, spec.pad, spec.padding)
    batches = shown.train_batches(spec.batch_size, seed=spec.seed, augmentation=augmentation)
    if leads():
        _claim(folder, again)
    state = begun
    for row, state in _epochs(spec, method, data, batches, begun, evaluate_every):
        if leads():
            save_state(state, folder)
            report(row)
    return _finish(spec, folder, method, data, state, evaluate_every)


def training_data(spec: Spec, data: Dataset) -> Dataset:
    """``data`` with the training part that the run sees: as few pictures and as wrong labels as it says.

    Args:
        spec: The run.

        data: The whole data set.
    """
    shown = data.few(spec.labels, seed=spec.seed) if spec.labels else data
    return shown.mislabelled(spec.label_noise, seed=spec.seed) if spec.label_noise else shown


def load_data(spec: Spec, data_root: Path | None = None, memory: int | None = None) -> Dataset:
    """The data set that a run names.

    Args:
        spec: The run.

        data_root: Where data are downloaded and archives unpacked; the course's ``data`` folder if None.

        memory: Bytes that decoded pictures may fill, as for ``datasets.load``.
    """
    about = {"size": spec.size, "seed": spec.data_seed, "validation": spec.validation}
    return datasets.load(spec.data, **about, root=data_root, memory=memory)


def _interrupted(spec: Spec, folder: Path, resume: bool) -> dict | None:
    """The state to go on from, or None where there is none."""
    state = load_state(folder)
    if state is None:
        return None
    if not resume:
        raise InputError(
            f"{folder} holds an interrupted run ({len(state['history'])} of {spec.epochs} epochs). "
            "Add --resume to go on, or --force to start over."
        )
    require_defaults_of_today(state.get("options"), spec, folder)
    return state


def _epochs(
    spec: Spec, method: Method, data: Dataset, batches: Batches, state: dict, evaluate_every: int
) -> Iterator[tuple[dict[str, float], dict]]:
    """Every further epoch: its row of the history, and the state after it."""
    evaluated = {part: data.batches(part) for part in ("validation", "test")}
    start = perf_counter() - state["seconds"]
    for epoch in train(
        method,
        batches,
        epochs=spec.epochs,
        lr=spec.lr,
        schedule=SCHEDULES[spec.settings["schedule"]],
        precision=spec.precision,
        seed=spec.seed,
        resume=state["train"],
    ):
        row = {"epoch": epoch.number, "lr": epoch.lr, "seconds": epoch.seconds} | epoch.losses
        due = epoch.number % evaluate_every == 0 or epoch.number == spec.epochs
        for part, shown in evaluated.items() if due else ():
            accuracies = evaluate(method, shown, precision=spec.precision)
            row |= {f"{part}/{name}": accuracy for name, accuracy in accuracies.items()}
        history, seconds = [*state["history"], row], perf_counter() - start
        new = {"train": epoch.state(), "history": history, "seconds": seconds}
        state = state | new | {"options": spec.all_options}
        yield row, state


def leads() -> bool:
    """Whether this process writes and speaks for all that torchrun started; a lone one does."""
    return int(os.environ.get("RANK", 0)) == 0


def assemble(
    spec: Spec, data: Dataset, *, beside: Path = Path(), teacher: Network | None = None
) -> tuple[Method, str | None]:
    """The method that ``spec`` describes, with fresh networks.

    The student's first weights depend on the seed alone, so that runs of different methods with one seed
    are paired. Where several networks learn, these are the weights of the one that is exported.

    Args:
        spec: The run.

        data: What it trains on, with the ``training_data`` of the run.

        beside: The folder of the runs. A teacher that is named like one of them is that run's network.

        teacher: A network that teaches in place of the one that ``spec`` names, to see what the method
            would be.

    Returns:
        The method, and the checksum of the teacher's file, None for a method without a teacher or with the
        one that was given.

    Raises:
        InputError: For a teacher that is missing or knows other classes.
    """
    checksums = []

    def network(number: int) -> Network:
        seed = derived_seed(spec.seed, "network", number) if number else spec.seed
        return build(spec.student, classes=len(data.classes), seed=seed)

    def load_teacher() -> Network:
        if teacher is not None:
            return teacher
        path = _teacher_file(spec, beside)
        saved = fit_teacher(path, data)
        checksums.append(_checksum(path))
        return saved.net

    share = -(-spec.batch_size // int(os.environ.get("WORLD_SIZE", 1)))
    held_out = data.batches("validation")
    parts = Parts(network, load_teacher, share, data.train.labels, data.train.numbers, held_out)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(spec.seed, "auxiliary"))
        method = spec.kind.assemble(parts, **spec.options)
    for name in ("weight_decay", "momentum", "nesterov"):
        setattr(method, name, spec.settings[name])
    return method, checksums[0] if checksums else None


def _teacher_file(spec: Spec, beside: Path) -> Path:
    if spec.teacher is not None:
        run = beside / spec.teacher
        path = run if run.is_dir() else Path(spec.teacher).expanduser()
        return path / "student.safetensors" if path.is_dir() else path
    if spec.data not in SHIPPED or spec.size != SHIPPED_SIZE:
        raise InputError(
            f"{spec.method} needs a teacher for {spec.data} at {spec.size} pixels: train one with 'kdnb "
            "train labels-only --student resnet20 --data ... --size ...' and give its folder with --teacher."
        )
    return shapes_teacher(spec.data)


def _same_origin(state: dict, origin: dict[str, str | None], folder: Path) -> dict:
    for name, found in origin.items():
        if state.get(name) != found:
            raise InputError(
                f"The {name} of the interrupted run in {folder} changed since it began. Bring back "
                "what it began with, or start over with --force."
            )
    return state


def _claim(folder: Path, again: bool) -> None:
    """Fails before training rather than after it; with ``again``, forgets the earlier run."""
    write_whole(folder / "claim", "")
    for name in ("claim", "state.json", "run.json") if again else ("claim",):
        (folder / name).unlink(missing_ok=True)


def _finish(
    spec: Spec, folder: Path, method: Method, data: Dataset, state: dict, evaluate_every: int
) -> Record:
    """``run.json`` is written last: where it is, the run is whole."""
    history, device = pd.DataFrame(state["history"]), next(method.parameters()).device
    student = ""
    if leads():
        student = save_network(method.export(), spec.student, data, folder / "student.safetensors")
        for name, net in method.kept_beside().items():
            save_network(net, spec.student, data, folder / f"{name}.safetensors")
        write_whole(folder / "history.csv", history.to_csv(index=False))
    record = Record(
        spec=spec.settings,
        metrics=metrics_of(history),
        versions=versions(),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        code=code_version(),
        data=state["data"],
        teacher=state["teacher"],
        student=student,
        seconds=round(state["seconds"], 1),
        evaluate_every=evaluate_every,
        options=spec.all_options,
        loading=data.loading,
    )
    if leads():
        write_whole(folder / "run.json", json.dumps(asdict(record), indent=2) + "\n")
    return record


def _checksum(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()
