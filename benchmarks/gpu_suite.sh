#!/bin/sh
# Everything that only a GPU can tell, in one command:
#
#     benchmarks/gpu_suite.sh OUT [stage ...] [--seconds N] [--seed N] [--dry]
#
# Stages, in this order: correctness ceilings kernels engine peers sanitizer; all of them where
# none is named. One CSV file a stage in OUT, each row written as it comes. 9 minutes in all, or
# for the one stage that is named. A stage that fails never stops the next; the exit code says
# whether one did. Needs python3 (PYTHON=... for another) with torch, triton, numpy, transformers,
# safetensors and prometheus-client; nothing is installed. --dry runs tiny shapes on a CPU.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
export PYTHONPATH="$root/server:$root/kernels:$root/protos:$root${PYTHONPATH:+:$PYTHONPATH}"
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
# The interpreter of Triton is for a dry run.
case " $* " in *" --dry "*) ;; *) unset TRITON_INTERPRET ;; esac
exec "${PYTHON:-python3}" "$root/benchmarks/gpu" "$@"
