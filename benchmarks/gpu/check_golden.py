"""Stage ``correctness``: every golden case through the whole engine on the device."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

import torch

from benchmarks.gpu.bench import Bench, Section
from benchmarks.gpu.rows import FAILED
from memoserve.engine.build import EngineOptions, build_engine
from memoserve.engine.device import DeviceOptions
from memoserve.engine.sequence import Logits
from memoserve.metrics import Metrics
from memoserve.models.loader import LoadedModel
from tests.server.fixtures import Driver, make_model
from tests.server.golden import Case, golden_paths


@dataclass(frozen=True)
class Way:
    """How a case is run. ``chunk`` 0 takes whole windows."""

    chunk: int = 0
    page_size: int = 64
    features: DeviceOptions = field(default_factory=DeviceOptions)

    @property
    def label(self) -> str:
        """As rows name it."""
        on = [name for name, value in asdict(self.features).items() if value]
        with_features = f" with {', '.join(on)}" if on else ""
        return f"chunk={self.chunk or 'window'} page={self.page_size}{with_features}"


# Whole windows in the page size of a GPU, chunks that divide nothing in odd pages; and with each
# feature that is off by default.
WAYS = (
    Way(),
    Way(chunk=7, page_size=3),
    Way(features=DeviceOptions(graphs=True)),
    Way(features=DeviceOptions(pinned_uploads=True)),
    Way(features=DeviceOptions(async_copies=True)),
)
DRY_WAYS = (Way(), Way(features=DeviceOptions(graphs=True, async_copies=True)))


def _driver(bench: Bench, case: Case, way: Way) -> Driver:
    """An engine on the device with the case's weights, room for three full caches."""
    device = bench.machine.device
    weights = {name: tensor.to(device) for name, tensor in case.weights.items()}
    model: LoadedModel = make_model(case.config, weights)
    query = max((len(q["ids"]) + len(q["generated"]) for q in case.queries), default=0)
    rows = 2 * (len(case.context) + query) + 4 * case.rules.window
    options = EngineOptions(
        page_size=way.page_size,
        num_pages=3 * (-(-rows // way.page_size) + 2),
        chunk_tokens=way.chunk,
        step_tokens=3 * max(case.rules.window, way.chunk),
        target_s=0.0,
        device=str(device),
        features=way.features,
    )
    return Driver(build_engine(model, options, Metrics()))


def run_case(bench: Bench, case: Case, way: Way) -> float:
    """Memorize, then every query; raises AssertionError where a number is off its tolerance.

    Returns the largest absolute error of all logits.
    """
    driver = _driver(bench, case, way)
    worst = 0.0

    def compare(found: torch.Tensor, key: str) -> None:
        nonlocal worst
        wanted = case.golden(f"{key}.logits")
        found = found.cpu().reshape(wanted.shape)
        worst = max(worst, float((found - wanted).abs().max()))
        case.assert_close(found, wanted, f"{key} logits")

    memorized = driver.compress(case.context, None, case.schedule)
    memory = case.assert_memorized(driver, memorized)
    compare(memorized.logits, "memorize")
    for number in range(len(case.queries)):
        answered = case.ask(driver, memory, number)
        compare(answered.logits, f"query{number}")
        case.assert_answered(driver, answered, number)
        served = case.ask(driver, memory, number, Logits.LAST)
        case.assert_answered(driver, served, number)
    case.assert_memory(driver, memory, "memory")
    return worst


def golden(bench: Bench) -> None:
    """A row a case and split; cases that show a bug of the reference are no numbers to match."""
    torch.backends.cuda.matmul.allow_tf32 = False  # the cases are float32
    cases = [case for case in map(Case, golden_paths()) if case.quirk is None]
    if bench.machine.dry:
        cases = cases[:1]
    for way in DRY_WAYS if bench.machine.dry else WAYS:
        for case in cases:
            shape = f"{case.path.stem} {way.label}"
            bench.guard("golden case", shape, _check, bench, shape, case, way)


def _check(bench: Bench, shape: str, case: Case, way: Way) -> None:
    try:
        worst = run_case(bench, case, way)
    except AssertionError as error:
        bench.rows.add("golden case", shape, FAILED, "", f"FAIL; {error}")
        return
    note = f"pass; logits, memories, counters and tokens within {case.facts['tolerance']}"
    bench.rows.add("golden case", shape, worst, "max abs error of logits", note)


SECTIONS: dict[str, Section] = {"golden cases": golden}
