"""The command line against a server process: what it prints, and its exit codes."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from memoserve.cli.main import main
from tests.e2e.serving import Server, command, environment, serving

TEXT = "The iron bridge over the Lenne was built by Ada Brandt in 1871. " * 20
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("commands") / "store") as running:
        yield running


@pytest.fixture
def run(server: Server, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command; gives exit code, standard output and standard error."""

    def call(name: str, *arguments: str) -> tuple[int, str, str]:
        code = main([name, *arguments, "--target", server.address, "--timeout", "60"])
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "bridge.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def test_memorize_ask_and_delete(run: Run, text: Path) -> None:
    code, out, _ = run("memorize", "book", str(text), "--request-id", "r1", "--ratio", "8")
    assert code == 0
    assert out.startswith("default/book@1: ")
    code, out, _ = run("memorize", "book", str(text), "--request-id", "r1")
    assert (code, "committed before" in out) == (0, True)
    assert run("memorize", "book", str(text), "--replace", "--quiet")[:2][0] == 0

    code, out, _ = run("list")
    assert code == 0
    assert " ".join(out.splitlines()[0].split()) == "memory version raw tokens memory rows tier"
    assert any(line.split()[:2] == ["default/book", "2"] for line in out.splitlines())

    code, out, _ = run("show", "book")
    assert code == 0
    assert "default/book@2" in out
    assert f"{len(TEXT):,} bytes, 1 sources" in out

    code, out, _ = run("retrieve", "book", "Who built the bridge?", "--top-k", "1")
    assert code == 0
    assert "Ada Brandt" in out and " bridge.txt:" in out

    code, out, err = run("generate", "book", "Who built the bridge?")
    assert (code, err) == (0, "")
    assert out.startswith(TEXT.split(". ")[0])

    code, out, _ = run("generate", "book,book@1", "Who?", "--task", "retrieval_only")
    assert code == 1  # one memory, named twice

    code, out, _ = run("recall", "book", "--kind", "key_point", "--max-tokens", "8")
    assert code == 0

    code, out, _ = run(
        "generate", "book", "Who?", "--generator", "memory-model", "--max-tokens", "4"
    )
    assert (code, bool(out.strip())) == (0, True)

    assert run("delete", "book")[0] == 0
    code, out, err = run("show", "book")
    assert (code, out) == (1, "")
    assert "book" in err and "Traceback" not in err


def test_info(run: Run) -> None:
    code, out, _ = run("info")
    assert code == 0
    assert "tiny (qwen2, float32), window 256" in out


def test_a_text_by_standard_input(server: Server) -> None:
    done = subprocess.run(
        command("memorize", "piped", "-", "--target", server.address),
        input=TEXT.encode(),
        capture_output=True,
        timeout=120,
        env=environment(),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"default/piped@1: ")
    assert b"\r" not in done.stderr  # no bar where there is no terminal


@pytest.mark.parametrize(
    ("data", "said"), [(b"", "empty"), (b"caf\xe9", "UTF-8"), (b"a\0b", "NUL")], ids=str
)
def test_bad_text_fails_with_a_line(run: Run, tmp_path: Path, data: bytes, said: str) -> None:
    path = tmp_path / "bad.txt"
    path.write_bytes(data)
    code, out, err = run("memorize", "bad", str(path), "--quiet")
    assert (code, out) == (1, "")
    assert said in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("memorize", "book", "no-such-file.txt"),
        ("memorize", "..", "pyproject.toml"),
        ("retrieve", "nobody", "Who?"),
        ("recall", "nobody", "Who?"),
        ("generate", "nobody", "Who?"),
        ("generate", "nobody", ""),
        ("show", "nobody"),
        ("delete", "nobody"),
    ],
    ids=" ".join,
)
def test_what_cannot_be_done_ends_with_1_and_one_line(run: Run, arguments: tuple[str, ...]) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (1, "")
    assert err.startswith("memoserve: ")
    assert len(err.splitlines()) == 1


def test_a_server_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--target", "127.0.0.1:1", "--timeout", "5"]) == 1
    assert capsys.readouterr().err.startswith("memoserve: ")


def test_tls(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs the openssl command to make a certificate")
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        [
            *(openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    files = ("--tls-cert", str(certificate), "--tls-key", str(key))
    with serving(tmp_path / "store", *files) as secured:
        asked = ["info", "--target", secured.address, "--timeout", "30"]
        assert main([*asked, "--tls-ca", str(certificate)]) == 0
        assert "window" in capsys.readouterr().out
        assert main(["info", "--target", secured.address, "--timeout", "3"]) == 1
        assert capsys.readouterr().err.startswith("memoserve: ")


def test_a_data_directory_has_one_server(server: Server) -> None:
    second = subprocess.run(
        command("serve", "--port", "0", "--data-dir", str(server.data_dir)),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        env=environment(),
    )
    assert second.returncode == 1
    assert second.stderr.splitlines()[-1].startswith("memoserve: ")
    assert "Traceback" not in second.stderr
