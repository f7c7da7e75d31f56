"""One model in a process of its own, which computes a batch whenever it is told to.

`python -m evaluation.bench.model_turns NAME plain|PRECISION THREADS`. A line {"batch": B} on stdin is answered by
{"seconds": ...} on stdout; {"vectors": B} by what the model makes of B images. The first answer, unasked, tells the
time of the first call; the end of stdin is answered by the peak of this process's memory.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from typing import Any

from gmvaluator.models.process_setup import prepare_process


def main() -> None:
    """See the module."""
    name, kind, threads = sys.argv[1:]
    prepare_process()
    import torch

    from evaluation.bench.model_cases import images, plain, product

    torch.set_num_threads(int(threads))
    channel = _own_stdout()
    with torch.inference_mode():
        model = plain(name) if kind == "plain" else product(name, kind)
        pictures = images(32)
        started = time.perf_counter()
        model(pictures[:1])
        _say(channel, {"first_call_ms": (time.perf_counter() - started) * 1000})
        for line in sys.stdin:
            ask = json.loads(line)
            if "vectors" in ask:
                _say(channel, {"vectors": model(pictures[: ask["vectors"]]).tolist()})
                continue
            started = time.perf_counter()
            model(pictures[: ask["batch"]])
            _say(channel, {"seconds": time.perf_counter() - started})
    _say(channel, {"peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024})


def _own_stdout() -> Any:
    """stdout for answers alone: packages print to it when they load."""
    channel, sys.stdout = sys.stdout, sys.stderr
    return channel


def _say(channel: Any, value: dict[str, Any]) -> None:
    channel.write(json.dumps(value) + "\n")
    channel.flush()


if __name__ == "__main__":
    main()
