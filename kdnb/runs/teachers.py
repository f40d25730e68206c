"""Teachers for the course: shipped for shapes, trained where there is none."""

from math import isclose
from pathlib import Path

from kdnb.datasets import Dataset, load
from kdnb.errors import InputError, require_choice
from kdnb.methods import LabelsOnly
from kdnb.networks import Network, Renormalised, build
from kdnb.paths import PROJECT
from kdnb.runs.checkpoints import Saved, load_network, save_network
from kdnb.train import train

SAME = 1e-9  # relative difference of two means that only the order of a sum explains; float32 cannot show it
SHIPPED = {
    data: PROJECT / "data" / "teachers" / f"{data}-resnet20.safetensors" for data in ("shapes", "shapes-v1")
}
SHIPPED_SIZE = 32  # of the images that they were trained on


def shapes_teacher(data: str = "shapes") -> Path:
    """The file of the resnet20 that ships with the course, trained afresh if it is not there.

    It was trained on images of 32 pixels. data/README.md tells its provenance; ``kdnb train labels-only
    --student resnet20 --lr 0.1`` trains the same network.

    Args:
        data: ``"shapes"``, or ``"shapes-v1"`` for the teacher of the first edition.

    Raises:
        InputError: For another name.
    """
    path = SHIPPED[require_choice("data set with a shipped teacher", data, SHIPPED)]
    if not path.exists():
        drawn = load(data)
        save_network(fresh_teacher(drawn, "resnet20", epochs=40), "resnet20", drawn, path)
    return path


def fresh_teacher(data: Dataset, network: str, *, epochs: int, images: int = 0, seed: int = 0) -> Network:
    """A network that is trained on labels now.

    Args:
        data: What it learns from.

        network: Name of the network.

        epochs: Of training.

        images: Training images that it sees, 0 for all.

        seed: Of everything random.

    Returns:
        The network, on the CPU.
    """
    method = LabelsOnly(build(network, classes=len(data.classes), seed=seed))
    shown = data.few(images, seed=seed) if images else data
    for _ in train(method, shown.train_batches(seed=seed), epochs=epochs, lr=0.1, seed=seed):
        pass
    return method.export().cpu()


def teacher_for(data: Dataset, network: str, *, file: str = "", epochs: int, images: int = 0) -> Network:
    """The teacher of a notebook: from a file if one is given, the shipped one for shapes, else trained now.

    Args:
        data: What the student learns from.

        network: Name of the network that is trained, if one is.

        file: A network file or the folder of a finished run; empty for none.

        epochs: Of training, if one is trained.

        images: Training images that it then sees, 0 for all.

    Raises:
        InputError: For a file that cannot be used, or whose classes are not those of ``data``.
    """
    if not file and (data.name not in SHIPPED or data.size != SHIPPED_SIZE):
        return fresh_teacher(data, network, epochs=epochs, images=images)
    path = Path(file) if file else shapes_teacher(data.name)
    return fit_teacher(path, data).net


def fit_teacher(path: Path, data: Dataset) -> Saved:
    """The network in a file, if it can teach on ``data``.

    Args:
        path: A network file, or the folder of a finished run.

        data: What the student learns from.

    Returns:
        What the file holds. A network that was trained with another normalisation than that of ``data``
        comes as a ``Renormalised`` one: it takes images normalised as ``data`` does and sees them
        normalised its own way. ``mean`` and ``std`` are still those of the file.

    Raises:
        InputError: Unless the network knows exactly the classes of the data, in their order, and was
            trained on images of their size.
    """
    saved = load_network(path)
    if saved.classes != data.classes:
        raise InputError(
            f"The teacher in {path} knows the classes {', '.join(saved.classes)}, but the data have "
            f"{', '.join(data.classes)}. Train a teacher on these data first: kdnb train labels-only."
        )
    if saved.size not in (None, data.size):
        raise InputError(
            f"The teacher in {path} was trained on images of {saved.size} pixels a side, the student "
            f"would see {data.size}. Load the data at that size (--size {saved.size}), or choose another."
        )
    pairs = zip((*saved.mean, *saved.std), (*data.mean, *data.std), strict=True)
    if all(isclose(own, given, rel_tol=SAME) for own, given in pairs):
        return saved
    about = {"mean": data.mean, "std": data.std, "own_mean": saved.mean, "own_std": saved.std}
    return saved._replace(net=Renormalised(saved.net, **about))
