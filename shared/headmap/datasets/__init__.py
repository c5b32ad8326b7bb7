"""Pages to profile on, by dataset name: generated pages, a public set, or uploads. `sources` opens them all.

Nothing here imports torch.
"""
