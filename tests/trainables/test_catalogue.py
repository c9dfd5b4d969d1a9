import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from trainables.catalogue import CATALOGUE, FILES_LOOKED_AT, data_root, options_of
from trainables.components import DataError, known, prepare
from trainables.spec import Source

ON_DISK = [name for name, dataset in CATALOGUE.items() if dataset.folders and name != "image_folder"]


def source(dataset, **options):
    return Source(dataset=dataset, options=json.dumps(options))


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    """An empty cache and an empty folder of datasets."""
    monkeypatch.setenv("BOTTLENECK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("BOTTLENECK_DATA", str(tmp_path / "data"))
    (tmp_path / "data").mkdir()


# Names and options ----------------------------------------------------------------------------------


def test_an_unknown_dataset_is_an_error_with_the_known_ones_and_the_nearest():
    with pytest.raises(ValueError, match=r"unknown dataset 'fashion-mnist'; did you mean 'fashion_mnist'\?") as error:
        known(Source(dataset="fashion-mnist"))
    assert all(name in str(error.value) for name in CATALOGUE)
    with pytest.raises(ValueError, match="unknown dataset 'zzz'; known are digits"):
        known(Source(dataset="zzz"))


@pytest.mark.parametrize("name", ["python:", "python:module", "python:a-b:c", "python:a:b:c", "python:a..b:c"])
def test_a_malformed_name_of_code_is_an_error(name):
    with pytest.raises(ValueError, match="names no code; write python:module:attribute"):
        known(Source(dataset=name))


@pytest.mark.parametrize(
    ("dataset", "options", "message"),
    [
        ("mnist", {"rot": "x"}, "'mnist' has no option 'rot'; did you mean 'root'?; it has root"),
        ("digits", {"root": "x"}, "'digits' has no option 'root'; it has none"),
        ("emnist", {"split": "greek"}, 'option \'split\' is "greek"; it is one of "balanced", "letters"'),
        ("dominoes", {"noise_left": -1}, "option 'noise_left' is -1; it is a number from 0 to 10"),
        ("dominoes", {"noise_left": "much"}, "option 'noise_left' is \"much\"; it is a number"),
        ("dominoes", {"correlation": None}, "option 'correlation' is null; it is a number from 0 to 1"),
        ("dominoes", {"mark": 2}, "option 'mark' is 2; it is a number from -1 to 1"),
        ("dominoes", {"left_classes": 4}, "option 'left_classes' is 4; it is text that lists classes, such as"),
        ("dominoes", {"left_classes": "4-"}, "option 'left_classes' is \"4-\"; it is text that lists classes"),
        ("colored", {"classes": "none"}, 'option \'classes\' is "none"; it is one of "binary", "all"'),
        ("colored", {"base": "minst"}, "unknown dataset 'minst'; did you mean 'mnist'?"),
        ("competing_features", {"q": 1.5}, "option 'q' is 1.5; it is a number from 0 to 1"),
        ("competing_features", {"q": True}, "option 'q' is true; it is a number"),
        ("competing_features", {"private": 1}, "option 'private' is 1; it is one of true, false"),
        ("cifar100", {"coarse": "yes"}, "option 'coarse' is \"yes\"; it is one of true, false"),
        ("mnist", {"root": 3}, "option 'root' is 3; it is text"),
        ("image_folder", {}, "'image_folder' needs the option 'root': folder with the pictures"),
        ("dominoes", {"left": "digit"}, "unknown dataset 'digit'; did you mean 'digits'?"),
    ],
)
def test_an_impossible_option_is_an_error_that_says_what_is_possible(dataset, options, message):
    with pytest.raises(ValueError, match=re.escape(message).replace(re.escape("?;"), r"\?;")):
        known(source(dataset, **options))


def test_options_that_are_no_names_with_values_are_an_error():
    with pytest.raises(ValueError, match="they are names with values"):
        options_of(Source(dataset="digits", options="[1]"))


def test_options_have_defaults():
    assert options_of(source("dominoes", noise_right=0)) == {
        "left": "digits",
        "right": "digits",
        "informative": "both",
        "noise_left": 0.0,
        "noise_right": 0,
        "correlation": 1.0,
        "left_classes": None,
        "right_classes": None,
        "stacked": False,
        "mark": None,
    }
    assert options_of(source("colored")) == {
        "base": "mnist",
        "classes": "binary",
        "label_noise": 0.25,
        "correlation": 0.9,
    }


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_default_option_is_a_possible_one(name):
    for option in (CATALOGUE[name].options or {}).values():
        assert option.required or option.problem(option.default) is None
        assert option.meaning


# Missing data ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ON_DISK)
def test_missing_data_is_an_error_that_names_the_folder_and_the_remedy(name):
    for ask in (known, prepare):
        with pytest.raises(DataError) as error:
            ask(Source(dataset=name))
        message = str(error.value)
        assert f"{name}: no " in message
        assert f"BOTTLENECK_DATA is {data_root()}" in message
        assert "torchvision" in message or "check.py" in message
        assert "{" not in message
        assert "\n" not in message


def test_the_remedy_is_a_command_for_the_folder_that_was_looked_in():
    with pytest.raises(DataError, match=re.escape(f"MNIST('{data_root()}', download=True)")):
        known(Source(dataset="mnist"))


@pytest.mark.parametrize("dataset", [source("kmnist"), source("kmnist", root="japan")])
def test_without_a_data_folder_the_error_says_what_to_set(dataset, monkeypatch):
    monkeypatch.delenv("BOTTLENECK_DATA")
    message = "kmnist: BOTTLENECK_DATA is not set; set it to the folder that holds KMNIST/raw/train-images"
    with pytest.raises(DataError, match=message):
        known(dataset)


def test_the_first_missing_file_is_named_and_the_others_are_looked_for_beside_it(tmp_path):
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "train-images-idx3-ubyte").write_bytes(b"")
    with pytest.raises(DataError, match=f"mnist: no MNIST/raw/train-labels-idx1-ubyte in {tmp_path}/data "):
        known(Source(dataset="mnist"))


