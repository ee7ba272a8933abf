"""What model APIs say, in one canonical form: chat completions' messages, parameters and answers (docs/recording.md)."""
