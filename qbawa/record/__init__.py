"""The recorder that runs inside other people's applications. Standard library only; docs/recording.md is its manual.

context    what is running: requests, steps, model calls      decorator      @qbawa.step
snapshot   values as JSON, by rule                            session        configure, request, feedback, flush, stats
failure    exceptions as data                                 threads        steps carried into threads
redact     rows without secrets                               calls          llm_call
rows       the line format                                    litellm_calls  record_litellm
recorder   sampling, what is open                             openai_calls   wrap_openai
writer     the queue and the writer thread
"""
