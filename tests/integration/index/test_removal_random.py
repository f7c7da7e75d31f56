"""Whatever is indexed and removed in whatever order: what was removed once is never found again, and rows add up."""

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gmvaluator.catalogue.removal import Selection
from gmvaluator.catalogue.store import Catalogue, open_catalogue
from gmvaluator.ids import sha256_hex, training_image_id
from gmvaluator.ports import VectorStore
from gmvaluator.testing.index import MemoryIndex, MemoryStore
from gmvaluator.testing.models import FAKE_IDENTITY, FakeModels
from indexer.pipeline import Indexer
from indexer.removal import Remover
from indexer.report import Counts, Report
from indexer.sources.opening import open_source
from tests.support.indexing import RecordingLog

KEYS, COLOURS = 4, 4
FILES = st.dictionaries(st.integers(0, KEYS - 1), st.integers(0, COLOURS - 1), min_size=1)
"""Key to colour; the same colour is the same bytes."""

STEPS = st.lists(
    st.one_of(
        FILES,
        st.tuples(st.just("key"), st.integers(0, KEYS - 1)),
        st.tuples(st.just("hash"), st.integers(0, COLOURS - 1)),
    ),
    max_size=8,
)


class Indexed:
    """An index, and a plain account of what has to be in it."""

    def __init__(self, root: Path, catalogue: Catalogue) -> None:
        self.root, self.catalogue = root, catalogue
        self.store = MemoryStore(MemoryIndex())
        self.store.create(FAKE_IDENTITY)
        self.pictures = [self._picture(colour) for colour in range(COLOURS)]
        self.places: dict[int, set[int]] = {}
        self.removed_keys: set[int] = set()
        self.removed_colours: set[int] = set()

    def _picture(self, colour: int) -> bytes:
        path = self.root / f"colour-{colour}.png"
        Image.new("RGB", (4, 4), (colour * 60, 10, 10)).save(path)
        return path.read_bytes()

    def add(self, files: Mapping[int, int]) -> None:
        counts = self._index(files, self.root / "source")
        out = {key for key, colour in files.items() if key in self.removed_keys or colour in self.removed_colours}
        assert (counts.removed, counts.read, counts.reconciles) == (len(out), len(files), True)
        for key in files.keys() - out:
            self.places.setdefault(files[key], set()).add(key)

    def _index(self, files: Mapping[int, int], source: Path) -> Counts:
        shutil.rmtree(source, ignore_errors=True)
        source.mkdir()
        for key, colour in files.items():
            (source / f"{key}.png").write_bytes(self.pictures[colour])
        report = Report()
        indexer = Indexer(FakeModels(), self.store, self.catalogue, self.root / "thumbnails", "set")
        for shard in open_source(str(source)).shards:
            indexer.run(shard, 0, RecordingLog(), report.add)
        return report.counts

    def remove(self, by: str, value: int) -> None:
        if by == "key":
            gone = {colour for colour, keys in self.places.items() if value in keys}
            selection = Selection(keys=frozenset({f"{value}.png"}))
        else:
            gone, selection = {value}, Selection(sha256s=frozenset({sha256_hex(self.pictures[value])}))
        remover = Remover(self.catalogue, self._open, ["works"], self.root / "thumbnails")
        remover.run(self.catalogue.removals(selection).works, "removed")
        self.removed_colours |= gone
        if by == "key" and gone:
            self.removed_keys.add(value)
        for colour in gone:
            self.places.pop(colour, None)

    @contextmanager
    def _open(self, _name: str) -> Iterator[VectorStore]:
        yield self.store

    def check(self) -> None:
        stored = {point.training_image_id for point in self.store.scan()}
        assert stored == {training_image_id(sha256_hex(self.pictures[colour])) for colour in self.places}
        assert len(list((self.root / "thumbnails").rglob("*.webp"))) == len(self.places)


@settings(max_examples=25, deadline=None)
@given(steps=STEPS)
def test_nothing_comes_back_in_any_order(steps: Sequence[dict[int, int] | tuple[str, int]]) -> None:
    with tempfile.TemporaryDirectory() as name, open_catalogue(Path(name) / "data", write=True) as catalogue:
        indexed = Indexed(Path(name), catalogue)
        for step in steps:
            if isinstance(step, dict):
                indexed.add(step)
            else:
                indexed.remove(*step)
            indexed.check()
