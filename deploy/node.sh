#!/usr/bin/env bash
# Makes a machine of a cluster ready: this checkout, installed into ~/venv with the versions that its tests ran with,
# and the settings that every session on the machine sees. Run again it changes nothing.
#
# usage: node.sh NAME=VALUE...
set -euo pipefail
checkout=$(cd "$(dirname "$0")/.." && pwd)
export PATH="$HOME/venv/bin:$HOME/.local/bin:$PATH"

# uv brings the Python that the versions are pinned for, whatever the machine's own is.
command -v uv >/dev/null || PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --quiet --user uv
[ -x ~/venv/bin/python ] || uv venv --quiet --python 3.11 ~/venv
uv pip install --quiet --python ~/venv --constraint "$checkout/constraints.txt" --editable "$checkout[cluster]"

mkdir -p -m 700 ~/.bottleneck
# `ray job stop` kills after 3 s, or as long as it is told: running trials save their state first.
printf 'export %q\n' "$@" RAY_AUTH_MODE=token RAY_ADDRESS=auto RAY_API_SERVER_ADDRESS=http://127.0.0.1:8265 \
    RAY_JOB_STOP_WAIT_TIME_S=60 >~/.bottleneck/node.env
# First in the file: many end there when no terminal is attached.
line='export PATH="$HOME/venv/bin:$HOME/.local/bin:$PATH"; for f in ~/.bottleneck/*.env; do . "$f"; done'
touch ~/.bashrc
grep -qxF "$line" ~/.bashrc || { echo "$line" | cat - ~/.bashrc >~/.bashrc.new && mv ~/.bashrc.new ~/.bashrc; }
