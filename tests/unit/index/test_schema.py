"""What a collection records of itself, and where an index may be."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmvaluator.errors import InvalidInput, InvalidVector, MissingIndex, ProfileMismatch
from gmvaluator.index.location import Endpoint, open_access
from gmvaluator.index.qdrant import collection_parameters, search_parameters
from gmvaluator.index.schema import CollectionMetadata, IndexSettings, SearchSettings, code_bytes, require_profile
from gmvaluator.index.vectors import checked_vector
from gmvaluator.ports import CollectionInfo
from gmvaluator.testing.index import EXAMPLE_IDENTITY

METADATA = CollectionMetadata(
    EXAMPLE_IDENTITY,
    "pq-x32",
    IndexSettings(hnsw_m=24, replication_factor=2),
    SearchSettings(8.0, 512),
    {"recall_at_50": 0.99},
)


def info(metadata: dict[str, Any]) -> CollectionInfo:
    return CollectionInfo("works", 1, 1, True, metadata)


def test_other_codes_or_another_graph_forget_what_was_measured() -> None:
    assert METADATA.rebuilt("pq-x32", METADATA.settings) == METADATA
    for other in (METADATA.rebuilt("scalar", METADATA.settings), METADATA.rebuilt("pq-x32", IndexSettings())):
        assert (other.measured, other.search) == (None, SearchSettings())


def test_metadata_survives_the_collection() -> None:
    assert CollectionMetadata.from_dict("works", METADATA.as_dict()) == METADATA
    assert METADATA.as_dict()["profile_hash"] == EXAMPLE_IDENTITY.hash


def test_another_quantisation_is_refused() -> None:
    with pytest.raises(InvalidInput, match="pq-x16, pq-x32"):
        CollectionMetadata(EXAMPLE_IDENTITY, "pq-x4")


@pytest.mark.parametrize(
    ("name", "dimension", "expected"),
    [("pq-x16", 512, 128), ("pq-x32", 512, 64), ("pq-x64", 512, 32), ("scalar", 512, 512), ("turbo-2", 512, 128)],
)
def test_codes_are_as_much_smaller_as_the_name_says(name: str, dimension: int, expected: int) -> None:
    assert code_bytes(name, dimension) == expected


def test_the_same_profile_passes() -> None:
    require_profile(info(METADATA.as_dict()), replace(EXAMPLE_IDENTITY))


@pytest.mark.parametrize(
    ("change", "value"), [("weights", {"a": "0"}), ("precision", "bf16"), ("recall_dim", 65), ("name", "other")]
)
def test_a_profile_that_differs_in_anything_is_refused(change: str, value: Any) -> None:
    other = replace(EXAMPLE_IDENTITY, **{change: value})
    with pytest.raises(ProfileMismatch, match=f"'example'.*differs in {change}.*index the images again"):
        require_profile(info(METADATA.as_dict()), other)


@pytest.mark.parametrize("metadata", [{}, {"format": 3}, {"format": 2}])
def test_a_collection_of_other_data_is_refused(metadata: dict[str, Any]) -> None:
    with pytest.raises(MissingIndex, match="other data"):
        CollectionMetadata.from_dict("works", metadata)


def test_only_recall_is_quantised_and_only_recall_has_a_graph() -> None:
    vectors = collection_parameters(METADATA)["vectors_config"]
    assert vectors["recall"].quantization_config.product.compression.value == "x32"
    assert vectors["recall"].quantization_config.product.always_ram
    assert vectors["perceptual"].quantization_config is None
    assert (vectors["recall"].hnsw_config.m, vectors["perceptual"].hnsw_config.m) == (24, 0)
    assert vectors["recall"].on_disk
    assert vectors["perceptual"].on_disk


def test_search_is_rescored_unless_it_is_exact() -> None:
    rescored, exact = search_parameters(METADATA.search), search_parameters(METADATA.search, exact=True)
    assert rescored.quantization is not None
    assert (rescored.hnsw_ef, rescored.quantization.oversampling, rescored.quantization.rescore) == (512, 8.0, True)
    assert exact.quantization is not None
    assert exact.exact
    assert exact.quantization.ignore


@pytest.mark.parametrize(
    ("location", "target", "tls"),
    [
        ("http://qdrant", "qdrant:6334", False),
        ("http://qdrant:6333", "qdrant:6334", False),
        ("https://x.cloud.qdrant.io:6334/", "x.cloud.qdrant.io:6334", True),
        ("localhost:7000", "localhost:7000", False),
        ("http://[::1]:6334", "[::1]:6334", False),
    ],
)
def test_an_address_is_a_server(location: str, target: str, tls: bool) -> None:
    endpoint = open_access(location, "secret").endpoint
    assert (endpoint.target, endpoint.tls, endpoint.api_key) == (target, tls, "secret")
    assert "secret" not in repr(endpoint)


@pytest.mark.parametrize("location", ["ftp://qdrant", "http://", "http://qdrant:99999", "http://qdrant/path"])
def test_another_address_is_refused(location: str) -> None:
    with pytest.raises(InvalidInput, match="http://HOST:PORT"):
        open_access(location)


def test_a_server_comes_back_where_it_was() -> None:
    access = open_access("http://qdrant")
    assert access.renew(access.endpoint) == Endpoint("qdrant", 6334, False, None)


vectors = st.lists(st.floats(-1, 1, width=32), min_size=8, max_size=8).map(lambda parts: np.array(parts, np.float32))


@given(vectors.filter(lambda vector: float(np.linalg.norm(vector)) > 0.01))
def test_unit_vectors_pass_unchanged(vector: np.ndarray[Any, np.dtype[np.float32]]) -> None:
    unit = vector / np.linalg.norm(vector)
    assert np.array_equal(checked_vector(unit, 8, "it"), unit)
    with pytest.raises(InvalidVector, match=r"it has shape"):
        checked_vector(unit, 9, "it")
    with pytest.raises(InvalidVector, match=r"it has norm 1\.5"):
        checked_vector(unit * np.float32(1.5), 8, "it")


@given(vectors, st.integers(0, 7), st.sampled_from([np.nan, np.inf, -np.inf]))
def test_no_vector_passes_that_is_not_finite(
    vector: np.ndarray[Any, np.dtype[np.float32]], place: int, value: float
) -> None:
    vector[place] = value
    with pytest.raises(InvalidVector, match="finite"):
        checked_vector(vector, 8, "it")