@pytest.mark.parametrize("folder", ["", "USPS"])
def test_files_are_found_in_each_folder_where_they_are_wont_to_lie(tmp_path, folder):
    place = tmp_path / "data" / folder
    place.mkdir(exist_ok=True)
    for name in CATALOGUE["usps"].files:
        (place / name).write_bytes(b"")
    assert known(Source(dataset="usps")) is None


@pytest.mark.parametrize("absolute", [True, False])
def test_the_option_root_replaces_the_data_folder(tmp_path, absolute):
    (tmp_path / "data" / "elsewhere").mkdir()
    (tmp_path / "data" / "elsewhere" / "semeion.data").write_bytes(b"")
    root = str(tmp_path / "data" / "elsewhere") if absolute else "elsewhere"
    assert known(source("semeion", root=root)) is None


def test_data_that_constructed_images_need_is_missing_too():
    with pytest.raises(DataError, match=r"svhn: no train_32x32.mat"):
        known(source("dominoes", right="svhn"))
    with pytest.raises(DataError, match="mnist: no MNIST/raw/train-images-idx3-ubyte"):
        known(source("colored"))


def test_a_missing_picture_folder_is_named(tmp_path):
    with pytest.raises(DataError, match=f"image_folder: no such folder in {tmp_path}/data/cats"):
        known(source("image_folder", root="cats"))


# Fingerprints ---------------------------------------------------------------------------------------


def test_many_pictures_are_known_by_their_folders(tmp_path, monkeypatch):
    from PIL import Image

    monkeypatch.setattr("trainables.catalogue.FILES_LOOKED_AT", 5)
    assert FILES_LOOKED_AT > 5
    for part in ("train", "test"):
        for label in "ab":
            (tmp_path / part / label).mkdir(parents=True)
            for i in range(3):
                Image.new("L", (4, 4), i).save(tmp_path / part / label / f"{i}.png")
    pictures = source("image_folder", root=str(tmp_path))
    before = prepare(pictures)
    assert known(pictures) == before
    Image.new("L", (4, 4), 99).save(tmp_path / "train" / "b" / "3.png")
    assert known(pictures) is None
    assert prepare(pictures).num_train == before.num_train + 1


def test_code_is_found_without_being_run(tmp_path):
    package = tmp_path / "quiet_package"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('executed')")
    (package / "part.py").write_text("raise RuntimeError('executed')")
    code = (
        "from trainables.components import known; from trainables.spec import Source\n"
        "print(known(Source(dataset='python:quiet_package.part:data')))"
    )
    path = f"{Path(__file__).parents[2]}:{tmp_path}"
    run = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": path}, capture_output=True, text=True)
    assert run.stdout.strip() == "None", run.stderr
