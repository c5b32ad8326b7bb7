"""What scores a prompt's tokens: the attention of those that observe, and how much a token differs from the others."""
