"""Where models run: names of devices, and several at once. GPUs are played by fakes."""

import threading
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from gmvaluator.errors import ModelFailed, PreconditionFailed
from gmvaluator.models import device as runtime
from gmvaluator.models import multi_device
from gmvaluator.models.device import Runtime, device_names, usable_device
from gmvaluator.models.multi_device import MultiDeviceModels, load_on_every_device
from gmvaluator.ports import Models, Prepared, WorkEmbeddings
from gmvaluator.profile import ProfileIdentity
from gmvaluator.testing.models import FAKE_IDENTITY, FakeModels


def gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


def images(count: int) -> list[Image.Image]:
    return [Image.new("RGB", (16, 16), (number * 9, 255 - number * 7, 40)) for number in range(count)]


@pytest.mark.parametrize("name", ["abacus", "cuda:", "cuda:x", "cuda:0;", "CPU", "", "cpu:1"])
def test_an_unknown_name_lists_the_known(name: str) -> None:
    with pytest.raises(PreconditionFailed, match="auto, cpu, cuda, cuda:N or mps"):
        usable_device(name)


def test_auto_without_a_gpu_is_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert usable_device("auto") == torch.device("cpu")
    assert device_names("auto") == ["auto"]


def test_auto_prefers_cuda_then_mps(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 1)
    assert runtime.best_device() == "cuda"
    gpus(monkeypatch, 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert runtime.best_device() == "mps"


def test_a_device_that_is_not_there_is_refused_with_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PreconditionFailed, match="use cpu"):
        usable_device("cuda:7")


def test_a_device_without_int8_is_refused_with_a_way_out() -> None:
    assert Runtime(torch.device("cpu"), "int8").precision == "int8"
    with pytest.raises(PreconditionFailed, match="--precision bf16"):
        Runtime(torch.device("cuda:1"), "int8")


def test_auto_takes_every_gpu_and_a_name_takes_one(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 3)
    loaded: list[str] = []

    def load(profile: str, device: str, threads: int | None) -> Models:
        loaded.append(device)
        return FakeModels()

    monkeypatch.setattr(multi_device, "load_models", load)
    load_on_every_device("lite", "auto")
    assert sorted(loaded) == ["cuda:0", "cuda:1", "cuda:2"]
    loaded.clear()
    load_on_every_device("lite", "cuda:1")
    assert loaded == ["cuda:1"]


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8])
def test_rows_come_back_in_order_from_any_number_of_devices(count: int) -> None:
    single, several = FakeModels(), MultiDeviceModels([FakeModels, FakeModels, FakeModels])
    inputs = [single.prepare(image) for image in images(count)]
    alone, together = single.embed(inputs), several.embed(inputs)
    np.testing.assert_array_equal(together.recall, alone.recall)
    np.testing.assert_array_equal(together.perceptual, alone.perceptual)
    assert together.quality is not None
    np.testing.assert_array_equal(together.quality, single.quality(inputs))
    np.testing.assert_array_equal(several.quality(inputs), single.quality(inputs))
    assert several.quality_slice(inputs) == single.quality_slice(inputs)
    works = [several.prepare_work(image) for image in images(count)]
    np.testing.assert_array_equal(several.embed_works(works).perceptual, single.embed_works(works).perceptual)
    several.close()


def test_each_device_s_models_have_one_thread_and_devices_work_at_once() -> None:
    both = threading.Barrier(2, timeout=10)
    threads: list[set[str]] = [set(), set()]

    class Meeting(FakeModels):
        def __init__(self, number: int) -> None:
            super().__init__()
            self.number = number
            threads[number].add(threading.current_thread().name)

        def embed_works(self, inputs: Sequence[Sequence[Prepared]]) -> WorkEmbeddings:
            threads[self.number].add(threading.current_thread().name)
            both.wait()  # passes only if the other device is at work too
            return super().embed_works(inputs)

    models = MultiDeviceModels([lambda: Meeting(0), lambda: Meeting(1)])
    models.embed_works([models.prepare_work(image) for image in images(4)])
    models.close()
    assert [len(names) for names in threads] == [1, 1]
    assert threads[0] != threads[1]


def test_one_device_s_failure_is_everybody_s() -> None:
    def refuse(inputs: object) -> None:
        raise ModelFailed("row 1 of the batch gave a recall that is not finite")

    models = MultiDeviceModels([FakeModels, lambda: FakeModels(on_batch=refuse)])
    with pytest.raises(ModelFailed, match="row 1"):
        models.embed([models.prepare(image) for image in images(4)])
    models.close()


def test_models_that_cannot_be_loaded_leave_no_thread() -> None:
    def fail() -> Models:
        raise PreconditionFailed("no weights")

    before = set(threading.enumerate())
    with pytest.raises(PreconditionFailed, match="no weights"):
        MultiDeviceModels([FakeModels, fail])
    assert set(threading.enumerate()) <= before


def test_devices_with_different_models_are_refused() -> None:
    class Other(FakeModels):
        @property
        def identity(self) -> ProfileIdentity:
            return replace(FAKE_IDENTITY, precision="bf16")

    with pytest.raises(ModelFailed, match="different profiles"):
        MultiDeviceModels([FakeModels, Other])
