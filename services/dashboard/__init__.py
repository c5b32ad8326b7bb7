"""The dashboard: pages for a browser, and a relay that carries their calls to the REST APIs. No database, no torch.

`pages.py` serves pages/ in one frame, and the files of static/. `relay.py` hands calls on, with the key of the session
(`sessions.py`). `status.py` asks every replica for its status. `samples.py` draws pages to try.
"""
