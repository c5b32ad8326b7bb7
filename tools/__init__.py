"""What looks after the repository and is no part of the package."""
