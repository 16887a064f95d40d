"""Arguments to commands. Each command imports what it needs, so that clients start fast."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

DEFAULT_TARGET = "127.0.0.1:50051"
TASKS = ("memorag", "memory_only", "retrieval_only", "summarize")
KINDS = ("span", "surrogate", "draft_answer", "key_point")
DEFAULT_DATA = Path("~/.local/share/memoserve")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    arguments = build_parser().parse_args(argv)
    from memoserve.errors import MemoserveError
    from memoserve_client import MemoserveError as ClientError

    try:
        code: int = arguments.run(arguments)
    except (MemoserveError, ClientError) as error:
        print(f"memoserve: {error}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        print(f"memoserve: {_missing(error)}", file=sys.stderr)
        return 1
    except (OSError, UnicodeDecodeError, ValueError) as error:
        print(f"memoserve: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return code


def _missing(error: ModuleNotFoundError) -> str:
    """The bare install is the client; the server's own commands need more."""
    return f"{error.name} is not installed; this command needs: pip install 'memoserve[server]'"


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        prog="memoserve", description="Compressed memories of long texts, over gRPC."
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_serve(commands)
    _add_demo(commands)
    _add_memorize(commands)
    _add_queries(commands)
    _add_catalog(commands)
    return parser


def _add_serve(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    p = commands.add_parser("serve", help="run a server")
    p.add_argument("--data-dir", type=Path, default=DEFAULT_DATA, help="where memories are kept")
    p.add_argument("--model", default=None, help="directory or Hub name (default: the tiny one)")
    p.add_argument("--device", default="cpu", help="where the model runs: cpu, cuda or cuda:N")
    p.add_argument(
        "--device-features",
        default="",
        help="on a GPU, not yet measured on one: graphs,pinned_uploads,async_copies",
    )
    p.add_argument(
        "--dtype",
        default="auto",
        help="float32, bfloat16, or auto: the checkpoint's on a CPU, bfloat16 on a GPU",
    )
    p.add_argument(
        "--memory-dtype",
        default="auto",
        help="int8 or fp8 keeps compressed rows in 8 bits; auto as the model computes them",
    )
    p.add_argument("--host", default="127.0.0.1", help="address to listen on")
    p.add_argument("--port", type=int, default=50051, help="0 takes a free one")
    p.add_argument("--insecure", action="store_true", help="allow other hosts without TLS")
    p.add_argument("--tls-cert", type=Path, default=None, help="PEM certificate chain")
    p.add_argument("--tls-key", type=Path, default=None, help="PEM key of the certificate")
    p.add_argument("--tls-client-ca", type=Path, default=None, help="clients must be signed by it")
    p.add_argument("--metrics-host", default="127.0.0.1", help="address of the metrics endpoint")
    p.add_argument("--metrics-port", type=int, default=None, help="Prometheus port, 0 a free one")
    p.add_argument(
        "--pool-mib",
        type=int,
        default=0,
        help="memory for KV pages, in MiB; 0: 1024 on a CPU, what a step leaves free on a GPU",
    )
    p.add_argument(
        "--page-size", type=int, default=0, help="rows of a KV page; 0: 16 on a CPU, 64 on a GPU"
    )
    p.add_argument("--ratio", type=int, default=4, help="ratio where nobody settles one")
    p.add_argument("--generator", default="quote", help="quote or memory-model")
    p.add_argument("--keep-versions", type=int, default=2, help="versions kept of each memory")
    p.add_argument("--threads", type=int, default=0, help="CPU threads of the model, 0 all")
    p.set_defaults(run=_serve)


def _serve(arguments: argparse.Namespace) -> int:
    from memoserve.cli.serve import serve
    from memoserve.config import EMBEDDED_MODEL, ServerConfig

    return serve(
        ServerConfig(
            data_dir=arguments.data_dir.expanduser(),
            model=arguments.model or str(EMBEDDED_MODEL),
            dtype=arguments.dtype,
            memory_dtype=arguments.memory_dtype,
            device=arguments.device,
            device_features=tuple(filter(None, arguments.device_features.split(","))),
            host=arguments.host,
            port=arguments.port,
            insecure=arguments.insecure,
            tls_cert=arguments.tls_cert,
            tls_key=arguments.tls_key,
            tls_client_ca=arguments.tls_client_ca,
            metrics_host=arguments.metrics_host,
            metrics_port=arguments.metrics_port,
            pool_bytes=arguments.pool_mib << 20,
            page_size=arguments.page_size,
            ratio=arguments.ratio,
            generator=arguments.generator,
            keep_versions=arguments.keep_versions,
            threads=arguments.threads,
        )
    )


def _add_demo(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    p = commands.add_parser("demo", help="memorize a text and ask it, on a server of its own")
    p.add_argument("--text", type=Path, default=None, help="a UTF-8 text (default: the sample)")
    p.add_argument("--question", default=None, help="what to ask")
    p.add_argument("--data-dir", type=Path, default=Path(".demo"), help="store of the demo")

    def run(arguments: argparse.Namespace) -> int:
        from memoserve.cli.demo import demo

        return demo(arguments.text, arguments.question, arguments.data_dir)

    p.set_defaults(run=run)


def _add_target(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--target", default=DEFAULT_TARGET, help="address of the server")
    parser.add_argument("--namespace", default="default", help="tenant of the memory")
    parser.add_argument("--insecure", action="store_true", help="no TLS, also to other hosts")
    parser.add_argument("--tls-ca", type=Path, default=None, help="PEM root of the server's TLS")
    parser.add_argument("--timeout", type=float, default=None, help="seconds the call may take")


def _add_memorize(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    p = commands.add_parser("memorize", help="write a text into a memory")
    _add_target(p)
    p.add_argument("memory", help="id of the memory")
    p.add_argument("files", nargs="*", default=["-"], help="UTF-8 files, - is standard input")
    p.add_argument("--replace", action="store_true", help="start from nothing")
    p.add_argument("--ratio", type=int, default=None, help="raw tokens for each beacon")
    p.add_argument("--request-id", default=None, help="makes a repeated call harmless")
    p.add_argument("--no-index", action="store_true", help="no passages for retrieval")
    p.add_argument("--allow-extrapolation", action="store_true", help="pass the capacity")
    p.add_argument("--quiet", action="store_true", help="no progress bar")

    def run(arguments: argparse.Namespace) -> int:
        from memoserve.cli.commands import memorize

        return memorize(arguments)

    p.set_defaults(run=run)


def _add_queries(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    for name, text in (
        ("recall", "ask memories for clues"),
        ("retrieve", "search the passages of memories"),
        ("generate", "answer a question from memories"),
    ):
        p = commands.add_parser(name, help=text)
        _add_target(p)
        p.add_argument("memory", help="id, or id@version; several with commas")
        # A summary, and key points, need no question.
        p.add_argument("query", nargs="?", default="", help="the question")
        if name != "recall":
            p.add_argument("--top-k", type=int, default=None, help="passages a query finds")
        if name == "generate":
            p.add_argument("--task", default="memorag", choices=TASKS, help="what to do")
            p.add_argument("--generator", default=None, help="who writes the answer")
            p.add_argument("--clues", action="store_true", default=None, help="retrieve with clues")
        if name == "recall":
            p.add_argument("--kind", action="append", choices=KINDS, help="which clues; repeatable")
        if name != "retrieve":
            p.add_argument("--max-tokens", type=int, default=None, help="tokens to write at most")
        p.set_defaults(run=_query(name))


def _query(name: str) -> object:
    def run(arguments: argparse.Namespace) -> int:
        from memoserve.cli import commands

        handler = {
            "recall": commands.recall,
            "retrieve": commands.retrieve,
            "generate": commands.generate,
        }[name]
        return handler(arguments)

    return run


def _add_catalog(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    for name, text in (
        ("list", "list memories"),
        ("show", "show one memory"),
        ("delete", "delete a memory"),
        ("info", "show what the server is"),
    ):
        p = commands.add_parser(name, help=text)
        _add_target(p)
        if name in ("show", "delete"):
            p.add_argument("memory", help="id of the memory")
        p.set_defaults(run=_catalog(name))


def _catalog(name: str) -> object:
    def run(arguments: argparse.Namespace) -> int:
        from memoserve.cli import commands

        handler = {
            "list": commands.list_memories,
            "show": commands.show,
            "delete": commands.delete,
            "info": commands.info,
        }[name]
        return handler(arguments)

    return run
