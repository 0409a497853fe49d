"""A server in a thread of the tests."""

import contextlib
import threading
import time


@contextlib.contextmanager
def running(app):
    """The application on a port of its own; gives its address."""
    import uvicorn

    process = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=process.run, daemon=True)
    thread.start()
    while not process.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{process.servers[0].sockets[0].getsockname()[1]}"
    finally:
        process.should_exit = True
        thread.join()
