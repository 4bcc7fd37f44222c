"""Threads in which the service uses database and photos, so that its event loop never waits."""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as DatabaseTimeoutError

from mondrian.serving.http.uploads import QUICK_DECODERS, UploadStore
from mondrian.storage.engine import LOCK_SECONDS, format_database_error

Result = TypeVar("Result")
log = logging.getLogger("mondrian.work")
IDLE_POLL_INTERVAL = 1.0  # seconds between two looks at the queue, unless something is queued
_READS = 4  # reads and pages at a time: more would delay the event loop (GIL)
_WRITES = 8  # changes for clients at a time


class ServiceThreads:
    """Threads for each kind of call, so that none waits for another kind."""

    def __init__(self, uploads: UploadStore) -> None:
        self.uploads = uploads
        self._read_threads = ThreadPoolExecutor(_READS, thread_name_prefix="reads")
        self._write_threads = ThreadPoolExecutor(_WRITES, thread_name_prefix="writes")
        self._write_slots = asyncio.Semaphore(_WRITES)
        self._job_threads = ThreadPoolExecutor(4, thread_name_prefix="jobs")
        self._image_threads = ThreadPoolExecutor(4, thread_name_prefix="photos")
        self._decoding_threads = ThreadPoolExecutor(QUICK_DECODERS, thread_name_prefix="decoding")
        self._slow_decoding_thread = ThreadPoolExecutor(1, thread_name_prefix="large photo")

    async def call_store(self, call: Callable[..., Result], *args: Any, **values: Any) -> Result:
        """Call what reads the database or renders a page, in a thread that no writer uses."""
        return await _run_in(self._read_threads, call, *args, **values)

    async def write_store(self, call: Callable[..., Result], *args: Any, **values: Any) -> Result:
        """Call what changes the database for a client, in a thread.

        Raises SQLAlchemyError after LOCK_SECONDS of waiting for other writers here, or after as
        many for a lock of another program.
        """
        try:
            async with asyncio.timeout(LOCK_SECONDS):
                await self._write_slots.acquire()
        except TimeoutError:
            raise DatabaseTimeoutError("it is locked; other changes wait for it") from None
        try:
            return await _run_in(self._write_threads, call, *args, **values)
        finally:
            self._write_slots.release()

    async def call_upload_store(self, call: Callable[..., Result], *args: Any) -> Result:
        """Call a method of the upload store that does not decode uploads."""
        return await _run_in(self._image_threads, call, *args)

    async def decode_upload(
        self, call: Callable[..., Result], photo: bytes | str, *args: Any
    ) -> Result:
        """Call a method of the upload store that decodes; large photos wait for each other only."""
        is_slow = await _run_in(self._decoding_threads, self.uploads.is_slow, photo)
        threads = self._slow_decoding_thread if is_slow else self._decoding_threads
        return await _run_in(threads, call, photo, *args, is_slow=is_slow)

    async def retry_until_stored(
        self, call: Callable[..., Result], *args: Any, **values: Any
    ) -> Result:
        """Store the outcome of a job, however long the database is unavailable.

        If the lease is lost meanwhile, the job was stopped or runs elsewhere; nothing is written.
        """
        delay = 0.5
        while True:
            try:
                return await _run_in(self._job_threads, call, *args, **values)
            except (OperationalError, InterfaceError) as error:
                log.error("database: %s; retry in %.1f s", format_database_error(error), delay)
                await asyncio.sleep(delay)
                delay = min(10.0, 2 * delay)

    async def try_store_call(self, call: Callable[..., Any], *args: Any) -> Any:
        """Call the job store; return None if it fails, as the caller will try again later."""
        try:
            return await _run_in(self._job_threads, call, *args)
        except SQLAlchemyError as error:
            log.error("database: %s", format_database_error(error))
            await asyncio.sleep(IDLE_POLL_INTERVAL)
            return None

    def end_decoding(self) -> None:
        """End all decoders, and forget the photos that wait for them."""
        for threads in (self._decoding_threads, self._slow_decoding_thread):
            threads.shutdown(wait=False, cancel_futures=True)
        self.uploads.close()


async def _run_in(
    threads: ThreadPoolExecutor, call: Callable[..., Result], *args: Any, **values: Any
) -> Result:
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(threads, partial(call, *args, **values))
