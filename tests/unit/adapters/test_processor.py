"""What is said of the processor, against the files of real machines and against oneDNN's own word."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from evalkit.adapters.processor import instructions, processor

INTEL = """processor\t: 0
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 143
model name\t: Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz
stepping\t: 8
flags\t\t: fpu sse sse2 ssse3 fma sse4_1 sse4_2 avx f16c avx2 avx512f avx512dq avx512cd avx512bw avx512vl avx512vbmi \
avx_vnni avx512_bf16 avx512_vnni avx512_fp16 amx_bf16 amx_tile amx_int8

processor\t: 1
model name\t: another one
"""
ARM = """processor\t: 0
BogoMIPS\t: 2100.00
Features\t: fp asimd evtstrm aes sha1 sve asimdfhm i8mm bf16
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x1
CPU part\t: 0xd40
"""


@pytest.fixture
def machine(tmp_path):
    def read(text, **environ):
        (tmp_path / "cpuinfo").write_text(text)
        return processor(cpuinfo=tmp_path / "cpuinfo", environ=environ)

    return read


def test_an_intel_machine_with_amx(machine):
    assert machine(INTEL) == {
        "name": "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz",
        "vendor": "GenuineIntel",
        "model": "family 6 model 143",
        "instructions": "avx512_core_amx",
        "settings": {},
    }


@pytest.mark.parametrize(
    ("limit", "level"),
    [
        ("AVX512_CORE_AMX", "avx512_core_amx"),
        ("avx512_core", "avx512_core"),
        ("AVX2", "avx2"),
        ("SSE41", "sse41"),
        ("DEFAULT", "avx512_core_amx"),
        ("AVX512_CORE_AMX_FP16", "avx512_core_amx"),
    ],
)
def test_a_limit_lowers_the_level_and_is_told(machine, limit, level):
    found = machine(INTEL, DNNL_MAX_CPU_ISA=limit, PATH="/bin")
    assert (found["instructions"], found["settings"]) == (level, {"DNNL_MAX_CPU_ISA": limit})


def test_an_arm_machine(machine):
    found = machine(ARM)
    assert (found["vendor"], found["model"]) == ("0x41", "part 0xd40 variant 0x1")
    assert found["instructions"] == "asimd bf16 i8mm sve"


def test_a_machine_without_such_a_file(tmp_path):
    found = processor(cpuinfo=tmp_path / "none", environ={}, torch_capability="AVX2")
    assert (found["vendor"], found["model"], found["torch"]) == ("unknown", "unknown", "AVX2")
    assert found["name"]


_SAID = """
import torch
with torch.inference_mode():
    torch.nn.functional.conv2d(torch.randn(8, 64, 32, 32), torch.randn(64, 64, 3, 3))
"""
_WORDS = {"AVX-512": "avx512", "AVX2": "avx2", "SSE4.1": "sse41", "AMX": "amx", "AVX10": "avx10"}


@pytest.mark.system
@pytest.mark.parametrize("limit", ["", "AVX2", "SSE41"])
def test_onednn_says_the_same_of_this_machine(limit):
    """Outside word: oneDNN reports the instruction set that it uses when it is told to be verbose."""
    pytest.importorskip("torch")
    environ = {**os.environ, "ONEDNN_VERBOSE": "1", "ONEDNN_MAX_CPU_ISA": limit}
    out = subprocess.run([sys.executable, "-c", _SAID], env=environ, capture_output=True, text=True, check=True).stdout
    lines = [line.partition("isa:")[2] for line in out.splitlines() if ",cpu,isa:" in line]
    if not lines:
        pytest.skip("torch comes without oneDNN here")
    found = processor(environ={"ONEDNN_MAX_CPU_ISA": limit})["instructions"]
    assert {ours for theirs, ours in _WORDS.items() if theirs in lines[0]} == {
        ours for ours in _WORDS.values() if ours in found
    }, f"oneDNN says {lines[0]!r}, we say {found!r}"


def test_flags_that_are_not_all_there_make_no_level():
    assert instructions("sse4_1 avx avx2 avx512f avx512bw amx_tile") == "avx2"
    assert instructions("") == "unknown"
