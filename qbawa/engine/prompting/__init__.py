"""What strategies and judges both write prompts with: the question that was asked, and templates that cannot do harm."""
