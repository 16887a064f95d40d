"""Packaging: five packages, each below the folder its part of the house lives in.

The bare install is the client and the generated stubs; what the server, a GPU, training and
development need on top stands in the extras. Ranges say what the code runs on; the versions
that the tests ran with are pinned in constraints.txt.
"""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

ROOTS = {
    "memoserve": "server",
    "memoserve_kernels": "kernels",
    "memoserve_proto": "protos",
    "memoserve_client": "clients/python",
    "memoserve_training": "training",
}

CLIENT = [
    "grpcio>=1.85.1,<2",
    "grpcio-health-checking>=1.85.1,<2",
    "grpcio-status>=1.85.1,<2",
    "protobuf>=7.35.1,<8",
    "googleapis-common-protos>=1.70,<2",
]

SERVER = [
    "torch>=2.11,<3",
    "numpy>=1.26,<3",
    "transformers>=5.0,<6",
    "huggingface-hub>=1.0,<3",
    "tokenizers>=0.22,<1",
    "safetensors>=0.6,<1",
    "jinja2>=3.1,<4",
    "faiss-cpu>=1.12,<2",
    "semantic-text-splitter>=0.28,<1",
    "prometheus-client>=0.22,<1",
    "grpcio-reflection>=1.85,<2",
    "grpcio-channelz>=1.85,<2",
    "tqdm>=4.66,<5",
]

# The Triton that a CUDA build of torch brings is the right one; this only names the floor.
GPU = ["triton>=3.6,<4"]

# Training stands on the server's models and tokenizers.
TRAIN = SERVER

DEV = [
    "setuptools>=77.0.3",
    "grpcio-tools>=1.85,<2",
    "buf-bin>=1.50",
    "ruff>=0.12",
    "mypy>=1.18",
    "types-grpcio>=1.82",
    "types-protobuf>=6.30",
    "types-tqdm>=4.66",
    "import-linter>=2.5",
    "pytest>=8.4",
    "pytest-asyncio>=1.1",
    "pytest-timeout>=2.4",
    "hypothesis>=6.130",
    "packaging>=25",
]


def version() -> str:
    """Read ``memoserve.__version__`` from its source: one place, and nothing imported."""
    source = (HERE / "server/memoserve/__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "([^"]+)"$', source, re.MULTILINE)
    if found is None:
        raise RuntimeError("server/memoserve/__init__.py names no __version__")
    return found[1]


def packages() -> list[str]:
    """Every package below its root, and nothing else that lies there."""
    return [
        package
        for name, root in ROOTS.items()
        for package in find_packages(str(HERE / root), include=[name, f"{name}.*"])
    ]


setup(
    name="memoserve",
    version=version(),
    description="Named, versioned, persistent compressed memories of long texts, over gRPC",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE", "NOTICE"],
    python_requires=">=3.11,<3.14",
    packages=packages(),
    package_dir={name: f"{root}/{name}" for name, root in ROOTS.items()},
    package_data={"": ["py.typed", "*.pyi"], "memoserve": ["assets/**/*"]},
    include_package_data=False,
    zip_safe=False,
    install_requires=CLIENT,
    extras_require={"server": SERVER, "gpu": GPU, "train": TRAIN, "dev": DEV},
    entry_points={"console_scripts": ["memoserve = memoserve.cli:main"]},
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Typing :: Typed",
    ],
)
