"""The command `jaxdiff app`."""

import importlib.util
import socket
from contextlib import closing, suppress
from pathlib import Path
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from jaxdiff.app import Limits
from jaxdiff.cli.common import tell
from jaxdiff.cli.pictures import Pictures, prepare
from jaxdiff.typing import InputError

NOT_OURS = ("labels", "seed", "batch", "classifier", "classifier_scale", "classifier_options")
"""Of `Pictures`: what each request says, or what the app cannot do."""


def app(
    pictures: Annotated[Pictures, tyro.conf.arg(name="")],
    *,
    limits: Annotated[Limits, tyro.conf.arg(name="")] = Limits(),  # noqa: B008  # frozen
    host: str = "127.0.0.1",
    port: int = 7860,
    name: str | None = None,
) -> None:
    """Serve a web page and an HTTP API of a network: make pictures and watch it, inpaint what you draw over, denoise
    what you upload. Needs the extra `app`.

    Args:
        pictures: With which network, and how, if a request does not say; as sample.py has them.
        limits: Of a request.
        host: At which address to listen; 0.0.0.0 lets other machines in, whoever they are.
        port: 0 takes a free one.
        name: That people see; default the run's.
    """
    if importlib.util.find_spec("gradio") is None:
        raise InputError("jaxdiff app needs gradio: pip install 'jaxdiff[app]'")
    for field in NOT_OURS:
        if getattr(pictures, field) != getattr(Pictures, field):
            said = "each request says its own" if field in ("labels", "seed", "batch") else "the app has none"
            raise InputError(f"--{field.replace('_', '-')}: {said}; leave it out")
    with closing(_listening(host, port)) as sock:
        made = prepare(pictures, 1)
        if made.latents:
            raise InputError("this network makes latents for an autoencoder, which are no pictures")
        step, params = made.load()
        from jaxdiff.app.model import Model, Settings
        from jaxdiff.app.server import server

        called = name or Path(pictures.run or pictures.pretrained or "").absolute().name
        # Of numpy, and so committed to no device: what a step returns would else be compiled for once more.
        here = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)), params)
        model = Model(called, made.config, made.spec, here, limits)
        for _ in model.sample(Settings()).frames():  # what is wrong shows now, and the first visitor need not wait
            pass
        serves = server(model)
        sock.listen()  # from now on clients are heard, though it may take a moment
        found, number = sock.getsockname()[:2]
        found = f"[{found}]" if ":" in found else found
        tell(f"{called}, {step}: http://{found}:{number} (the API: /openapi.json). Ctrl-C ends it.")
        with suppress(KeyboardInterrupt):  # uvicorn raises it again, when all is ended
            serves.run(sockets=[sock])


def _listening(host: str, port: int) -> socket.socket:
    if not 0 <= port < 2**16:
        raise InputError(f"--port {port}: expected 0 to 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
        except OSError:
            sock.close()
            raise
    except OSError as error:
        raise InputError(f"--host {host} --port {port}: cannot listen there ({error.strerror}); give another") from None
    return sock
