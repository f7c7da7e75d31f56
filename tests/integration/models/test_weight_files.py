"""Weight files are recorded once and loaded only as recorded; errors name the file and its fault."""

import json
import pickle
from pathlib import Path

import pytest
import torch

from gmvaluator.errors import MissingWeights, Unavailable
from gmvaluator.models.checkpoints import fill_exactly, read_plain
from gmvaluator.models.specs import WeightFile
from gmvaluator.models.weight_files import RECORD_FILE, ModelsFolder, fetch, file_sha256

FILE = WeightFile("recall", "clip/weights.pt", "url", "https://127.0.0.1:9/weights.pt", "MIT", 1)


class Code:
    """Would make a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.mkdir, (self.path,)  # type: ignore[return-value]


@pytest.fixture
def folder(tmp_path: Path) -> ModelsFolder:
    return ModelsFolder(tmp_path)


def put(folder: ModelsFolder, data: bytes = b"weights") -> Path:
    path = folder.path(FILE)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return path


def test_a_file_that_is_there_is_recorded_without_a_network(folder: ModelsFolder) -> None:
    path = put(folder)
    assert not fetch(FILE, folder)
    assert folder.recorded_sha256(FILE) == file_sha256(path)
    assert folder.verified(FILE, file_sha256(path)) == path
    entry = json.loads((folder.root / RECORD_FILE).read_text())["files"][FILE.path]
    assert entry["bytes"] == 7
    assert entry["origin"] == FILE.origin


def test_a_file_that_cannot_be_fetched_says_where_to_put_it(folder: ModelsFolder) -> None:
    with pytest.raises(Unavailable, match=r"recall could not be fetched.*put the file at .*weights\.pt"):
        fetch(FILE, folder)
    assert not folder.path(FILE).exists()


def test_an_absent_and_an_unrecorded_file_are_refused(folder: ModelsFolder) -> None:
    with pytest.raises(MissingWeights, match=r"do not exist.*models fetch"):
        folder.recorded_sha256(FILE)
    put(folder)
    with pytest.raises(MissingWeights, match=r"not in the record.*models fetch"):
        folder.recorded_sha256(FILE)


def test_other_bytes_than_recorded_are_refused_and_never_recorded_over(folder: ModelsFolder) -> None:
    put(folder)
    fetch(FILE, folder)
    recorded = folder.recorded_sha256(FILE)
    put(folder, b"others")
    with pytest.raises(MissingWeights, match=f"not the recorded {recorded}"):
        folder.verified(FILE, recorded)
    with pytest.raises(MissingWeights, match=f"expected {recorded}"):
        fetch(FILE, folder)


def test_what_the_publisher_names_is_checked_at_the_first_fetch(folder: ModelsFolder) -> None:
    put(folder)
    named = WeightFile(FILE.role, FILE.path, FILE.fetcher, FILE.origin, FILE.licence, 1, sha256="0123abcd")
    with pytest.raises(MissingWeights, match="expected 0123abcd"):
        fetch(named, folder)
    assert folder.known_sha256(named) == "0123abcd"


def test_a_damaged_record_is_not_taken_for_an_empty_one(folder: ModelsFolder) -> None:
    put(folder)
    (folder.root / RECORD_FILE).write_text("{")
    with pytest.raises(MissingWeights, match="record"):
        folder.recorded_sha256(FILE)


def test_an_operator_s_own_file_needs_no_record(tmp_path: Path) -> None:
    path = tmp_path / "own.pt"
    path.write_bytes(b"weights")
    own = WeightFile("recall", str(path), "local", str(path), "mine", 0)
    assert ModelsFolder(tmp_path / "other").recorded_sha256(own) == file_sha256(path)
    path.unlink()
    with pytest.raises(MissingWeights, match="checkpoint that exists"):
        ModelsFolder(tmp_path / "other").recorded_sha256(own)


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    made = tmp_path / "made"
    for name, write in (("new.pt", torch.save), ("old.pth.tar", _plain_pickle)):
        path = tmp_path / name
        write({"state_dict": Code(made)}, path)
        with pytest.raises(MissingWeights, match="hold more than tensors: nothing of them was loaded"):
            read_plain(path)
    assert not made.exists()


def _plain_pickle(value: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(value, protocol=2))


@pytest.mark.parametrize("name", ["short.pt", "short.safetensors"])
def test_a_damaged_file_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"PK\x03\x04 and then nothing")
    with pytest.raises(MissingWeights, match="are damaged"):
        read_plain(path)


def test_another_architecture_is_named_by_both_shapes() -> None:
    layer = torch.nn.Linear(3, 2)
    with pytest.raises(MissingWeights, match=r"weight has shape \(2, 4\) there, and has shape \(2, 3\) in Linear"):
        fill_exactly(layer, torch.nn.Linear(4, 2).state_dict(), Path("x"))
    with pytest.raises(MissingWeights, match="bias is absent"):
        fill_exactly(layer, {"weight": layer.weight}, Path("x"))
    with pytest.raises(MissingWeights, match="has no extra"):
        fill_exactly(layer, {**layer.state_dict(), "extra": layer.bias}, Path("x"))
