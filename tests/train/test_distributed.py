"""Two processes under torchrun: the same training as one, and one record."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from kdnb.networks import build

pytestmark = pytest.mark.slow

COMMON = """
import torch
from kdnb.networks import build
from kdnb.methods import LabelsOnly

def batches(sizes):
    generator = torch.Generator().manual_seed(0)
    draw = lambda size: (
        torch.randn(size, 3, 8, 8, generator=generator),
        torch.randint(0, 4, (size,), generator=generator),
    )
    return [draw(size) for size in sizes]
"""

AVERAGE = """
import os
import sys
from pathlib import Path
from kdnb.train import train

method = LabelsOnly(build("resnet8", classes=4))
sizes = [int(size) for size in sys.argv[2:]]
losses = []
for precision in ("fp32", "fp64"):  # a second training in one process: a teacher, then a student
    options = {"epochs": 2, "lr": 0.1, "precision": precision, "device": "cpu"}
    method = LabelsOnly(build("resnet8", classes=4))
    losses = [epoch.losses for epoch in train(method, batches(sizes), **options)]
out = Path(sys.argv[1]) / os.environ["RANK"]
torch.save({"network": method.student.state_dict(), "losses": losses}, out)
"""

BROKEN = """
import os
import sys
from pathlib import Path
from kdnb.train import NotFinite, train

class Broken(LabelsOnly):
    step = -1

    def losses(self, images, labels, epoch):
        self.step += 1
        bad = float("nan") if self.step == 2 and os.environ["RANK"] == "1" else 0.0
        return super().losses(images, labels, epoch) | {"student/bad": torch.tensor(bad)}

try:
    for _ in train(Broken(build("resnet8", classes=4)), batches([4] * 5), epochs=1, lr=0.1):
        pass
except NotFinite as error:
    (Path(sys.argv[1]) / os.environ["RANK"]).write_text(str(error))
torch.distributed.barrier()  # neither leaves while the other still needs it
torch.distributed.destroy_process_group()
"""

SHUFFLED = """
import os
import sys
from pathlib import Path
from torch.utils.data import DataLoader, TensorDataset
from kdnb.train import train

seen = []

class Watching(LabelsOnly):
    def losses(self, images, labels, epoch):
        seen.extend(images[:, 0, 0, 0].tolist())
        torch.rand(len(seen))  # draws of its own must not disturb the order
        return super().losses(images, labels, epoch)

numbers = torch.arange(24.0)
images = numbers[:, None, None, None].expand(24, 3, 8, 8)
loader = DataLoader(TensorDataset(images, numbers.long() % 4), batch_size=8, shuffle=True)
options = {"epochs": 1, "lr": 1e-9, "precision": "fp32", "device": "cpu"}
for _ in train(Watching(build("resnet8", classes=4)), loader, **options):
    pass
(Path(sys.argv[1]) / os.environ["RANK"]).write_text(" ".join(map(str, seen)))
"""

REMEMBERED = """
import os
import sys
from pathlib import Path
from kdnb.datasets import Augmentation, Batches
from kdnb.methods import CRD, KDCL
from kdnb.train import train

seen = []

class Watching(CRD):
    def forward(self, batch, epoch):
        seen.extend(batch.indices.tolist())
        return super().forward(batch, epoch)

def data(augmentation, count):
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (count, 8, 8, 3), dtype=torch.uint8, generator=generator)
    options = {"shuffle": True, "augmentation": augmentation, "drop_last": True}
    return Batches(images, torch.arange(count) % 4, 8, (0.5,) * 3, (0.25,) * 3, **options)

network = lambda number: build("resnet8", classes=4, seed=number)
torch.manual_seed(0)
crd = Watching(network(0), network(1), torch.arange(20) % 4, width=8, negatives=10)
kdcl = KDCL(network, data(None, 16), target="general")
before = crd.student_bank.rows.clone()
options = {"epochs": 2, "lr": 0.01, "precision": "fp32", "device": "cpu"}
for method, count in ((crd, 20), (kdcl, 20)):
    for _ in train(method, data(Augmentation(pad=1), count), **options):
        pass
out = Path(sys.argv[1]) / os.environ["RANK"]
banks = {name: tensor for name, tensor in crd.state_dict().items() if "bank" in name or name == "constants"}
torch.save({"seen": seen, "banks": banks, "before": before, "weights": kdcl.weights}, out)
"""


STREAMED = """
import os
import sys
from dataclasses import replace
from pathlib import Path
from kdnb.datasets import folder, image_folder
from kdnb.train import train

folder.STREAMED = 8
out = Path(sys.argv[1])
data = image_folder(out / "pictures", size=8, cache=out)
seen = []

class Watching(LabelsOnly):
    def forward(self, batch, epoch):
        seen.append((batch.indices, batch.images))
        return super().forward(batch, epoch)

options = {"epochs": 1, "lr": 0.1, "precision": "fp32", "device": "cpu"}
for _ in train(Watching(build("resnet8", classes=2)), data.train_batches(8, seed=1), **options):
    pass
