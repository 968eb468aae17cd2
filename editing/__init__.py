"""Change what a language model states as fact, and measure what else changed."""
