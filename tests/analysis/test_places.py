"""Where the cells of a map look: the arithmetic of windows, the measurement, and maps put in their places."""

import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from kdnb.analysis import Place, effective_places, map_places, placed
from kdnb.errors import InputError
from kdnb.networks import Features, Network, Tapped, build


class Small(Network):
    """A network of one stage, made of the given modules."""

    reductions, channels, classes = (1,), (1,), 2

    def __init__(self, *modules: nn.Module) -> None:
        super().__init__()
        self.stage, self.head = nn.Sequential(*modules), nn.Linear(1, 2)

    def features(self, images: torch.Tensor) -> Features:
        found = self.stage(images)
        embedding = found.mean((1, 2, 3))[:, None]
        return Features(images, (found,), embedding, self.head(embedding), found)


@pytest.mark.parametrize(
    ("modules", "place"),
    [
        ([nn.Conv2d(3, 1, 3, padding=1)], (0, 1)),
        ([nn.Conv2d(3, 1, 3)], (1, 1)),  # without padding the first window begins at pixel 0
        ([nn.Conv2d(3, 1, 3, stride=2, padding=1)], (0, 2)),
        ([nn.Conv2d(3, 1, 3, stride=2, padding=1), nn.Conv2d(1, 1, 3, stride=2, padding=1)], (0, 4)),
        ([nn.Conv2d(3, 1, 2, stride=2), nn.Conv2d(1, 1, 2, stride=2)], (1.5, 4)),
        ([nn.Conv2d(3, 1, 3, padding=2, dilation=2)], (0, 1)),
        ([nn.Conv2d(3, 1, 3, padding=0, dilation=2)], (2, 1)),
        ([nn.MaxPool2d(2)], (0.5, 2)),
        ([nn.AvgPool2d(2), nn.MaxPool2d(3, stride=2, padding=1)], (0.5, 4)),
        ([nn.AvgPool2d(3, stride=2, padding=1), nn.BatchNorm2d(3), nn.ReLU(inplace=True)], (0, 2)),
    ],
)
def test_places_of_windows_by_hand(modules, place):
    assert map_places(Small(*modules), 16) == (Place(*place),)


def test_a_branch_with_another_centre_counts_half():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.long, self.short = nn.Conv2d(3, 3, 3, 2, padding=1), nn.AvgPool2d(2)

        def forward(self, x):
            return self.long(x) + self.short(x)

    assert map_places(Small(Block()), 16) == (Place(0.25, 2),)


@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("resnet20", [(0, 1), (0, 2), (0, 4)]),
        ("vgg8", [(0.5, 2), (1.5, 4), (3.5, 8), (3.5, 8)]),
        ("densenet_40_12", [(0, 1), (0.5, 2), (1.5, 4)]),
    ],
)
def test_places_of_our_networks(name, places):
    assert map_places(build(name, classes=3)) == tuple(Place(*place) for place in places)


def test_places_of_a_model_from_elsewhere_that_works_in_place():
    theirs = Tapped(resnet18(num_classes=3), "layer1", "layer4")
    assert map_places(theirs, 64) == (Place(0, 4), Place(0, 32))


def test_what_cannot_be_followed():
    with pytest.raises(InputError, match="map 1 lie cannot be followed"):
        map_places(Small(nn.ConvTranspose2d(3, 1, 2, stride=2)), 16)
    with pytest.raises(InputError, match="alike along both sides"):
        map_places(Small(nn.Conv2d(3, 1, (1, 3))), 16)


def test_the_network_stays_as_it_is():
    net = build("resnet8", classes=3).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    map_places(net), effective_places(net, torch.randn(4, 3, 16, 16))
    assert net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(weight.device.type == "cpu" and weight.grad is None for weight in net.parameters())


@pytest.mark.parametrize(("tap", "start"), [((1, 1), 0), ((2, 2), 1), ((0, 0), -1), ((1, 2), 0.5)])
def test_the_measured_centre_is_at_the_only_weight(tap, start):
    net = Small(nn.Conv2d(3, 1, 3, stride=2, padding=1))
    net.stage[0].weight.data.zero_()
    row, column = tap
    net.stage[0].weight.data[:, :, row, column] = 1.0
    with torch.inference_mode():
        (place,) = effective_places(net, torch.rand(4, 3, 16, 16))
    assert place == pytest.approx((start, 2))


def test_the_measured_centre_of_equal_weights_is_that_of_the_window():
    net = Small(nn.Conv2d(3, 1, 3, stride=2, padding=1), nn.Conv2d(1, 1, 3, stride=2, padding=1))
    for convolution in net.stage:
        convolution.weight.data.fill_(1.0)
    assert effective_places(net, torch.rand(4, 3, 32, 32))[0] == pytest.approx((0, 4), abs=1e-5)


def test_a_dead_cell_has_the_place_of_its_window():
    net = Small(nn.Conv2d(3, 1, 3, stride=2, padding=1), nn.ReLU())
    net.stage[0].weight.data.fill_(-1.0)
    net.stage[0].bias.data.zero_()
    assert effective_places(net, torch.rand(4, 3, 16, 16)) == (Place(0, 2),)


@pytest.mark.parametrize("place", [Place(0, 4), Place(1.5, 4), Place(-0.5, 4)])
def test_a_map_that_grows_with_its_centres_is_the_pixel_number_where_it_is_placed(place):
    """Cells whose values are their own centres: linear interpolation gives every pixel its own number."""
    cells = place.start + place.step * torch.arange(8, dtype=torch.float64)
    maps = (cells + 100 * cells[:, None])[None]
    rows = torch.arange(32.0, dtype=torch.float64).clamp(cells[0], cells[-1])
    found = placed(maps, place, torch.zeros(1, 32, 32))
    torch.testing.assert_close(found[0], rows + 100 * rows[:, None])


def test_a_map_of_the_pictures_size_is_left_alone():
    maps = torch.rand(2, 5, 6)
    for smooth in (True, False):
        assert torch.equal(placed(maps, Place(0, 1), torch.zeros(2, 3, 5, 6), smooth=smooth), maps)


def test_a_map_by_its_nearest_cells_shows_its_own_numbers_only():
    found = placed(torch.tensor([[[1.0, 2.0]]]), Place(0, 4), torch.zeros(1, 1, 8), smooth=False)
    assert found.tolist() == [[[1, 1, 2, 2, 2, 2, 2, 2]]]
    found = placed(torch.tensor([[[1.0, 2.0]]]), Place(1.5, 4), torch.zeros(1, 1, 8), smooth=False)
    assert found.tolist() == [[[1, 1, 1, 1, 2, 2, 2, 2]]]


def test_a_uniform_map_stays_uniform():
    found = placed(torch.full((1, 8, 8), 0.3), Place(1.07, 4), torch.zeros(1, 32, 32))
    torch.testing.assert_close(found, torch.full((1, 32, 32), 0.3))
