"""Made-up pages of several kinds: outlines of real fonts, drawn in whole numbers from (seed, index) alone.

`fonts` reads outlines, `raster` turns them into pixels, `canvas` collects what is on a page, `effects` photographs it;
one file for each kind says what such a page looks like. `headmap.scoring.pages` makes the pages of the bundled model
in another way.
"""
