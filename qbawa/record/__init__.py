"""The recorder that runs inside other people's applications. Standard library only; docs/recording.md is its manual.

api           configure, request, feedback, flush, stats      redact         rows without secrets
decorator     @qbawa.step                                     line_format    the journal's lines
context       what is running: requests, steps, model calls   recorder       sampling, what is open
threads       steps carried into threads                      writer         the queue and the writer thread
llm_call      model calls, by hand                            integrations/  model calls of a client, one file each
snapshot      values as JSON, by rule                         instrument     whichever clients an application has
exceptions    exceptions as data                              exchange       what one call sent and heard
listening     replies, noted as they are read                 streams        streams as the one reply that they are
"""
