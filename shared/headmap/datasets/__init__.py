"""Pages to profile on, by the dataset's name: made-up ones, a public set, a user's own. `sources` opens them all.

Nothing here imports torch.
"""
