"""Image folders: every layout, mode and size of pictures, and all that is wrong with some."""

import numpy as np
import pytest
import torch
from PIL import Image

from kdnb.datasets import decoding, image_folder
from kdnb.errors import InputError

COLOURS = {"cat": (200, 30, 30), "dog": (30, 200, 30), "owl": (30, 30, 200)}


def fill(folder, classes=("cat", "dog"), count=5, size=(12, 12), suffix=".png"):
    """``count`` pictures a class, plain in the class's colour up to their own shade."""
    for name in classes:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            red, green, blue = COLOURS[name]
            picture = Image.new("RGB", size, (red, green, blue + number))
            picture.save(folder / name / f"{number}{suffix}")


@pytest.fixture
def load(tmp_path):
    return lambda path, **options: image_folder(path, cache=tmp_path / "cache", **options)


@pytest.fixture
def root(tmp_path):
    return tmp_path / "pictures"


def colours_fit(data) -> bool:
    """Every picture has the colour of its class."""
    for part in (data.train, data.validation, data.test):
        strongest = part.images.double().mean((1, 2)).argmax(1)
        names = [data.classes[label] for label in part.labels]
        if [list(COLOURS).index(name) for name in names] != strongest.tolist():
            return False
    return True


class TestLayouts:
    @pytest.mark.parametrize("other", ["test", "val"])
    def test_train_and_one_other_part(self, load, root, other):
        fill(root / "train", count=10)
        fill(root / other, count=3)
        data = load(root, validation=0.2)
        assert [len(part) for part in (data.train, data.validation, data.test)] == [16, 4, 6]
        assert data.validation.labels.bincount().tolist() == [2, 2]
        assert data.name == "pictures"
        assert data.classes == ("cat", "dog")
        assert colours_fit(data)

    def test_three_parts_stay_as_they_are(self, load, root):
        for part, count in (("train", 4), ("val", 1), ("test", 2)):
            fill(root / part, count=count)
        data = load(root)
        assert [len(part) for part in (data.train, data.validation, data.test)] == [8, 2, 4]
        assert colours_fit(data)

    def test_classes_alone_are_split(self, load, root):
        fill(root, classes=("owl", "cat", "dog"), count=20)
        data = load(root, validation=0.25)
        for part, each in ((data.train, 12), (data.validation, 4), (data.test, 4)):
            assert part.labels.bincount().tolist() == [each] * 3
        assert data.classes == ("cat", "dog", "owl")
        assert colours_fit(data)
        pictures = torch.cat([data.train.images, data.validation.images, data.test.images])
        assert len({picture.numpy().tobytes() for picture in pictures}) == 60

    def test_the_seed_decides_the_split(self, load, root):
        fill(root, count=20)
        assert load(root, seed=1).fingerprint() == load(root, seed=1).fingerprint()
        assert load(root, seed=1).fingerprint() != load(root, seed=2).fingerprint()

    @pytest.mark.parametrize("inside", ["", "train and test"])
    def test_wrapping_folders_are_passed(self, load, root, inside):
        deep = root / "download" / "animals"
        for part in ("train", "test") if inside else ("",):
            fill(deep / part)
        (root / "README.txt").write_text("Pictures of animals.")
        (root / "__MACOSX").mkdir()
        (root / ".DS_Store").touch()
        assert load(root).classes == ("cat", "dog")

    def test_pictures_in_folders_within_a_class(self, load, root):
        fill(root)
        fill(root / "cat" / "2019", classes=("cat",), count=4)
        data = load(root)
        counts = sum(p.labels.bincount() for p in (data.train, data.validation, data.test))
        assert counts.tolist() == [9, 5]
        assert colours_fit(data)

    def test_hidden_files_and_other_files_are_ignored(self, load, root):
        fill(root, suffix=".PNG")
        fill(root, classes=("dog",), count=2, suffix=".JpEg")
        (root / "cat" / ".hidden.png").write_bytes(b"junk")
        (root / "cat" / "._0.png").write_bytes(b"junk")
        (root / "cat" / "notes.txt").write_text("junk")
        (root / "cat" / "Thumbs.db").write_bytes(b"junk")
        for hidden in (".thumbnails", "__MACOSX"):
            (root / "cat" / hidden).mkdir()
            (root / "cat" / hidden / "1.png").write_bytes(b"junk")
        (root / ".git" / "objects").mkdir(parents=True)
        (root / ".git" / "1.png").write_bytes(b"junk")
        (root / "empty").mkdir()
        data = load(root)
        assert data.classes == ("cat", "dog")
        assert len(data.train) + len(data.validation) + len(data.test) == 12

    def test_a_folder_with_the_name_of_a_picture_is_no_picture(self, load, root):
        fill(root)
        (root / "cat" / "album.jpg").mkdir()
        assert len(load(root).classes) == 2


