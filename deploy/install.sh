#!/bin/sh
# Install a wheel of gmvaluator and what it needs into the virtual environment on the PATH; the Dockerfile runs it.
# usage: install.sh WHEEL CONSTRAINTS [EXTRAS], torch being there already
set -eu
wheel=$1 constraints=$2 extras=${3:-}
# Nothing is compiled: dreamsim and openai-clip are published as sources only, but hold Python alone.
pip install --no-cache-dir --only-binary :all: --no-binary dreamsim,openai-clip --constraint "$constraints" \
    "$wheel${extras:+[$extras]}"

# pyiqa and facexlib bring both builds of OpenCV, which share one folder: removing either breaks the other. So both go, and the
# one that needs no display comes back.
pip uninstall --yes --quiet opencv-python opencv-python-headless
pip install --no-cache-dir --only-binary :all: --no-deps --constraint "$constraints" opencv-python-headless
python - <<'PY'
from importlib.metadata import distributions

import cv2

found = sorted({one.name.lower() for one in distributions() if one.name.lower().startswith("opencv")})
if found != ["opencv-python-headless"]:
    raise SystemExit(f"one build of OpenCV is wanted, found {found}")
print(f"OpenCV {cv2.__version__}, headless, alone")
PY

# Compiled now: the root file system is read-only later. Files that are no Python of this version (templates) are left, and make
# the command fail. Nothing is installed into an image that runs.
python -m compileall -q "$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" || true
pip uninstall --yes --quiet pip
