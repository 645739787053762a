"""``prunevid app``: a page where a video is asked about while settings move.

What to compute and what to draw are plain functions and one :class:`.studio.Studio`; Gradio is in
:mod:`.page` alone.
"""
