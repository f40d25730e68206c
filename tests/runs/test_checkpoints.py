"""Networks and states on disk: bit by bit, and sound after every kind of interruption."""

import json
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from kdnb.datasets import Dataset, Part
from kdnb.errors import InputError
from kdnb.files import FILES
from kdnb.method import frozen
from kdnb.networks import DepthNet, build
from kdnb.networks.depth import BATCH_NORM
from kdnb.runs import checkpoints
from kdnb.runs.checkpoints import leave_networks, load_network, load_state, save_network, save_state


@pytest.fixture(scope="module")
def data() -> Dataset:
    images = torch.randint(0, 256, (6, 8, 8, 3), generator=torch.Generator().manual_seed(0))
    part = Part(images.to(torch.uint8), torch.arange(6) % 3)
    return Dataset.of("small", ("cat", "Hündin", 'a "b"'), train=part, validation=part, test=part)


@pytest.fixture
def net():
    net = build("resnet8", classes=3, seed=5)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean)
    return net


@pytest.fixture
def file(net, data, tmp_path) -> Path:
    save_network(net, "resnet8", data, tmp_path / "run" / "student.safetensors")
    return tmp_path / "run" / "student.safetensors"


def rewritten(file: Path, tensors: dict | None = None, **changes: str | None) -> Path:
    """The same file with other metadata (None leaves an entry out) or other tensors."""
    metadata = dict(checkpoints._header(file)) | changes
    metadata = {key: value for key, value in metadata.items() if value is not None}
    save_file(load_file(file) if tensors is None else tensors, file, metadata)
    return file