def one_picture(load, root, picture: Image.Image, name="0.png", size=32, **options) -> np.ndarray:
    """What ``picture`` becomes, (size, size, 3)."""
    for part in ("train", "val", "test"):
        fill(root / part, count=1)
    (root / "train" / "cat" / "0.png").unlink()
    picture.save(root / "train" / "cat" / name, **options)
    return load(root, size=size).train.images[0].numpy()


def middle(picture: np.ndarray) -> list[int]:
    return picture[len(picture) // 2, len(picture) // 2].tolist()


class TestPictures:
    @pytest.mark.parametrize(
        ("mode", "colour", "name", "expected"),
        [
            ("RGB", (10, 20, 30), "a.png", (10, 20, 30)),
            ("RGB", (10, 20, 30), "a.bmp", (10, 20, 30)),
            ("RGB", (10, 20, 30), "a.tif", (10, 20, 30)),
            ("RGB", (10, 20, 30), "a.ppm", (10, 20, 30)),
            ("RGB", (10, 20, 30), "a.webp", (10, 20, 30)),
            ("L", 77, "a.png", (77, 77, 77)),
            ("L", 77, "a.pgm", (77, 77, 77)),
            ("LA", (77, 255), "a.png", (77, 77, 77)),
            ("RGBA", (10, 20, 30, 128), "a.png", (10, 20, 30)),
            ("1", 1, "a.png", (255, 255, 255)),
            ("I;16", 0x4D12, "a.png", (0x4D, 0x4D, 0x4D)),
            ("I;16", 0x4D12, "a.tif", (0x4D, 0x4D, 0x4D)),
            ("I", 0x4D12, "a.tif", (0x4D, 0x4D, 0x4D)),
            ("CMYK", (0, 255, 255, 0), "a.jpg", (255, 0, 0)),
        ],
    )
    @pytest.mark.parametrize("size", [(32, 32), (50, 40)])
    def test_modes(self, load, root, mode, colour, name, expected, size):
        options = {"lossless": True} if name.endswith("webp") else {}
        found = one_picture(load, root, Image.new(mode, size, colour), name, **options)
        assert found.shape == (32, 32, 3)
        assert np.abs(np.array(middle(found)) - expected).max() <= 3

    def test_palette(self, load, root):
        picture = Image.new("P", (32, 32), 1)
        picture.putpalette([0, 0, 0, 12, 34, 56])
        assert middle(one_picture(load, root, picture)) == [12, 34, 56]

    def test_an_animated_gif_gives_its_first_frame(self, load, root):
        frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "lime", "blue")]
        more = {"save_all": True, "append_images": frames[1:]}
        assert middle(one_picture(load, root, frames[0], "0.gif", **more)) == [255, 0, 0]

    @pytest.mark.parametrize(
        ("orientation", "turned"),
        [(1, 0), (3, 2), (6, 3), (8, 1)],  # quarter turns against the clock to stand upright
    )
    def test_a_photograph_is_turned_upright(self, load, root, orientation, turned):
        pixels = np.zeros((32, 32, 3), np.uint8)
        pixels[:16, :, 0] = 250  # red above, and green on the left of the lower half
        pixels[16:, :16, 1] = 250
        exif = Image.Exif()
        exif[0x0112] = orientation
        found = one_picture(load, root, Image.fromarray(pixels), "0.jpg", exif=exif, quality=95)
        assert np.abs(found.astype(int) - np.rot90(pixels, turned)).mean() < 12
        for wrong in {0, 1, 2, 3} - {turned}:
            assert np.abs(found.astype(int) - np.rot90(pixels, wrong)).mean() > 50

    @pytest.mark.parametrize("size", [(90, 30), (30, 90), (300, 100), (24, 9), (31, 97)])
    def test_the_centre_is_kept_and_the_shorter_side_fills_the_picture(self, load, root, size):
        """Ends of the long side are red and blue, the central square is green."""
        width, height = size
        pixels = np.zeros((height, width, 3), np.uint8)
        along = pixels if height > width else pixels.transpose(1, 0, 2)  # the long side first
        long, short = max(size), min(size)
        start = (long - short) // 2
        along[:start, :, 0] = 255
        along[start : start + short, :, 1] = 255
        along[start + short :, :, 2] = 255
        found = one_picture(load, root, Image.fromarray(pixels))
        assert found.shape == (32, 32, 3)
        assert found[3:-3, 3:-3, 1].min() > 250
        assert found[3:-3, 3:-3, [0, 2]].max() < 5

    def test_pictures_are_resized_not_cut(self, load, root):
        """Two colours stay half and half."""
        pixels = np.zeros((200, 200, 3), np.uint8)
        pixels[:, :100, 0] = 255
        pixels[:, 100:, 2] = 255
        found = one_picture(load, root, Image.fromarray(pixels), size=20)
        assert found.shape == (20, 20, 3)
        assert (found[:, :9] == [255, 0, 0]).all()
        assert (found[:, 11:] == [0, 0, 255]).all()

    @pytest.mark.parametrize("name", ["0.jpg", "0.png"])
    @pytest.mark.parametrize("zoom", [25, 5])
    def test_a_large_photograph_is_not_distorted(self, load, root, name, zoom):
        """Large JPEGs are decoded at a fraction of their size: the picture is that of the whole."""
        small = np.random.default_rng(0).integers(0, 256, (32, 48, 3)).astype(np.uint8)
        large = Image.fromarray(small).resize((48 * zoom, 32 * zoom), Image.Resampling.NEAREST)
        found = one_picture(load, root, large, name)
        centre = large.crop((8 * zoom, 0, 40 * zoom, 32 * zoom))
        expected = np.asarray(centre.resize((32, 32), Image.Resampling.BICUBIC))
        assert np.abs(found.astype(int) - expected).mean() < 12

    def test_pictures_of_the_right_size_stay_bit_by_bit(self, load, root):
        pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)
        np.testing.assert_array_equal(one_picture(load, root, Image.fromarray(pixels)), pixels)


