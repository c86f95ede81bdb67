"""A local mail catcher: whatever is sent to it lands in a Maildir, and nothing leaves this machine.

`python -m project.local.mailbox PORT FOLDER [ADDRESS]`. A message is confirmed to its sender after the Maildir holds it
on disk. Any mail reader opens the folder: `mutt -f .esteira/mail`.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

from aiosmtpd.handlers import Mailbox
from aiosmtpd.smtp import SMTP

LARGEST_MESSAGE = 150 * 1024**2  # a 100 MiB file grows by a third on its way through e-mail


async def serve(port: int, folder: str, address: str = "127.0.0.1") -> None:
    """Take mail until SIGTERM or SIGINT."""
    asked_to_stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked_to_stop.set)
    # A Maildir makes its folders only together with one that is not there yet; a mounted one is there.
    for part in ("tmp", "new", "cur"):
        (Path(folder) / part).mkdir(parents=True, exist_ok=True)
    handler = Mailbox(Path(folder))

    def session() -> SMTP:
        return SMTP(handler, hostname="localhost", data_size_limit=LARGEST_MESSAGE, enable_SMTPUTF8=True)

    server = await loop.create_server(session, address, port)
    await asked_to_stop.wait()
    server.close()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), *sys.argv[2:]))
