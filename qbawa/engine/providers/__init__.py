"""Ways to reach a model: OpenAI-compatible servers over HTTP, whatever litellm knows, and the offline models."""
