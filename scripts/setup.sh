#!/bin/sh
# Create a virtual environment and install requirements.txt, or something else, into it.
# Usage: sh scripts/setup.sh [FOLDER] ["-e .[ray]"]
# uv installs the same wheels as pip about ten times faster; where it is missing or fails, pip does the work.
set -euf
venv=${1:-.venv}
what=${2:--r requirements.txt}

find_python() {
    for name in "${AMVI_PYTHON:-}" python3.12 python3.13 python3.11 python3.14 python3 python; do
        [ -n "$name" ] && command -v "$name" >/dev/null 2>&1 || continue
        if "$name" -c 'import sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' >/dev/null 2>&1; then
            command -v "$name"
            return
        fi
    done
    echo "setup: need Python 3.11 to 3.14 with venv; found none on PATH (set AMVI_PYTHON=/path/to/python)" >&2
    exit 1
}

if [ ! -x "$venv/bin/python" ]; then
    python=$(find_python)
    echo "setup: creating $venv with $("$python" --version)"
    "$python" -m venv "$venv"
fi

# A machine may trust more certificates than those bundled with uv.
if [ -z "${SSL_CERT_FILE:-}" ] && [ -f /etc/ssl/certs/ca-certificates.crt ]; then
    export SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
fi
if "$venv/bin/python" -m pip install --quiet --disable-pip-version-check uv 2>/dev/null \
    && "$venv/bin/python" -m uv pip install --quiet --python "$venv/bin/python" $what; then
    echo "setup: installed with uv"
else
    echo "setup: uv could not install them; pip will (several minutes)"
    "$venv/bin/python" -m pip install --disable-pip-version-check $what
fi