class TestBadFolders:
    def test_a_missing_path(self, load, root):
        with pytest.raises((InputError, FileNotFoundError)):  # datasets.load answers for paths
            load(root)

    @pytest.mark.parametrize("inside", ["", "cat", "train"])
    def test_no_pictures(self, load, root, inside):
        (root / inside).mkdir(parents=True)
        (root / inside / "notes.txt").write_text("nothing to see")
        if inside == "train":
            (root / "test").mkdir()
        with pytest.raises(InputError, match=r"holds no pictures; expected at least two folders"):
            load(root)

    def test_pictures_without_class_folders(self, load, root):
        root.mkdir()
        Image.new("RGB", (9, 9)).save(root / "1.png")
        with pytest.raises(InputError, match="holds no pictures; expected at least two folders"):
            load(root)

    def test_one_class(self, load, root):
        fill(root, classes=("cat",))
        with pytest.raises(InputError, match=r"pictures of one class only \('cat'\)"):
            load(root)

    def test_parts_with_different_classes(self, load, root):
        fill(root / "train", classes=("cat", "dog"))
        fill(root / "test", classes=("cat", "owl"))
        with pytest.raises(InputError, match=r"Only in 'train': dog. Only in 'test': owl.") as caught:
            load(root)
        assert "Give both the same class folders" in str(caught.value)

    def test_a_class_without_test_pictures(self, load, root):
        fill(root / "train", classes=("cat", "dog", "owl"))
        fill(root / "val", classes=("cat", "dog"))
        (root / "val" / "owl").mkdir()
        with pytest.raises(InputError, match=r"'val' have different classes. Only in 'train': owl"):
            load(root)

    def test_train_alone(self, load, root):
        fill(root / "train")
        with pytest.raises(InputError, match=r"has 'train' but neither 'test' nor 'val'\. Add one"):
            load(root)

    def test_parts_without_train_are_not_taken_for_classes(self, load, root):
        fill(root / "test")
        fill(root / "val")
        with pytest.raises(InputError, match="has 'val' and 'test' but no 'train'"):
            load(root)

    @pytest.mark.parametrize("count", [1, 2])
    def test_too_few_pictures_to_split_name_the_class(self, load, root, count):
        fill(root, classes=("cat", "owl"), count=8)
        fill(root, classes=("dog",), count=count)
        with pytest.raises(InputError, match=r"too few pictures of 'dog': .*Add pictures"):
            load(root)

    def test_four_pictures_of_a_class_are_enough(self, load, root):
        fill(root, count=4)
        assert len(load(root, validation=0.9).train) == 2

    def test_size_out_of_range(self, load, root):
        fill(root)
        with pytest.raises(InputError, match="size must be at least 8 pixels, found 7"):
            load(root, size=7)

    def test_a_file_that_is_no_archive(self, load, tmp_path):
        picture = tmp_path / "cat.png"
        Image.new("RGB", (9, 9)).save(picture)
        with pytest.raises(InputError, match=r"is a file but not an archive of pictures \(.tar.gz"):
            load(picture)


