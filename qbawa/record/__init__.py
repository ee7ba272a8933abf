"""The recorder that runs inside other people's applications. Standard library only; docs/recording.md is its manual.

api           configure, request, feedback, flush, stats      redact         rows without secrets
decorator     @qbawa.step                                     line_format    the journal's lines
context       what is running: requests, steps, model calls   recorder       sampling, what is open
threads       steps carried into threads                      writer         the queue and the writer thread
llm_call      model calls, by hand                            integrations/  model calls of a client, one file each
snapshot      values as JSON, by rule
exceptions    exceptions as data
"""
