#!/bin/sh
# Print the Python that `make install` builds .venv with: the first that runs, is 3.11 to 3.13
# and can make virtual environments. Says on stderr what is missing when there is none.
#
#   tools/find_python.sh [CANDIDATE...]

set -u

if [ "$#" -eq 0 ]; then
    set -- python3.11 python3.12 python3.13 python3 python
fi

probe='
import sys
if not (3, 11) <= sys.version_info[:2] <= (3, 13):
    sys.exit("is Python %d.%d" % sys.version_info[:2])
try:
    import ensurepip, venv
except ImportError:
    sys.exit("has no venv module (on Debian and Ubuntu: apt install python%d.%d-venv)"
             % sys.version_info[:2])
print(sys.executable)
'

tried=""
for candidate in "$@"; do
    # A name on PATH may be a shim of a version that is not installed: only running it tells.
    if found=$("$candidate" -c "$probe" 2>&1); then
        printf '%s\n' "$found"
        exit 0
    fi
    reason=$(printf '%s\n' "$found" | sed -n '/./{p;q;}')
    command -v "$candidate" >/dev/null 2>&1 || reason="not found"
    tried="$tried
    $candidate: $reason"
done

cat >&2 <<END
memoserve needs Python 3.11, 3.12 or 3.13 with its venv module. Tried:$tried
Install one (Debian and Ubuntu: apt install python3 python3-venv; macOS: brew install python@3.12),
or name one: make PYTHON=/path/to/python3.12 ...
END
exit 1