whole = [(batch.indices, batch.images) for batch in data.train_batches(8, seed=1).epoch(0)]
torch.save({"seen": seen, "whole": whole}, out / os.environ["RANK"])
"""


def torchrun(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess:
    launch = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [sys.executable, "-m", *launch, *map(str, arguments)]
    options = {"capture_output": True, "text": True, "timeout": 300, "check": False}
    return subprocess.run(command, cwd=cwd, **options)


def torchrun_script(text: str, folder: Path, *arguments: object) -> None:
    script = folder / "script.py"
    script.write_text(COMMON + text)
    done = torchrun(script, folder, *map(str, arguments), cwd=folder)
    assert done.returncode == 0, done.stderr


def by_hand(sizes: list[int]) -> tuple[nn.Module, list[float]]:
    """One process that averages the gradients of the two halves of every batch, in fp64."""
    scope: dict = {}
    exec(COMMON, scope)
    net = build("resnet8", classes=4).double()
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)
    given, losses = scope["batches"](sizes), []
    for step in range(2 * len(given)):
        images, labels = given[step % len(given)]
        optimizer.param_groups[0]["lr"] = 0.1 * (1 + np.cos(np.pi * step / (2 * len(given)))) / 2
        gradients = []
        for first in (0, 1):  # an odd batch shows its first image twice, for shares of one size
            mine = torch.arange(first, len(labels) + first, 2) % len(labels)
            loss = F.cross_entropy(net(images[mine].double()), labels[mine])
            gradients.append(torch.autograd.grad(loss, list(net.parameters())))
            losses.append(loss.item())
        for weight, one, other in zip(net.parameters(), *gradients, strict=True):
            weight.grad = (one + other) / 2
        optimizer.step()
    return net, np.array(losses).reshape(2, -1).mean(1).tolist()


@pytest.mark.parametrize("sizes", [[8, 8, 8], [8, 7, 1]])
def test_two_processes_train_the_parameters_that_averaged_halves_train(tmp_path, sizes):
    """The parameters are compared, not the batch-norm buffers.

    Each process normalises by the statistics of its own half, so running statistics differ between
    processes, and those of rank 0, which are broadcast before every step, are the ones kept. They
    do not enter a training step, so the parameters agree within rounding all the same.
    """
    torchrun_script(AVERAGE, tmp_path, *sizes)
    expected, losses = by_hand(sizes)
    ranks = [torch.load(tmp_path / rank) for rank in "01"]
    for found in ranks:
        for name, weight in expected.named_parameters():
            torch.testing.assert_close(found["network"][name], weight.detach(), rtol=0, atol=1e-9)
        assert [epoch["student/label"] for epoch in found["losses"]] == pytest.approx(losses)
    for name, _ in expected.named_parameters():
        assert torch.equal(ranks[0]["network"][name], ranks[1]["network"][name])


def test_a_term_that_breaks_in_one_process_stops_both_with_its_name(tmp_path):
    torchrun_script(BROKEN, tmp_path)
    messages = [(tmp_path / rank).read_text() for rank in "01"]
    assert messages[0] == messages[1]
    assert "'student/bad' is not finite at step 2" in messages[0]


def test_a_shuffled_loader_shows_every_image_once_an_epoch(tmp_path):
    torchrun_script(SHUFFLED, tmp_path)
    shares = [[float(x) for x in (tmp_path / rank).read_text().split()] for rank in "01"]
    assert sorted(shares[0] + shares[1]) == list(range(24))
    assert shares[0] != list(range(0, 24, 2)), "shuffled"


def test_memories_and_weights_are_the_same_in_all_processes(tmp_path):
    """CRD's rows take in what every process has seen; KDCL's weights of an epoch are those of one."""
    torchrun_script(REMEMBERED, tmp_path)
    ranks = [torch.load(tmp_path / rank) for rank in "01"]
    for name, tensor in ranks[0]["banks"].items():
        assert torch.equal(tensor, ranks[1]["banks"][name]), name
    assert torch.equal(ranks[0]["weights"], ranks[1]["weights"])
    assert not set(ranks[0]["seen"][:4]) & set(ranks[1]["seen"][:4]), "each has its share"
    changed = (ranks[0]["banks"]["student_bank.rows"] != ranks[0]["before"]).any(1)
    assert set(changed.nonzero().flatten().tolist()) == {*ranks[0]["seen"], *ranks[1]["seen"]}


def test_each_process_streams_its_share_of_every_batch(tmp_path):
    make_noise(tmp_path / "pictures")
    torchrun_script(STREAMED, tmp_path)
    ranks = [torch.load(tmp_path / rank) for rank in "01"]
    for (numbers, images), *shares in zip(ranks[0]["whole"], *(rank["seen"] for rank in ranks), strict=True):
        for rank, (own, shown) in enumerate(shares):
            places = torch.arange(rank, rank + 2 * len(own), 2) % len(numbers)
            assert torch.equal(own, numbers[places])
            assert torch.equal(shown, images[places])
        assert {int(n) for own, _ in shares for n in own} == set(numbers.tolist())


def make_noise(folder: Path) -> None:
    """Forty pictures of two classes."""
    generator = np.random.default_rng(0)
    for number in range(40):
        file = folder / f"class{number % 2}" / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(file)


def test_two_processes_of_kdnb_train_write_one_whole_record(tmp_path):
    make_noise(tmp_path / "pictures")
    words = "labels-only --data pictures --size 8 --pad 1 --epochs 2 --batch-size 8 --json"
    command = ["-m", "kdnb.commands.cli", "train", *words.split()]
    first = torchrun(*command, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    record = json.loads(first.stdout)  # exactly one document
    assert first.stderr.count("epoch 2/2") == 1
    [folder] = (tmp_path / "runs").iterdir()
    names = {path.name for path in folder.iterdir()}
    assert {"run.json", "history.csv", "student.safetensors", "state.json"} <= names
    assert json.loads((folder / "run.json").read_text()) == record
    assert not [name for name in names if name.startswith(".")], "no temporary files are left"
    assert record["student"]

    before = (folder / "run.json").stat().st_mtime_ns
    again = torchrun(*command, cwd=tmp_path)
    assert json.loads(again.stdout) == record
    assert (folder / "run.json").stat().st_mtime_ns == before
