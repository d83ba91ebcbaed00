# shellcheck shell=bash
# What every script here becomes: `python -m anprompt ...` of this checkout, from any folder, with the same process id.
# PYTHON: interpreter. The rest of the environment is described in anprompt/protocols/scripts.py.
checkout="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
export PYTHON="${PYTHON:-$(command -v python || command -v python3 || echo python)}"
exec "$PYTHON" "$checkout/anprompt" "$1" --typed "bash $0" "${@:2}"
