"""Networks and training states on disk: tensors as safetensors, everything else as JSON."""

import json
import re
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import load as tensors_from
from safetensors.torch import save as bytes_of
from torch import Tensor, nn

from kdnb import __version__
from kdnb.datasets import Dataset
from kdnb.errors import InputError
from kdnb.files import files_folder, write_whole
from kdnb.networks import DYNAMIC, NETWORKS, DepthNet, Network, build

FORMAT = "1"


class Saved(NamedTuple):
    """A network read back from a file, with what it was trained on.

    Attributes:
        net: The network.

        name: As ``build`` takes it.

        classes: Names of its classes, in the order of its logits.

        mean: Of every channel of the images it was trained on, for pixels in [0, 1].

        std: Standard deviation of every channel of those images.

        size: Height and width of those images in pixels; None where the file does not tell.
    """

    net: Network
    name: str
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: int | None = None


def save_network(net: nn.Module, name: str, data: Dataset, path: Path) -> str:
    """Writes the plain weights, with everything that is needed to use them again.

    Any safetensors reader opens the file. The tensors are the network's ``state_dict``.

    Args:
        net: The network.

        name: As ``build`` takes it.

        data: What it was trained on: its classes, normalisation and image size are kept.

        path: The file. It appears whole or not at all.

    Returns:
        The checksum of the file.

    Raises:
        InputError: If the file cannot be written.
    """
    about = {
        "format": FORMAT,
        "kdnb": __version__,
        "network": name,
        "classes": json.dumps(data.classes),
        "mean": json.dumps(data.mean),
        "std": json.dumps(data.std),
        "size": json.dumps(data.size),
    }
    content = _ordered(bytes_of(_on_cpu(net.state_dict()), metadata=about))
    write_whole(path, content)
    return sha256(content).hexdigest()


def leave_networks(networks: Mapping[str, nn.Module], name: str, data: Dataset) -> list[Path]:
    """Leaves the networks that a notebook has trained beside the executed notebook.

    It writes only under ``kdnb run``, into the folder NAME_files. In a notebook that someone reads it does
    nothing. ``load_network`` reads the files.

    Args:
        networks: The networks, by the names of their files. A character that not every file system takes
            becomes a hyphen.

        name: As ``build`` takes it.

        data: What they were trained on.

    Returns:
        The files that were written.

    Raises:
        InputError: If a file cannot be written.
    """
    folder = files_folder()
    if folder is None:
        return []
    files = {label: folder / f"{re.sub('[^A-Za-z0-9.]+', '-', label)}.safetensors" for label in networks}
    for label, net in networks.items():
        save_network(net, name, data, files[label])
    return list(files.values())


def load_network(path: str | Path, *, expected: str | None = None) -> Saved:
    """Reads a network back. One that runs at several depths comes back as a DepthNet.

    Args:
        path: A file of ``save_network``, or the folder of a finished run.

        expected: Name of the network that the file must hold; None accepts any.

    Returns:
        The network, with what it was trained on.

    Raises:
        InputError: For a missing, truncated or foreign file, one of another format, or another network.
    """
    path = Path(path).expanduser()
    path = path / "student.safetensors" if path.is_dir() else path
    about = _header(path)
    if about.get("format") != FORMAT or "network" not in about:
        found = about.get("format", "none")
        raise InputError(
            f"{path}: this kdnb ({__version__}) reads network files of format {FORMAT}, found "
            f"{found}. Write it again with this version, or install the one that wrote it."
        )
    name = about["network"]
    if expected is not None and name != expected:
        raise InputError(f"{path} holds a {name}, expected a {expected}.")
    if name.removesuffix(DYNAMIC) not in NETWORKS:
        raise InputError(f"{path} holds a {name!r}, which this kdnb ({__version__}) cannot build.")
    try:
        about.setdefault("std", about.get("spread", "null"))  # its name in the first edition's files
        classes, mean, std = (tuple(json.loads(about[key])) for key in ("classes", "mean", "std"))
        size = json.loads(about.get("size", "null"))
        net, tensors = build(name, classes=len(classes)), tensors_from(path.read_bytes())
        if "blocks" in tensors:
            net = DepthNet(net, tensors["blocks"][1:].tolist(), batch_norm=_batch_norm(tensors))
        net.load_state_dict(tensors)
    except (RuntimeError, OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise InputError(f"{path} does not fit a {name}. Train or copy it again. Details: {error}") from error
    return Saved(net, name, classes, mean, std, size)


def save_state(state: dict[str, Any], folder: Path) -> None:
    """Writes a nested state of tensors, numbers, strings, lists and dicts.

    The tensors go to a file of their own; ``state.json``, which is written last, names it. Interrupted at
    any moment, the folder holds the old state or the new one.

    Args:
        state: What is kept.

        folder: Where.

    Raises:
        InputError: On a full disk.
    """
    tensors: dict[str, Tensor] = {}
    tree = _pack(state, tensors)
    content = bytes_of(_on_cpu(tensors))
    name = f"state-{sha256(content).hexdigest()[:12]}.safetensors"
    write_whole(folder / name, content)
    write_whole(folder / "state.json", json.dumps({"format": FORMAT, "tensors": name, "tree": tree}))
    for old in folder.glob("state-*.safetensors"):
        if old.name != name:
            old.unlink()


def load_state(folder: Path) -> dict[str, Any] | None:
    """Reads what ``save_state`` wrote.

    Args:
        folder: Where it was written.

    Returns:
        The state, or None where there is nothing.

    Raises:
        InputError: If it is damaged or of another format.
    """
    path = folder / "state.json"
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text())
        if content["format"] != FORMAT:
            raise InputError(
                f"{path} is of format {content['format']}, this kdnb ({__version__}) reads "
                f"{FORMAT}. Finish the run with the version that began it, or start again with --force."
            )
        return _unpack(content["tree"], tensors_from((folder / content["tensors"]).read_bytes()))
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"The state in {folder} is damaged ({error}). Start the run again with --force."
        ) from error


def _batch_norm(tensors: dict[str, Tensor]) -> str:
    """Of a DepthNet: sub-nets have tensors of their own where batch norm is private."""
    return "private" if any(name.startswith("subnets.") for name in tensors) else "shared"


def _header(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise InputError(f"There is no network file at {path}. Train one with 'kdnb train'.")
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path} is truncated or not a safetensors file ({error}). Train or copy it again."
        ) from error


def _ordered(content: bytes) -> bytes:
    """The same safetensors file with its header in order: the library writes the metadata in random
    order, and equal networks shall have equal checksums."""
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:start]), sort_keys=True).encode()
    header += b" " * (-len(header) % 8)  # tensors begin at a multiple of 8
    return len(header).to_bytes(8, "little") + header + content[start:]


def _on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies that share no memory, as safetensors wants them."""
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}


def _pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """``value`` as JSON; tensors are moved to ``tensors``, dicts keep keys that are not strings."""
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": [[key, _pack(item, tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return [_pack(item, tensors) for item in value]
    return value


def _unpack(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpack(item, tensors) for item in value]
    if isinstance(value, dict):
        if "tensor" in value:
            return tensors[value["tensor"]]
        return {key: _unpack(item, tensors) for key, item in value["dict"]}
    return value
