"""Stage ``ceilings``: what the device reaches with no work of ours: a copy and a product."""

from __future__ import annotations

from itertools import chain

import torch

from benchmarks.gpu.bench import Bench, Section
from benchmarks.gpu.floors import Ceilings
from benchmarks.gpu.machine import Machine
from benchmarks.gpu.rows import read_rows
from benchmarks.gpu.sizes import Sizes

COPY, PRODUCT = "copy", "product bf16"
RANDOM = "random data"


def copy_rate(machine: Machine, num_bytes: int, zeros: bool) -> float:
    """Bytes read and written a second by a device-to-device copy."""
    source = torch.zeros(num_bytes // 4, dtype=torch.int32, device=machine.device)
    if not zeros:
        source.random_(generator=machine.generator(1))
    target = torch.empty_like(source)
    return 2 * num_bytes / machine.time(lambda: target.copy_(source)).median


def product_rate(machine: Machine, size: int, zeros: bool) -> float:
    """FLOP/s of a square bf16 product."""
    generator = machine.generator(2)
    a, b = (
        machine.normal(size, size, dtype=torch.bfloat16, generator=generator) * (not zeros)
        for _ in range(2)
    )
    out = torch.empty_like(a)
    return 2 * size**3 / machine.time(lambda: torch.mm(a, b, out=out)).median


def measure(bench: Bench) -> None:
    """Both, on random data and on zeros; the random ones are the ceilings that count."""
    sizes = bench.sizes
    for zeros in (False, True):
        data = "zeros" if zeros else RANDOM
        copy, product = f"{sizes.copy_bytes} bytes, {data}", f"{sizes.product} cubed, {data}"
        bench.guard(COPY, copy, _measure_copy, bench, copy, zeros)
        bench.guard(PRODUCT, product, _measure_product, bench, product, zeros)


def _measure_copy(bench: Bench, shape: str, zeros: bool) -> None:
    rate = copy_rate(bench.machine, bench.sizes.copy_bytes, zeros)
    bench.rows.add(COPY, shape, rate / 1e9, "GB/s read + written")


def _measure_product(bench: Bench, shape: str, zeros: bool) -> None:
    rate = product_rate(bench.machine, bench.sizes.product, zeros)
    bench.rows.add(PRODUCT, shape, rate / 1e12, "TFLOP/s")


def _known(bench: Bench) -> Ceilings | None:
    """Ceilings of this run, from the file its earlier stage left, or from this stage's own rows."""
    place = bench.rows.place
    files = (bench.rows.path, bench.out / "ceilings.csv")
    found = {
        row["op"]: float(row["value"])
        for row in chain.from_iterable(map(read_rows, files))
        if RANDOM in row["shape"]
        and (row["device"], row["date"]) == (place.device, place.date)
        and row["value"][0].isdigit()
    }
    if not {COPY, PRODUCT} <= found.keys():
        return None
    return Ceilings(found[COPY] * 1e9, found[PRODUCT] * 1e12)


def ceilings_of(bench: Bench) -> Ceilings:
    """From the file of this run, or taken now where that stage was not run."""
    known = _known(bench)
    if known is not None:
        return known
    sizes: Sizes = bench.sizes
    taken = Ceilings(
        copy_rate(bench.machine, sizes.copy_bytes, False),
        product_rate(bench.machine, sizes.product, False),
    )
    bench.machine.tidy()
    shape = f"taken by this stage, {RANDOM}"
    bench.rows.add(COPY, shape, taken.bytes_per_s / 1e9, "GB/s read + written")
    bench.rows.add(PRODUCT, shape, taken.flops_per_s / 1e12, "TFLOP/s")
    return taken


SECTIONS: dict[str, Section] = {"ceilings": measure}
