"""Doubles are put on the path by the tests that need them; they are no tests, and nothing else may import them."""

collect_ignore_glob = ["tensorrt_llm/*", "tensorrt_llm/*/*"]
