"""Arguments, exit codes and what a server refuses to start with."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from memoserve.cli.assemble import assemble, load_named
from memoserve.cli.main import build_parser, main
from memoserve.cli.tables import table
from memoserve.config import EMBEDDED_MODEL, ServerConfig
from memoserve.errors import FailedPrecondition, InvalidArgument
from memoserve.pipeline.values import ClueKind, Task

# The package has a function of the same name.
main_module = importlib.import_module("memoserve.cli.main")


def options_of(name: str) -> dict[str, Any]:
    """What a command gets where nothing but its positionals is given."""
    positionals = {"memorize": ["m"], "recall": ["m"], "retrieve": ["m"], "generate": ["m"]}
    positionals |= {"show": ["m"], "delete": ["m"]}
    return vars(build_parser().parse_args([name, *positionals.get(name, [])]))


def test_defaults_are_those_of_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[ServerConfig] = []

    def note(config: ServerConfig) -> int:
        served.append(config)
        return 0

    from memoserve.cli import serve as serve_module

    monkeypatch.setattr(serve_module, "serve", note)
    assert main(["serve", "--data-dir", "/tmp/x"]) == 0
    assert served == [ServerConfig(Path("/tmp/x"))]
    changed = ["--ratio", "8", "--pool-mib", "2", "--page-size", "4", "--threads", "1"]
    changed += ["--keep-versions", "5", "--generator", "memory-model", "--metrics-port", "0"]
    changed += ["--device", "cuda:1", "--memory-dtype", "int8"]
    changed += ["--device-features", "graphs,async_copies"]
    changed += ["--tls-cert", "c.pem", "--tls-key", "k.pem", "--tls-client-ca", "ca.pem"]
    assert main(["serve", "--data-dir", "~/y", "--dtype", "bfloat16", *changed]) == 0
    assert served[1] == dataclasses.replace(
        served[0],
        data_dir=Path("~/y").expanduser(),
        dtype="bfloat16",
        device="cuda:1",
        memory_dtype="int8",
        device_features=("graphs", "async_copies"),
        ratio=8,
        pool_bytes=2 << 20,
        page_size=4,
        threads=1,
        keep_versions=5,
        generator="memory-model",
        metrics_port=0,
        tls_cert=Path("c.pem"),
        tls_key=Path("k.pem"),
        tls_client_ca=Path("ca.pem"),
    )


def test_choices_are_the_words_of_the_values() -> None:
    assert set(main_module.TASKS) == {task.value for task in Task}
    assert set(main_module.KINDS) == {kind.value for kind in ClueKind}


@pytest.mark.parametrize("name", ["memorize", "recall", "retrieve", "generate", "list", "show"])
def test_every_client_command_knows_its_server_and_a_timeout(name: str) -> None:
    options = options_of(name)
    assert options["target"] == main_module.DEFAULT_TARGET
    assert options["timeout"] is None
    assert options["namespace"] == "default"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["unknown"],
        ["memorize"],
        ["generate", "m", "q", "--task", "dream"],
        ["recall", "m", "q", "--kind", "dream"],
        ["serve", "--port", "x"],
        ["list", "--timeout", "soon"],
    ],
    ids=" ".join,
)
def test_wrong_usage_ends_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (InvalidArgument("ratio", "is odd"), 1, "memoserve: ratio: is odd\n"),
        (OSError(2, "No such file", "x.txt"), 1, "memoserve: [Errno 2] No such file: 'x.txt'\n"),
        (ValueError("no text"), 1, "memoserve: no text\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
    ids=repr,
)
def test_exit_codes(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    said: str,
) -> None:
    def fail(_: argparse.Namespace) -> int:
        raise error

    parser = argparse.ArgumentParser()
    parser.set_defaults(run=fail)
    monkeypatch.setattr(main_module, "build_parser", lambda: parser)
    assert main([]) == code
    assert capsys.readouterr().err == said


@pytest.mark.parametrize(
    ("option", "field"),
    [
        (["--model", "/no/such/model"], "model"),
        (["--dtype", "int8"], "dtype"),
        (["--memory-dtype", "int4"], "memory_dtype"),
        (["--device", "tpu"], "device"),
        (["--device-features", "graphs"], "device_features"),
        (["--device", "cuda", "--device-features", "speed"], "device_features"),
        (["--device", "cuda:x"], "device"),
        (["--device", "cuda:99"], "device"),
        (["--page-size", "-1"], "page_size"),
        (["--ratio", "-1"], "ratio"),
        (["--generator", "oracle"], "generator"),
        (["--host", "0.0.0.0"], "host"),
        (["--port", "70000"], "port"),
        (["--pool-mib", "-1"], "pool_bytes"),
        (["--keep-versions", "0"], "keep_versions"),
        (["--tls-cert", "c.pem"], "tls_key"),
        (["--tls-key", "k.pem"], "tls_key"),
        (["--tls-client-ca", "ca.pem"], "tls_client_ca"),
        (["--tls-cert", "/no/c.pem", "--tls-key", "/no/k.pem"], "tls.key"),
    ],
    ids=str,
)
def test_a_server_does_not_start_with_a_bad_option(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: list[str], field: str
) -> None:
    assert main(["serve", "--data-dir", str(tmp_path / "store"), "--port", "0", *option]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert line.startswith("memoserve: ")
    assert field in line


def test_a_device_that_is_not_there_is_told_before_anything_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = ServerConfig(tmp_path, model="nobody/no-such-model", device="cuda")
    with pytest.raises(FailedPrecondition) as caught:
        assemble(config)
    assert (caught.value.subject, caught.value.reason) == ("device", "NO_SUCH_DEVICE")
    assert main(["serve", "--data-dir", str(tmp_path / "s"), "--device", "cuda"]) == 1
    said = capsys.readouterr().err
    assert "memoserve: device: cuda: PyTorch" in said and "finds 0 CUDA devices" in said
    assert not (tmp_path / "s").exists()


def test_fp8_asks_for_a_newer_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 6))
    config = ServerConfig(tmp_path, device="cuda", memory_dtype="fp8")
    with pytest.raises(FailedPrecondition, match=r"8\.9 or later is needed, 8\.6 found"):
        assemble(config)


def test_a_pool_too_small_for_one_window_is_told_with_its_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "--data-dir", str(tmp_path / "s"), "--port", "0", "--pool-mib", "1"]) == 1
    said = capsys.readouterr().err
    assert "cannot hold one window" in said
    assert "pages of 16 rows are needed, it has 16" in said


def python(code: str) -> subprocess.CompletedProcess[str]:
    """Run code where the client, the stubs and the command line are found."""
    root = Path(__file__).resolve().parents[3]
    roots = [str(root / part) for part in ("server", "clients/python", "protos")]
    return subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {roots!r}; {code}"],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_clients_commands_load_no_model_code() -> None:
    done = python(
        "from memoserve.cli import commands, demo, main;"
        "heavy = {'torch', 'transformers', 'faiss'} & set(sys.modules); assert not heavy, heavy"
    )
    assert done.returncode == 0, done.stderr


# What `pip install memoserve` leaves out.
SERVER_ALONE = ("torch", "numpy", "transformers", "faiss", "prometheus_client", "tqdm")
FAR = ["--target", "127.0.0.1:1", "--timeout", "2"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["list", *FAR], "127.0.0.1:1"),
        (["memorize", "m", str(Path(__file__)), *FAR], "127.0.0.1:1"),
        (["generate", "m", "q", *FAR], "127.0.0.1:1"),
        (["serve", "--port", "0"], "pip install 'memoserve[server]'"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_the_bare_install_has_the_clients_commands(arguments: list[str], said: str) -> None:
    blocked = f"sys.modules.update(dict.fromkeys({SERVER_ALONE!r}));"
    done = python(f"{blocked} from memoserve.cli import main; sys.exit(main({arguments!r}))")
    assert (done.returncode, "Traceback" in done.stderr) == (1, False), done.stderr
    assert said in done.stderr


@pytest.mark.parametrize("asked", ["owner/some-model", "here", "./here", "{tmp}/here"])
def test_a_model_is_called_by_the_name_it_was_asked_for(
    asked: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Hub name stays; of a directory it is the last part, not a snapshot's hash."""
    monkeypatch.chdir(tmp_path)
    model = asked.format(tmp=tmp_path)
    local = model.endswith("here")
    directory = tmp_path / ("here" if local else "0a1b2c")
    shutil.copytree(EMBEDDED_MODEL, directory)
    named = load_named(ServerConfig(tmp_path, model=model), directory)
    assert named.name == ("here" if local else "owner/some-model")


def test_tables_are_as_wide_as_their_cells() -> None:
    assert table(("a", "long head"), [("cell", "x"), ("b", "")]) == ("a     long head\ncell  x\nb")
    assert table((), [("a", "b")]) == "a  b"
    assert table((), []) == ""