class TestBadPictures:
    def test_all_offenders_are_listed(self, load, root):
        fill(root, count=6, size=(64, 64), suffix=".jpg")
        (root / "cat" / "0.jpg").write_text("This is not a picture.")
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
        Image.fromarray(noise).save(root / "cat" / "1.jpg")
        whole = (root / "cat" / "1.jpg").read_bytes()
        (root / "cat" / "1.jpg").write_bytes(whole[: len(whole) // 2])
        (root / "dog" / "2.jpg").write_bytes(b"")
        with pytest.raises(InputError, match="3 of 12 pictures cannot be read; remove or") as caught:
            load(root)
        for name in ("cat/0.jpg", "cat/1.jpg", "dog/2.jpg"):
            assert str(root / name) in str(caught.value)
        assert "truncated" in str(caught.value)
        assert "more" not in str(caught.value)

    def test_ten_are_named_and_the_rest_counted(self, load, root):
        fill(root, count=8)
        for number in range(8):
            (root / "cat" / f"{number}.png").write_bytes(b"junk")
        for number in range(6):
            (root / "dog" / f"{number}.png").write_bytes(b"junk")
        with pytest.raises(InputError, match="14 of 16 pictures") as caught:
            load(root)
        lines = str(caught.value).splitlines()
        assert len(lines) == 12
        assert lines[-1] == "  and 4 more"

    def test_a_link_to_nowhere(self, load, root):
        fill(root)
        (root / "cat" / "gone.png").symlink_to(root / "nowhere.png")
        with pytest.raises(InputError, match=r"gone\.png: FileNotFoundError"):
            load(root)

    def test_a_picture_too_large_to_be_one(self, load, root, monkeypatch):
        fill(root)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)  # 144 pixels are more than twice that
        with pytest.raises(InputError, match="DecompressionBombError"):
            load(root)

    @pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow comments on damage as it goes
    @pytest.mark.parametrize("suffix", [".jpg", ".png", ".gif", ".webp", ".tif", ".bmp", ".ppm"])
    def test_damage_of_any_kind_is_a_line_and_not_a_crash(self, tmp_path, suffix):
        noise = np.random.default_rng(0).integers(0, 256, (40, 30, 3)).astype(np.uint8)
        file = tmp_path / f"noise{suffix}"
        Image.fromarray(noise).save(file)
        whole, random = file.read_bytes(), np.random.default_rng(1)
        refused = 0
        for _ in range(150):
            damaged = bytearray(whole[: random.integers(len(whole) + 1)])
            for _ in range(random.integers(4)):
                if damaged:
                    damaged[random.integers(min(len(damaged), 200))] = random.integers(256)
            file.write_bytes(damaged)
            found = decoding.square(file, 16)
            if isinstance(found, str):
                refused += 1
                assert found.startswith(f"{file}: ")
            else:
                assert found.shape == (16, 16, 3)
        assert refused > 20
