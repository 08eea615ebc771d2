"""Words of broken machines and words of refusals, told apart."""

from __future__ import annotations

import pytest

from evalkit.adapters.base import is_machine_failure

BROKEN = (
    # vLLM: exceptions and log lines that its servers hand on, issues 11366, 12233, 17276, 42362
    "EngineCore encountered an issue. See stack trace (above) for the root cause.",
    "EngineCore encountered an issue during generation after ~300s",
    "Engine process (pid 77) died.",
    "MQLLMEngine is already dead, terminating server process",
    "Engine loop is not running. Inspect the stacktrace to find the original error",
    "Background loop has errored already.",
    "Background loop is stopped.",
    # TensorRT-LLM: executor/proxy.py, py_executor.py, issues 448, 3653, 10663
    "Executor worker returned error",
    "Executor worker died during initialization",
    "Error in event loop: CUDA out of memory. Tried to allocate 2.00 GiB",
    "LLM is shutting down",
    "[TensorRT-LLM][ERROR] CUDA runtime error in cudaStreamSynchronize(stream)",
    "MPI_ABORT was invoked on rank 0 in communicator MPI_COMM_WORLD",
    # SGLang: scheduler.py and http_server.py, issues 4673, 8336
    "Scheduler hit an exception: Traceback (most recent call last)",
    # llama.cpp: server and ggml-cuda.cu, issues 10739, 24310
    "Compute error.",
    "ggml_cuda error: unspecified launch failure",
    # torch, NCCL, cuBLAS, the system
    "CUDA error: an illegal memory access was encountered",
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB",
    "Watchdog caught collective operation timeout: WorkNCCL(SeqNum=1, OpType=ALLREDUCE)",
    "ncclUnhandledCudaError: Call to CUDA function failed.",
    "CUBLAS_STATUS_EXECUTION_FAILED when calling cublasGemmEx",
    "Ray actor died unexpectedly before finishing this task",
    "The decoder worker died with SIGKILL",
    "The server is shutting down",
)

REFUSED = (
    "temperature is not supported by the executor",
    "CUDA graphs do not support logprobs",
    "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens",
    "Prompt length (9000) exceeds maximum input length (8191)",
    "The sum of prompt length (9000) should not exceed max_num_tokens (8192)",
    "The response was filtered due to the prompt triggering Azure OpenAI's content management policy",
    "logprobs is not supported when the server runs in chat mode",
    "max_tokens must be at least 1, got 0.",
    "prompt_logprobs are not available with prefix caching",
    "guided decoding backend xgrammar failed to compile the schema",
    "request refused by the executor",
    "the kv cache of this device holds 4096 tokens, the prompt has 5000",
    "I cannot help with that request.",
)


@pytest.mark.parametrize("words", BROKEN)
def test_words_about_the_machine_are_no_refusal(words):
    assert is_machine_failure(words)
    assert is_machine_failure(f"HTTP 400: {words.upper()}")


@pytest.mark.parametrize("words", REFUSED)
def test_a_refusal_stays_a_refusal(words):
    assert not is_machine_failure(words)


@pytest.mark.parametrize("words", BROKEN)
def test_a_refusal_that_repeats_the_question_says_nothing_about_the_machine(words):
    question = f"A log says: {words} What happened?"
    refusal = f"refused by policy: the input {question!r} is not allowed"
    assert not is_machine_failure(refusal, asked=question)
    assert is_machine_failure(f"{refusal}; CUDA error: misaligned address", asked=question)
