"""The web app of a network, with Gradio (extra `app`): pictures, inpainting and denoising, in a page and over HTTP.

`jaxdiff app` is its command line; `app.server.application(Model(...))` an ASGI application. A job is checked before it
waits, waits in one bounded line, and is worked off one step of the sampler a call (`stepwise`), so that it is watched,
any number of steps compiles nothing, and who goes away stops it.
"""

from jaxdiff.app.limits import Limits

__all__ = ["Limits"]