class TestNetwork:
    def test_round_trip(self, net, data, file):
        saved = load_network(file)
        assert saved[1:] == ("resnet8", data.classes, data.mean, data.std, data.size)
        assert_same(saved.net.state_dict(), net.state_dict())

    def test_a_run_folder_and_words_for_paths(self, file):
        assert load_network(str(file.parent)).name == load_network(file).name == "resnet8"
        assert load_network(file, expected="resnet8").name == "resnet8"

    def test_any_reader_finds_the_state_dict(self, net, file):
        assert_same(load_file(file), net.state_dict())

    @pytest.mark.parametrize("batch_norm", BATCH_NORM)
    def test_a_network_of_several_depths_comes_back_as_one(self, data, tmp_path, batch_norm):
        net = DepthNet(build("resnet20", classes=3, seed=1), (14, 8), batch_norm=batch_norm)
        images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        net.train().features_at_all(images)
        save_network(net.eval(), "resnet20", data, tmp_path / "depths.safetensors")
        found = load_network(tmp_path / "depths.safetensors", expected="resnet20").net.eval()
        assert found.depths == (20, 14, 8)
        for depth in net.depths:
            assert torch.equal(found.at_depth(depth)(images), net.at_depth(depth)(images))
        assert len(list(found.parameters())) == len(list(net.parameters()))

    def test_the_checksum_is_that_of_the_file(self, net, data, tmp_path):
        path = tmp_path / "a.safetensors"
        checksum = save_network(net, "resnet8", data, path)
        assert checksum == sha256(path.read_bytes()).hexdigest()

    def test_equal_networks_have_equal_checksums(self, net, data, tmp_path):
        path = tmp_path / "a.safetensors"
        assert len({save_network(net, "resnet8", data, path) for _ in range(10)}) == 1
        with torch.no_grad():
            net.head.bias[0] += 1
        first = load_network(path).net
        assert save_network(net, "resnet8", data, path) != save_network(first, "resnet8", data, path)

    def test_a_headless_notebook_leaves_its_networks(self, net, data, tmp_path, monkeypatch):
        assert leave_networks({"KD": net}, "resnet8", data) == []
        monkeypatch.setenv(FILES, str(tmp_path / "files"))
        (written,) = leave_networks({"KD, T = 4": net}, "resnet8", data)
        assert written == tmp_path / "files" / "KD-T-4.safetensors"
        assert_same(load_network(written).net.state_dict(), net.state_dict())

    def test_layout_and_freezing_leave_no_trace(self, net, data, file, tmp_path):
        other = frozen(build("resnet8", classes=3))
        other.load_state_dict(net.state_dict())
        other.to(memory_format=torch.channels_last)
        save_network(other, "resnet8", data, tmp_path / "b.safetensors")
        assert (tmp_path / "b.safetensors").read_bytes() == file.read_bytes()

    def test_another_network_than_expected(self, file):
        with pytest.raises(InputError, match="holds a resnet8, expected a resnet20"):
            load_network(file, expected="resnet20")

    @pytest.mark.parametrize("kept", [0, 4, 100, 3000, -1])
    def test_truncated(self, file, kept):
        file.write_bytes(file.read_bytes()[:kept])
        with pytest.raises(InputError, match=r"truncated or not a safetensors file .* copy it again"):
            load_network(file)

    @pytest.mark.parametrize("content", [b"", b"not tensors at all, and longer than a header", b"{}"])
    def test_another_kind_of_file(self, file, content):
        file.write_bytes(content)
        with pytest.raises(InputError, match="truncated or not a safetensors file"):
            load_network(file)

    def test_a_pickle_is_not_opened(self, net, tmp_path):
        torch.save(net.state_dict(), tmp_path / "net.pt")
        with pytest.raises(InputError, match="not a safetensors file"):
            load_network(tmp_path / "net.pt")

    @pytest.mark.parametrize("where", ["nothing.safetensors", ""])
    def test_missing(self, tmp_path, where):
        with pytest.raises(InputError, match=r"no network file at .*\.safetensors.*kdnb train"):
            load_network(tmp_path / where)

    @pytest.mark.parametrize(("format", "found"), [("2", "2"), (None, "none")])
    def test_another_format(self, file, format, found):
        with pytest.raises(InputError, match=f"reads network files of format 1, found {found}"):
            load_network(rewritten(file, format=format))

    def test_a_network_of_the_future(self, file):
        with pytest.raises(InputError, match=r"holds a 'vit9', which this kdnb .* cannot build"):
            load_network(rewritten(file, network="vit9"))

    @pytest.mark.parametrize(
        "changes",
        [
            {"classes": None},
            {"mean": None},
            {"classes": "not JSON"},
            {"classes": "7"},
            {"classes": '["one"]'},
            {"classes": '["a", "b", "c", "d"]'},
            {"network": "resnet14"},
            {"network": "resnet8x4"},
        ],
    )
    def test_metadata_that_do_not_fit(self, file, changes):
        with pytest.raises(InputError, match="does not fit a resnet"):
            load_network(rewritten(file, **changes))

    def test_a_state_dict_that_does_not_fit(self, file):
        tensors = load_file(file)
        del tensors["head.bias"]
        with pytest.raises(InputError, match=r"(?s)does not fit a resnet8.*head\.bias"):
            load_network(rewritten(file, tensors))

    def test_a_place_that_cannot_be_written(self, net, data, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(InputError, match="Could not write"):
            save_network(net, "resnet8", data, tmp_path / "file" / "a.safetensors")


def assert_same(found, expected) -> None:
    """Equal trees, tensors bit by bit with their types."""
    assert type(found) is type(expected) or isinstance(expected, dict)
    if isinstance(expected, torch.Tensor):
        assert found.dtype == expected.dtype
        assert found.shape == expected.shape
        assert torch.equal(found, expected.detach().cpu())
    elif isinstance(expected, dict):
        assert list(found) == list(expected) or sorted(found) == sorted(expected)
        for key in expected:
            assert_same(found[key], expected[key])
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    else:
        assert found == expected


def a_state(value: float = 1.0) -> dict:
    shared = torch.full((3, 4), value)
    return {
        "epoch": 7,
        "optimizers": [
            {
                "state": {0: {"step": torch.tensor(12.0), "momentum": shared}, 11: {}},
                "param_groups": [{"lr": 0.1, "betas": [0.9, 0.999], "nesterov": False, "k": None}],
            }
        ],
        "method": {"tensor": shared, "dict": shared.T, "part": shared[1:, ::2]},
        "tensor": "a word like those of the format",
        "dtypes": [
            torch.arange(4, dtype=dtype)
            for dtype in (torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.uint8)
        ]
        + [torch.tensor([True, False]), torch.empty(0, 3), torch.ones(2, requires_grad=True)],
        "history": [{"loss": 0.1 + 0.2, "accuracy": float("inf")}, {}],
        "empty": [],
        "big": 2**80,
    }


class TestState:
    def test_round_trip(self, tmp_path):
        save_state(a_state(), tmp_path / "run")
        found = load_state(tmp_path / "run")
        assert_same(found, a_state())
        assert list(found["optimizers"][0]["state"]) == [0, 11]
        assert list(found) == list(a_state())

    def test_loaded_tensors_are_independent(self, tmp_path):
        save_state(a_state(), tmp_path)
        method = load_state(tmp_path)["method"]
        method["tensor"].zero_()
        assert method["dict"].sum() == 12

    def test_an_optimizer_goes_on(self, net, tmp_path):
        optimizer = torch.optim.Adam(net.parameters(), 0.1)
        net(torch.randn(2, 3, 8, 8)).sum().backward()
        optimizer.step()
        save_state({"optimizer": optimizer.state_dict()}, tmp_path)
        other = torch.optim.Adam(net.parameters(), 0.3)
        other.load_state_dict(load_state(tmp_path)["optimizer"])
        assert_same(other.state_dict()["state"], optimizer.state_dict()["state"])
        assert other.param_groups[0]["lr"] == 0.1

    def test_nothing_there(self, tmp_path):
        assert load_state(tmp_path) is None
        assert load_state(tmp_path / "nowhere") is None

    def test_the_newest_state_is_kept_alone(self, tmp_path):
        for value in (1.0, 2.0, 3.0):
            save_state(a_state(value), tmp_path)
        assert_same(load_state(tmp_path), a_state(3.0))
        assert len(list(tmp_path.iterdir())) == 2

    def test_saving_the_same_tensors_again(self, tmp_path):
        save_state(a_state(), tmp_path)
        save_state(a_state() | {"epoch": 8}, tmp_path)
        assert load_state(tmp_path)["epoch"] == 8

    @pytest.mark.parametrize("error", [KeyboardInterrupt, InputError])
    @pytest.mark.parametrize("failing", ["state-", "state.json"])
    def test_interrupted_at_either_write_the_old_state_stays(self, tmp_path, monkeypatch, error, failing):
        save_state(a_state(1.0), tmp_path)
        write = checkpoints.write_whole

        def interrupted(path, content):
            if path.name.startswith(failing):
                raise error
            write(path, content)

        with monkeypatch.context() as patch:
            patch.setattr(checkpoints, "write_whole", interrupted)
            with pytest.raises(error):
                save_state(a_state(2.0), tmp_path)
        assert_same(load_state(tmp_path), a_state(1.0))
        save_state(a_state(3.0), tmp_path)
        assert_same(load_state(tmp_path), a_state(3.0))
        assert len(list(tmp_path.iterdir())) == 2

    def test_interrupted_before_the_old_tensors_are_removed(self, tmp_path, monkeypatch):
        def interrupted(*_args, **_named):
            raise KeyboardInterrupt

        save_state(a_state(1.0), tmp_path)
        with monkeypatch.context() as patch:
            patch.setattr(Path, "glob", interrupted)
            with pytest.raises(KeyboardInterrupt):
                save_state(a_state(2.0), tmp_path)
        assert_same(load_state(tmp_path), a_state(2.0))

    @pytest.mark.parametrize("kept", [0, 5, 400, -1])
    def test_truncated_tensors(self, tmp_path, kept):
        save_state(a_state(), tmp_path)
        (tensors,) = tmp_path.glob("*.safetensors")
        tensors.write_bytes(tensors.read_bytes()[:kept])
        with pytest.raises(InputError, match=r"is damaged .* again with --force"):
            load_state(tmp_path)

    @pytest.mark.parametrize(
        "content",
        [
            "",
            "{",
            "[]",
            "7",
            '{"format": "1"}',
            '{"format": "1", "tensors": "x", "tree": {}}',
            "\xff",
        ],
    )
    def test_a_damaged_state(self, tmp_path, content):
        save_state(a_state(), tmp_path)
        (tmp_path / "state.json").write_text(content, encoding="latin-1")
        with pytest.raises(InputError, match=r"is damaged .* again with --force"):
            load_state(tmp_path)

    def test_missing_tensors(self, tmp_path):
        save_state(a_state(), tmp_path)
        next(tmp_path.glob("*.safetensors")).unlink()
        with pytest.raises(InputError, match="is damaged"):
            load_state(tmp_path)

    def test_another_format(self, tmp_path):
        save_state(a_state(), tmp_path)
        content = json.loads((tmp_path / "state.json").read_text())
        (tmp_path / "state.json").write_text(json.dumps(content | {"format": "9"}))
        with pytest.raises(InputError, match=r"is of format 9, this kdnb .* reads 1"):
            load_state(tmp_path)

    def test_a_full_disk(self, tmp_path):
        """A limit on file sizes makes writing really fail, in a process of its own."""
        pytest.importorskip("resource")
        program = (
            "import resource, signal, sys, torch\n"
            "from pathlib import Path\n"
            "from kdnb.runs.checkpoints import save_state\n"
            "from kdnb.errors import InputError\n"
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            "folder = Path(sys.argv[1])\n"
            "save_state({'weights': torch.ones(10)}, folder)\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
            "try:\n"
            "    save_state({'weights': torch.ones(100_000)}, folder)\n"
            "except InputError as error:\n"
            "    sys.exit(f'refused: {error}')\n"
        )
        command = [sys.executable, "-c", program, str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert "refused: Could not write" in done.stderr
        assert "Free some space" in done.stderr
        assert torch.equal(load_state(tmp_path)["weights"], torch.ones(10))
        assert len(list(tmp_path.iterdir())) == 2
